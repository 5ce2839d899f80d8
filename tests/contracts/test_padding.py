"""Decode rows on sequences with gaps between them: what they compute, and what they leave."""

from __future__ import annotations

import itertools
import random
from functools import partial
from typing import Any

import pytest

from erllama.backend.base import Begin, Draw, Engine, Row, SavedState
from erllama.backend.lane import Lane
from erllama.backend.llama.engine import LlamaEngine
from erllama.backend.llama.room import Room
from tests.contracts.mix import Mixer, Part, random_parts
from tests.contracts.rig import GREEDY, PROMPT, Kind, Rig, slice_of
from tests.models import TINY, TINY_COHERE2

SEQS = 9
SIX: dict[str, Any] = {"n_seq_max": SEQS, "n_ctx": 256}
ACTIVE = (0, 2, 4, 6, 8)
IDLE = (1, 3, 5, 7)
LENGTHS = (150, 64, 10, 0)
"""What the idle sequences hold, one after the other."""


async def prepare(rig: Rig, engine: Engine) -> None:
    """Active sequences with ten tokens each, idle ones with what LENGTHS says."""
    for seq in ACTIVE:
        await rig.prefill(engine, PROMPT[seq : seq + 10], seq=seq)
    for seq, n in zip(IDLE, LENGTHS, strict=True):
        if n:
            await rig.prefill(engine, PROMPT[:n], seq=seq)


async def idle_states(rig: Rig, engine: Engine) -> list[tuple[bytes, ...]]:
    """All bytes of what the idle sequences hold."""
    state = engine.capabilities.state
    assert state is not None
    saved: list[SavedState] = []
    for seq, n in zip(IDLE, LENGTHS, strict=True):
        if n:
            ranges = [(0, n)] if state.layers else []
            saved.append(
                await rig.on_lane(partial(engine.save, seq, ranges, snapshot=state.snapshot))
            )
    parts = [[*one.rows, b"" if one.snapshot is None else one.snapshot] for one in saved]
    return [tuple(bytes(part) for part in one) for one in parts]


def decode_calls(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The sequences of each batch that the engine computes from now on."""
    calls: list[list[int]] = []
    if isinstance(engine, LlamaEngine):
        batch = engine._batch
        assert batch is not None
        fill = batch.fill_rows

        def note(rows: Any, unread: Any = ()) -> None:
            calls.append([row.seq for row in rows])
            fill(rows, unread)

        monkeypatch.setattr(batch, "fill_rows", note)
    return calls


async def decode(rig: Rig, engine: Engine, pos: int, seqs: tuple[int, ...] = ACTIVE) -> Any:
    return await rig.step(
        engine,
        rows=tuple(Row(seq, pos, 5 + seq) for seq in seqs),
        draws=tuple(Draw(seq, 0) for seq in seqs),
    )


@pytest.mark.parametrize("order", [ACTIVE, ACTIVE[::-1], (4, 0, 8, 6, 2)], ids=str)
async def test_rows_in_any_order_and_with_gaps_give_each_sequence_its_own_token(
    rig: Rig, order: tuple[int, ...]
) -> None:
    engine = await rig.load(**SIX)
    await prepare(rig, engine)
    alone = {}
    for seq in ACTIVE:
        outcome = await decode(rig, engine, 10, (seq,))
        alone[seq] = outcome.sampled[0].token
    await prepare(rig, engine)
    outcome = await decode(rig, engine, 10, order)
    assert [one.seq for one in outcome.sampled] == list(order)
    assert {one.seq: one.token for one in outcome.sampled} == alone
    assert outcome.positions == dict.fromkeys(order, 11)


async def test_idle_sequences_keep_every_byte(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = await rig.load(**SIX)
    await prepare(rig, engine)
    before = await idle_states(rig, engine)
    calls = decode_calls(engine, monkeypatch)
    for pos in range(10, 20):
        await decode(rig, engine, pos)
    assert await idle_states(rig, engine) == before
    if rig.kind.family in ("plain", "sliding_window") and rig.kind.shape is not None:
        assert calls == [list(range(SEQS))] * 10


async def test_idle_sequences_go_on_as_if_nothing_had_been(rig: Rig) -> None:
    engine = await rig.load(**SIX)
    expected = await rig.generate(engine, PROMPT, 6)
    await prepare(rig, engine)
    for pos in range(10, 15):
        await decode(rig, engine, pos)
    token = expected[0]
    assert await rig.go_on(engine, token, 150, 5, seq=IDLE[0]) == expected[1:]
    assert await rig.generate(engine, PROMPT, 6, seq=IDLE[3]) == expected


async def test_what_cannot_be_cut_pads_only_while_it_is_empty(
    llama_rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await llama_rig.load(swa_full=False, **SIX)
    await prepare(llama_rig, engine)
    calls = decode_calls(engine, monkeypatch)
    await decode(llama_rig, engine, 10)
    await llama_rig.step(engine, end=IDLE)
    await decode(llama_rig, engine, 11)
    whole = list(range(SEQS))
    assert calls == [whole if llama_rig.kind.family == "plain" else list(ACTIVE), whole]


async def test_a_full_idle_sequence_is_left_out(
    lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(Kind("plain", "plain", TINY), lane, lane.new_owner())
    engine = await rig.load(**SIX)
    await prepare(rig, engine)
    await rig.step(engine, begin=(Begin(1, GREEDY),))
    for pos in (0, 128):
        part = slice_of((PROMPT * 2)[pos : pos + 128], seq=1, pos=pos)
        await rig.step(engine, prefill=part)
    calls = decode_calls(engine, monkeypatch)
    assert (await decode(rig, engine, 10)).status == "done"
    assert calls == [[0, *range(2, SEQS)]]
    await rig.close()


async def test_one_buffer_for_all_takes_rows_as_they_come(
    lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(Kind("plain", "plain", TINY), lane, lane.new_owner())
    engine = await rig.load(kv_unified=True, **SIX)
    await prepare(rig, engine)
    calls = decode_calls(engine, monkeypatch)
    await decode(rig, engine, 10, (8, 0, 4))
    assert calls == [[8, 0, 4]]
    await rig.close()


async def test_an_aborted_call_leaves_no_padding_behind(llama_rig: Rig) -> None:
    engine = await llama_rig.load(**SIX)
    await prepare(llama_rig, engine)
    before = await idle_states(llama_rig, engine)
    assert isinstance(engine, LlamaEngine)
    flag = engine._aborts._flag
    enter = engine._aborts.enter

    def enter_and_set(number: int) -> bool:
        found = enter(number)
        flag.set()  # llama.cpp sees it at the first node
        return found

    engine._aborts.enter = enter_and_set  # type: ignore[method-assign]
    outcome = await decode(llama_rig, engine, 10)
    assert outcome.status == "aborted"
    engine._aborts.enter = enter  # type: ignore[method-assign]
    assert await idle_states(llama_rig, engine) == before


async def test_prompts_come_out_the_same_however_often_they_hosted_padding(llama_rig: Rig) -> None:
    """Between two slices of a prompt its sequence is idle, and padded when others decode."""
    engine = await llama_rig.load(n_seq_max=6, n_ctx=512)
    assert isinstance(engine, LlamaEngine)
    for seed in range(3):
        rng = random.Random(seed)
        mixer = Mixer(engine, itertools.count(1 + 100_000 * seed))
        parts = random_parts(rng, 8, engine.info.n_vocab, longest=150)
        expected = await llama_rig.on_lane(partial(_last_rows_alone, mixer, parts))
        mixed = await llama_rig.on_lane(partial(mixer.mixed, parts, rng))
        assert [logits[0] for logits in mixed] == expected


def _last_rows_alone(mixer: Mixer, parts: list[Part]) -> list[bytes]:
    return [mixer.alone(part)[0] for part in parts]


@pytest.mark.parametrize("shape", [TINY, TINY_COHERE2], ids=lambda shape: shape.arch)
async def test_a_shared_buffer_without_room_is_told_and_changes_nothing(
    lane: Lane, shape: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Room, "total", property(lambda room: room.cells))
    rig = Rig(Kind("any", "plain", shape), lane, lane.new_owner())
    engine = await rig.load(kv_unified=True, n_seq_max=4, n_ctx=256)
    assert engine.capabilities.n_ctx == 256
    expected = await rig.generate(engine, PROMPT, 4)
    first = await rig.prefill(engine, PROMPT)
    refused = await rig.step(
        engine, begin=(Begin(1, GREEDY),), prefill=slice_of(PROMPT, seq=1), draws=(Draw(1, 0),)
    )
    assert (refused.status, refused.positions, refused.sampled) == ("no_slot", {1: 0}, ())
    await rig.step(engine, begin=(Begin(2, GREEDY),), prefill=slice_of(PROMPT[:100], seq=2))
    rows = await rig.step(engine, rows=(Row(0, 150, first.token), Row(2, 100, 5)))
    assert rows.status == "done"
    await rig.step(engine, prefill=slice_of([5] * 4, seq=2, pos=101))
    full = await rig.step(engine, rows=(Row(0, 151, expected[1]), Row(2, 105, 5)))
    assert (full.status, full.positions) == ("no_slot", {0: 151, 2: 105})
    await rig.step(engine, end=(2,))
    assert [first.token, expected[1], *await rig.go_on(engine, expected[1], 151, 2)] == expected
    await rig.close()
