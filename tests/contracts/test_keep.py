"""How many of the tokens that a sequence holds stay when it begins anew."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from erllama.backend.base import Begin, Draw, Engine
from erllama.errors import DecodeFailed
from tests.contracts.rig import GREEDY, PROMPT, Rig, slice_of

CUT = 64
"""A multiple of the granule inside PROMPT; the sliding windows of these models are shorter."""


async def hold(rig: Rig, engine: Engine, n: int, *, seq: int = 1) -> None:
    await rig.step(engine, begin=(Begin(seq, GREEDY),))
    for start in range(0, n, CUT):
        part = slice_of(PROMPT[start : min(start + CUT, n)], seq=seq, pos=start)
        await rig.step(engine, prefill=part)


async def rest(rig: Rig, engine: Engine, keep: int, *, seq: int = 1) -> tuple[bytes, list[int]]:
    """Keep so many tokens, compute the rest of the prompt, and generate."""
    outcome = await rig.step(
        engine,
        begin=(Begin(seq, GREEDY, keep=keep),),
        prefill=slice_of(PROMPT[keep:], seq=seq, pos=keep),
        draws=(Draw(seq, 0),),
        keep_logits=True,
    )
    first = outcome.sampled[0].token
    return bytes(outcome.logits[seq]), [
        first,
        *await rig.go_on(engine, first, len(PROMPT), 4, seq=seq),
    ]


async def test_families_say_whether_they_can_be_cut(rig: Rig) -> None:
    engine = await rig.load()
    assert engine.capabilities.truncate == (rig.kind.family in ("plain", "sliding_window"))


@pytest.mark.parametrize("options", [{"swa_full": False}, {"kv_unified": True}], ids=str)
async def test_a_window_that_is_not_kept_whole_cannot_be_cut(
    llama_rig: Rig, options: dict[str, Any]
) -> None:
    engine = await llama_rig.load(**options)
    assert engine.capabilities.truncate == (llama_rig.kind.family == "plain")


async def test_what_was_cut_off_is_as_if_it_had_never_been(rig: Rig) -> None:
    engine = await rig.load()
    if not engine.capabilities.truncate:
        return
    await hold(rig, engine, CUT)
    expected = await rest(rig, engine, CUT)
    for longer in (CUT + 1, 2 * CUT, len(PROMPT)):
        await hold(rig, engine, longer)
        assert await rest(rig, engine, CUT) == expected
    # it holds the prompt and a reply by now
    assert await rest(rig, engine, CUT) == expected


async def test_cutting_one_sequence_leaves_the_others(rig: Rig) -> None:
    engine = await rig.load()
    if not engine.capabilities.truncate:
        return
    expected = await rig.generate(engine, PROMPT, 5)
    first = await rig.prefill(engine, PROMPT, seq=2)
    await hold(rig, engine, len(PROMPT))
    cut = await rig.step(engine, begin=(Begin(1, GREEDY, keep=7),))
    assert cut.positions == {1: 7}
    assert [first.token, *await rig.go_on(engine, first.token, 150, 4, seq=2)] == expected


@pytest.mark.parametrize("keep", [-1, len(PROMPT) + 1])
async def test_what_is_not_held_cannot_be_kept(rig: Rig, keep: int) -> None:
    engine = await rig.load()
    await hold(rig, engine, len(PROMPT))
    with pytest.raises(DecodeFailed, match="cannot be kept"):
        await rig.step(engine, begin=(Begin(1, GREEDY, keep=keep),))
    with pytest.raises(DecodeFailed, match="cannot be kept"):
        await rig.step(engine, end=(1,), begin=(Begin(1, GREEDY, keep=5),))
    kept = await rig.step(engine, begin=(Begin(1, GREEDY, keep=len(PROMPT)),))
    assert kept.positions == {1: len(PROMPT)}


async def test_a_state_that_cannot_be_cut_is_kept_whole_or_not_at_all(llama_rig: Rig) -> None:
    engine = await llama_rig.load(swa_full=False)
    if engine.capabilities.truncate:
        return
    await hold(llama_rig, engine, len(PROMPT))
    with pytest.raises(DecodeFailed, match="keep all or none"):
        await llama_rig.step(engine, begin=(Begin(1, GREEDY, keep=CUT),))
    for keep in (len(PROMPT), 0):
        outcome = await llama_rig.step(engine, begin=(Begin(1, GREEDY, keep=keep),))
        assert outcome.positions == {1: keep}


async def test_a_restored_window_is_not_cut_below_its_length(llama_rig: Rig) -> None:
    """The rows before the window's are zeros there: the numbers would silently be others."""
    engine = await llama_rig.load()
    state = engine.capabilities.state
    if llama_rig.kind.family != "sliding_window" or state is None:
        return
    n = 2 * CUT
    await hold(llama_rig, engine, n)
    saved = await llama_rig.on_lane(partial(engine.save, 1, [(0, n)], snapshot=True))
    frame = engine.frame(1, n)
    frame.put_rows(0, saved.rows[0], n, n)
    assert saved.snapshot is not None
    frame.put_snapshot(saved.snapshot)
    expected = await rest(llama_rig, engine, n)
    await llama_rig.on_lane(lambda: engine.restore(1, frame))
    assert await rest(llama_rig, engine, n) == expected
    with pytest.raises(DecodeFailed, match=f"at least {n}"):
        await llama_rig.step(engine, begin=(Begin(1, GREEDY, keep=n - 1),))
    assert await rest(llama_rig, engine, n) == expected
    await hold(llama_rig, engine, n)
    cut = await llama_rig.step(engine, begin=(Begin(1, GREEDY, keep=n - 1),))
    assert cut.positions == {1: n - 1}
