"""Saving a sequence's state, framing it and putting it back: one contract for every engine."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import numpy as np
import pytest

from erllama.backend.base import Begin, Draw, Engine, Row, StateCapabilities
from erllama.errors import DecodeFailed
from tests.contracts.rig import GREEDY, PROMPT, RANDOM, Rig, slice_of

CUT = 128
"""A multiple of the granule inside PROMPT."""


def states(engine: Engine) -> StateCapabilities:
    state = engine.capabilities.state
    assert state is not None
    return state


async def hold(rig: Rig, engine: Engine, tokens: list[int], *, seq: int = 0) -> None:
    """Compute a prompt, cut at CUT."""
    await rig.step(engine, begin=(Begin(seq, GREEDY),))
    for start, stop in ((0, CUT), (CUT, len(tokens))):
        part = slice_of(tokens[start:stop], seq=seq, pos=start)
        if part.tokens:
            await rig.step(engine, prefill=part)


async def copy(
    rig: Rig, source: Engine, target: Engine, n: int, *, seq: int = 0, to: int = 0, cuts: Any = ()
) -> None:
    """Take the whole state of a sequence of `n` tokens out, in pieces, and put it elsewhere."""
    ends = [0, *cuts, n]
    ranges = list(itertools.pairwise(ends)) if states(source).layers else []
    saved = await rig.on_lane(lambda: source.save(seq, ranges, snapshot=states(source).snapshot))
    frame = target.frame(to, n)
    for (start, stop), rows in zip(ranges, saved.rows, strict=True):
        assert np.frombuffer(rows, np.uint8).size == (stop - start) * states(source).token_bytes
        frame.put_rows(start, rows, stop - start, stop - start)
    if saved.snapshot is not None and states(source).snapshot:
        frame.put_snapshot(saved.snapshot)
    await rig.on_lane(lambda: target.restore(to, frame))


async def after(rig: Rig, engine: Engine, tokens: list[int], pos: int, *, seq: int = 0) -> Any:
    """Go on with a sequence from `pos`: the logits at the prompt's end and six more tokens."""
    outcome = await rig.step(
        engine,
        begin=(Begin(seq, GREEDY, keep=pos),),
        prefill=slice_of(tokens[pos:], seq=seq, pos=pos),
        draws=(Draw(seq, 0),),
        keep_logits=True,
    )
    assert outcome.status == "done", outcome.detail
    first = outcome.sampled[0].token
    rest = await rig.go_on(engine, first, len(tokens), 6, seq=seq)
    return bytes(outcome.logits[seq]), [first, *rest]


async def test_a_state_put_back_goes_on_bit_for_bit(rig: Rig) -> None:
    engine = await rig.load()
    await hold(rig, engine, PROMPT[:CUT])
    expected = await after(rig, engine, PROMPT, CUT)
    await hold(rig, engine, PROMPT[:CUT])
    for cuts, to in (((), 3), ((1, 64, 100), 1), ((5,), 0)):
        await copy(rig, engine, engine, CUT, to=to, cuts=cuts)
        if to == 0:
            continue
        assert await after(rig, engine, PROMPT, CUT, seq=to) == expected
    assert await after(rig, engine, PROMPT, CUT) == expected


@pytest.mark.parametrize(
    "shape",
    [
        {"n_seq_max": 1, "n_ctx": 512},
        {"n_seq_max": 2, "n_batch": 64},
        {"n_seq_max": 4, "n_ctx": 1_024, "n_ubatch": 128},
    ],
    ids=str,
)
async def test_a_state_serves_a_context_of_another_shape(rig: Rig, shape: dict[str, Any]) -> None:
    engine, other = await rig.load(), await rig.load(**shape)
    await hold(rig, engine, PROMPT[:CUT], seq=3)
    expected = await after(rig, engine, PROMPT, CUT, seq=3)
    await hold(rig, engine, PROMPT[:CUT], seq=3)
    to = other.capabilities.n_seq_max - 1
    await copy(rig, engine, other, CUT, seq=3, to=to)
    assert await after(rig, other, PROMPT, CUT, seq=to) == expected


async def test_saving_changes_nothing_and_sees_the_state_as_it_is(rig: Rig) -> None:
    engine = await rig.load()
    expected = await rig.generate(engine, PROMPT, 12)
    first = await rig.prefill(engine, PROMPT)
    tokens = [first.token]
    for pos in range(len(PROMPT), len(PROMPT) + 11):
        held = pos
        ranges = [(0, held), (held - 1, held)] if states(engine).layers else []
        await rig.on_lane(partial(engine.save, 0, ranges, snapshot=states(engine).snapshot))
        tokens += await rig.go_on(engine, tokens[-1], pos, 1)
    assert tokens == expected


async def test_rows_of_a_range_are_a_part_of_the_rows_of_the_whole(rig: Rig) -> None:
    engine = await rig.load()
    await hold(rig, engine, PROMPT)
    layers = states(engine).layers
    if not layers:
        saved = await rig.on_lane(lambda: engine.save(0, [], snapshot=True))
        assert saved.rows == ()
        return
    n = len(PROMPT)
    saved = await rig.on_lane(lambda: engine.save(0, [(0, n), (40, 90)], snapshot=False))
    whole, part = (np.frombuffer(rows, np.uint8) for rows in saved.rows)
    at = to = 0
    for width in [layer.k_bytes for layer in layers] + [layer.v_bytes for layer in layers]:
        assert np.array_equal(whole[at + 40 * width : at + 90 * width], part[to : to + 50 * width])
        at, to = at + n * width, to + 50 * width


async def test_segments_are_places_in_the_frame_or_none(rig: Rig) -> None:
    engine = await rig.load()
    if not states(engine).layers:
        return
    await hold(rig, engine, PROMPT[:CUT])
    expected = await after(rig, engine, PROMPT, CUT)
    await hold(rig, engine, PROMPT[:CUT])
    saved = await rig.on_lane(lambda: engine.save(0, [(0, CUT)], snapshot=states(engine).snapshot))
    frame = engine.frame(1, CUT)
    segments = frame.segments(0, CUT)
    assert segments is not None
    rows, at = memoryview(saved.rows[0]).cast("B"), 0  # type: ignore[arg-type]
    for segment in segments:
        segment[:] = rows[at : at + len(segment)]
        at += len(segment)
    assert at == len(rows)
    if saved.snapshot is not None and states(engine).snapshot:
        frame.put_snapshot(saved.snapshot)
    await rig.on_lane(lambda: engine.restore(1, frame))
    assert await after(rig, engine, PROMPT, CUT, seq=1) == expected


@pytest.mark.parametrize("sampler", [GREEDY, RANDOM], ids=["greedy", "random"])
async def test_a_token_drawn_from_kept_logits_is_the_one_drawn_when_they_were_made(
    rig: Rig, sampler: Any
) -> None:
    engine = await rig.load()
    for seed in range(20):
        made = await rig.step(
            engine,
            begin=(Begin(0, sampler),),
            prefill=slice_of(PROMPT[: 20 + seed]),
            draws=(Draw(0, seed),),
            keep_logits=True,
        )
        (logits,) = made.logits.values()
        assert memoryview(logits).nbytes == 4 * engine.info.n_vocab  # type: ignore[arg-type]
        drawn = await rig.step(
            engine, begin=(Begin(1, sampler),), draws=(Draw(1, seed, bytes(logits)),)
        )
        assert drawn.sampled[0].token == made.sampled[0].token
        assert drawn.sampled[0].piece == made.sampled[0].piece


async def test_logits_are_given_out_when_asked_for_only(rig: Rig) -> None:
    engine = await rig.load()
    for keep, logits in ((False, True), (True, False)):
        outcome = await rig.step(
            engine,
            begin=(Begin(0, GREEDY),),
            prefill=slice_of(PROMPT, logits=logits),
            keep_logits=keep,
        )
        assert outcome.logits == {}


async def test_begin_keeps_a_state_only_when_told_to(rig: Rig) -> None:
    engine = await rig.load()
    await hold(rig, engine, PROMPT)
    kept = await rig.step(engine, begin=(Begin(0, GREEDY, keep=len(PROMPT)),))
    assert kept.positions == {0: len(PROMPT)}
    emptied = await rig.step(engine, begin=(Begin(0, GREEDY),))
    assert emptied.positions == {0: 0}


BAD_RANGES = [[(0, 129)], [(5, 5)], [(7, 3)], [(-1, 4)], [(0, 4), (128, 129)]]


@pytest.mark.parametrize("ranges", BAD_RANGES, ids=str)
async def test_a_range_that_a_sequence_does_not_hold_is_refused(
    rig: Rig, ranges: list[tuple[int, int]]
) -> None:
    engine = await rig.load()
    await hold(rig, engine, PROMPT[:CUT])
    with pytest.raises(DecodeFailed):
        await rig.on_lane(lambda: engine.save(0, ranges, snapshot=False))


@pytest.mark.parametrize("seq", [-1, 4, 2**31])
async def test_a_sequence_out_of_range_is_refused(rig: Rig, seq: int) -> None:
    engine = await rig.load()
    with pytest.raises(DecodeFailed):
        engine.frame(seq, 10)
    with pytest.raises(DecodeFailed):
        await rig.on_lane(lambda: engine.save(seq, [], snapshot=False))
    frame = engine.frame(0, 10)
    with pytest.raises(DecodeFailed):
        await rig.on_lane(lambda: engine.restore(seq, frame))


async def test_a_frame_that_is_too_long_or_of_another_kind_is_refused(rig: Rig) -> None:
    engine = await rig.load()
    await hold(rig, engine, PROMPT[:CUT])
    foreign: Any = object()
    for frame in (engine.frame(0, 257), foreign):
        with pytest.raises(DecodeFailed):
            await rig.on_lane(partial(engine.restore, 0, frame))
    outcome = await rig.step(engine, begin=(Begin(1, GREEDY),), rows=(Row(1, 0, 5),))
    assert outcome.status == "done"


@pytest.mark.parametrize("change", [-4, 4])
async def test_given_logits_of_another_size_are_refused(rig: Rig, change: int) -> None:
    engine = await rig.load()
    logits = bytes(4 * engine.info.n_vocab + change)
    with pytest.raises(DecodeFailed, match="logits"):
        await rig.step(engine, begin=(Begin(0, GREEDY),), draws=(Draw(0, 1, logits),))


async def test_logits_that_are_no_numbers_fail_their_sequence_alone(rig: Rig) -> None:
    engine = await rig.load()
    expected = await rig.prefill(engine, PROMPT)
    logits = np.full(engine.info.n_vocab, np.nan, np.float32).tobytes()
    outcome = await rig.step(
        engine,
        begin=(Begin(0, GREEDY), Begin(1, GREEDY)),
        prefill=slice_of(PROMPT, seq=1),
        draws=(Draw(0, 1, logits), Draw(1, 1)),
    )
    assert outcome.status == "done"
    assert list(outcome.failures) == [0]
    assert [(drawn.seq, drawn.token) for drawn in outcome.sampled] == [(1, expected.token)]


# Buffers that sequences share


async def decoded(rig: Rig, engine: Engine, tokens: list[int], *, before: bool) -> list[bytes]:
    """The state of `tokens`, the last of them decoded; `before`: cells before it came free."""
    if before:
        await rig.prefill(engine, PROMPT[:50], seq=0)
    await rig.prefill(engine, tokens[:150], seq=1)
    await rig.step(engine, end=(0,))
    for pos in range(150, len(tokens)):
        await rig.step(engine, rows=(Row(1, pos, tokens[pos]),))
    return await taken(rig, engine, 1, len(tokens))


async def taken(rig: Rig, engine: Engine, seq: int, n: int) -> list[bytes]:
    ranges = [(0, n)] if states(engine).layers else []
    saved = await rig.on_lane(lambda: engine.save(seq, ranges, snapshot=states(engine).snapshot))
    parts = [*saved.rows, *([] if saved.snapshot is None else [saved.snapshot])]
    return [bytes(part) for part in parts if len(part)]


async def test_a_state_scattered_in_a_shared_buffer_is_taken_out_in_its_order(
    llama_rig: Rig,
) -> None:
    """A decoded token takes the first free cell, which here lies before those of its prompt."""
    rig = llama_rig
    engine = await rig.load(kv_unified=True)
    tokens = [*PROMPT, *PROMPT[:9]]
    in_order = await decoded(rig, engine, tokens, before=False)
    await rig.step(engine, end=(1,))
    scattered = await decoded(rig, engine, tokens, before=True)
    if rig.kind.family == "recurrent":
        assert scattered == in_order, "it lies in no cells"
        return
    found, expected = (np.frombuffer(parts[0], np.float16) for parts in (scattered, in_order))
    # where a row lies decides the order of sums behind it, so they are alike, not equal
    difference = np.abs(found.astype(np.float64) - expected).mean()
    assert difference < 0.01 * np.abs(expected.astype(np.float64)).mean()


async def test_a_state_put_back_into_a_shared_buffer_is_the_same_bit_for_bit(
    llama_rig: Rig,
) -> None:
    rig = llama_rig
    engine = await rig.load(kv_unified=True)
    tokens = [*PROMPT, *PROMPT[:9]]
    saved = await decoded(rig, engine, tokens, before=True)
    await copy(rig, engine, engine, len(tokens), seq=1, to=2)
    assert await taken(rig, engine, 2, len(tokens)) == saved
    await rig.step(engine, end=(1,))
    await copy(rig, engine, engine, len(tokens), seq=2, to=0)
    assert await taken(rig, engine, 0, len(tokens)) == saved
