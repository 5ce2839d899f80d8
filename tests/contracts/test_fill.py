"""Padding behind a slice: its rows are those of a longer slice, and nothing of it stays."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
import pytest

from erllama import DecodeFailed
from erllama.backend.base import Begin, Engine, Row
from erllama.backend.lane import Lane
from tests.contracts.rig import ABLE_STUB, GREEDY, Kind, Rig, slice_of
from tests.models import TINY, TINY_MOE, WIDE
from tests.models.cache import AnyQuant

CONTEXT: dict[str, Any] = {"n_ctx": 512, "n_seq_max": 2, "n_batch": 256, "n_ubatch": 256}
TOKENS = [3 + 11 * i % 241 for i in range(256)]


def filled(start: int, stop: int, *, seq: int = 0) -> Any:
    part = slice_of(TOKENS[start:stop], seq=seq, pos=start)
    return msgspec.structs.replace(part, fill=64 - (stop - start))


async def rows_of(rig: Rig, engine: Engine, seq: int, start: int, stop: int) -> bytes:
    saved = await rig.on_lane(partial(engine.save, seq, [(start, stop)], snapshot=False))
    return bytes(saved.rows[0])


@pytest.mark.parametrize("quant", ["F16", "Q8_0", "Q4_0", "Q4_K_M"])
@pytest.mark.parametrize("n", [2, 17, 48, 63])
async def test_filled_rows_are_those_of_a_longer_slice(lane: Lane, quant: AnyQuant, n: int) -> None:
    rig = Rig(Kind("wide", "plain", WIDE), lane, lane.new_owner())
    engine = await rig.load(quant, **CONTEXT)
    assert engine.capabilities.fills
    await rig.step(engine, begin=(Begin(0, GREEDY), Begin(1, GREEDY)))
    await rig.step(engine, slices=(slice_of(TOKENS[:128]),))
    outcome = await rig.step(engine, slices=(filled(128, 128 + n),), keep_logits=True)
    assert outcome.positions == {0: 128 + n}
    await rig.step(engine, slices=(slice_of(TOKENS, seq=1),))
    longer = await rows_of(rig, engine, 1, 128, 128 + n)
    assert await rows_of(rig, engine, 0, 128, 128 + n) == longer
    await rig.close()


async def test_without_padding_they_are_not(lane: Lane) -> None:
    """Were they, these tests would show nothing."""
    rig = Rig(Kind("wide", "plain", WIDE), lane, lane.new_owner())
    engine = await rig.load("F16", **CONTEXT)
    await rig.step(engine, begin=(Begin(0, GREEDY), Begin(1, GREEDY)))
    await rig.step(engine, slices=(slice_of(TOKENS[:128]),))
    await rig.step(engine, slices=(slice_of(TOKENS[128:176], pos=128),))
    await rig.step(engine, slices=(slice_of(TOKENS, seq=1),))
    longer = await rows_of(rig, engine, 1, 128, 176)
    assert await rows_of(rig, engine, 0, 128, 176) != longer
    await rig.close()


@pytest.mark.parametrize("shape", [TINY, TINY_MOE], ids=["tiny", "experts"])
async def test_nothing_of_the_padding_stays(lane: Lane, shape: Any) -> None:
    for kind in (ABLE_STUB, Kind("tiny", "plain", shape)):
        rig = Rig(kind, lane, lane.new_owner())
        engine = await rig.load("Q8_0", **CONTEXT)
        replies = []
        for seq in (0, 1):
            other = 1 - seq
            await rig.step(engine, begin=(Begin(seq, GREEDY),), end=(other,))
            await rig.step(engine, slices=(slice_of(TOKENS[:128], seq=seq),))
            await rig.step(engine, slices=(filled(128, 178, seq=seq),))
            # the cells behind it are free for what comes next, and it sees none of the padding
            outcome = await rig.step(engine, rows=(Row(seq, 178, 9),))
            assert outcome.positions == {seq: 179}
            replies.append(await rig.go_on(engine, 5, 179, 6, seq=seq))
        assert replies[0] == replies[1]
        await rig.close()


async def test_the_last_slice_of_a_full_context_has_room_for_its_padding(lane: Lane) -> None:
    rig = Rig(Kind("tiny", "plain", TINY), lane, lane.new_owner())
    engine = await rig.load("Q8_0", **(CONTEXT | {"n_ctx": 256, "n_seq_max": 1}))
    await rig.step(engine, begin=(Begin(0, GREEDY),))
    await rig.step(engine, slices=(slice_of(TOKENS[:192]),))
    outcome = await rig.step(engine, slices=(filled(192, 255),))
    assert (outcome.status, outcome.positions) == ("done", {0: 255})
    assert (await rig.step(engine, rows=(Row(0, 255, 9),))).status == "done"
    await rig.close()


@pytest.mark.parametrize(
    "options",
    [
        {"flash_attn": False},
        {"kv_unified": True},
        {"type_k": "q8_0", "type_v": "q8_0"},
    ],
    ids=["no_flash", "unified", "quantized"],
)
async def test_where_it_gains_nothing_padding_is_refused(
    lane: Lane, options: dict[str, Any]
) -> None:
    rig = Rig(Kind("tiny", "plain", TINY), lane, lane.new_owner())
    engine = await rig.load("Q8_0", **(CONTEXT | options))
    assert not engine.capabilities.fills
    await rig.step(engine, begin=(Begin(0, GREEDY),))
    with pytest.raises(DecodeFailed, match="14 rows of padding"):
        await rig.step(engine, slices=(filled(0, 50),))
    await rig.close()


async def test_other_families_take_none(llama_rig: Rig) -> None:
    engine = await llama_rig.load("Q8_0", flash_attn=True)
    assert engine.capabilities.fills == (llama_rig.kind.family == "plain")


async def test_padding_counts_as_rows_of_a_step_and_is_for_one_slice(lane: Lane) -> None:
    rig = Rig(ABLE_STUB, lane, lane.new_owner())
    engine = await rig.load(**(CONTEXT | {"n_batch": 64, "n_ubatch": 64}))
    await rig.step(engine, begin=(Begin(0, GREEDY), Begin(1, GREEDY)))
    too_many = msgspec.structs.replace(filled(0, 50), fill=15)
    with pytest.raises(DecodeFailed, match="65 rows in a step; 64 fit"):
        await rig.step(engine, slices=(too_many,))
    with pytest.raises(DecodeFailed, match="-1 rows of padding"):
        await rig.step(engine, slices=(msgspec.structs.replace(too_many, fill=-1),))
    await rig.close()
