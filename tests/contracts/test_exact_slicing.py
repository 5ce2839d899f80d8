"""The exact-slicing rule: numbers are a function of the tokens, however a prompt was cut."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from erllama.backend.base import Begin, Engine, Row
from erllama.backend.lane import Lane
from erllama.backend.llama.library import llama
from tests.contracts.rig import GREEDY, PLAIN, Kind, Rig, slice_of
from tests.models import WIDE
from tests.models.cache import AnyQuant

TOKENS = [3 + 11 * i % 241 for i in range(470)]
CUTS = ([64], [128, 256], [64, 128, 192, 256, 320, 384, 448], [448], [192, 448])
CONTEXT: dict[str, Any] = {"n_ctx": 512, "n_seq_max": 2, "n_batch": 512, "n_ubatch": 256}


async def logits_of(rig: Rig, engine: Engine, row: int) -> bytes:
    """The logits of a row of the last step, as bytes; copied on the lane."""

    def copy() -> bytes:
        context = engine._context  # type: ignore[attr-defined]
        pointer = llama().llama_get_logits_ith(context, row)
        size = ctypes.sizeof(ctypes.c_float) * engine.info.n_vocab
        return ctypes.string_at(pointer, size)

    return await rig.on_lane(copy)


async def run(rig: Rig, engine: Engine, cuts: Sequence[int], seq: int = 0) -> list[bytes]:
    """The logits after the prompt, cut so, and of six greedy tokens after it."""
    await rig.step(engine, begin=(Begin(seq, GREEDY),))
    for start, end in zip([0, *cuts], [*cuts, len(TOKENS)], strict=True):
        outcome = await rig.step(engine, prefill=slice_of(TOKENS[start:end], seq=seq, pos=start))
        assert outcome.status == "done", outcome.detail
    logits = [await logits_of(rig, engine, end - start - 1)]
    for pos in range(len(TOKENS), len(TOKENS) + 6):
        token = int(np.frombuffer(logits[-1], np.float32).argmax())
        await rig.step(engine, rows=(Row(seq, pos, token),))
        logits.append(await logits_of(rig, engine, 0))
    return logits


async def check_cuts(rig: Rig, engine: Engine, cuts: Sequence[Sequence[int]]) -> None:
    # 470 rows end in a tail of 22 after the last multiple of 64, which goes by itself
    whole = await run(rig, engine, [448])
    for cut in cuts:
        assert await run(rig, engine, [*cut, 448] if cut[-1] != 448 else cut) == whole, cut


@pytest.mark.parametrize("flash_attn", [True, False], ids=["flash", "no_flash"])
async def test_every_family_computes_the_same_however_a_prompt_is_cut(
    llama_rig: Rig, flash_attn: bool
) -> None:
    engine = await llama_rig.load(flash_attn=flash_attn, **CONTEXT)
    await check_cuts(llama_rig, engine, CUTS)


@pytest.mark.parametrize("flash_attn", [True, False], ids=["flash", "no_flash"])
@pytest.mark.parametrize("quant", ["F16", "Q8_0", "Q4_0"])
async def test_every_quant_computes_the_same_however_a_prompt_is_cut(
    lane: Lane, quant: AnyQuant, flash_attn: bool
) -> None:
    rig = Rig(Kind("wide", "plain", WIDE), lane, lane.new_owner())
    engine = await rig.load(quant, flash_attn=flash_attn, **CONTEXT)
    await check_cuts(rig, engine, CUTS)
    await rig.close()


async def test_another_sequence_and_company_in_between_change_nothing(llama_rig: Rig) -> None:
    engine = await llama_rig.load(**CONTEXT)
    whole = await run(llama_rig, engine, [448])
    await llama_rig.prefill(engine, TOKENS[7:90], seq=0)
    assert await run(llama_rig, engine, [128, 448], seq=1) == whole


async def test_a_cut_off_the_granule_does_change_bits(lane: Lane) -> None:
    """Why the rule is needed; were this to pass everywhere, these tests would show nothing."""
    rig = Rig(PLAIN, lane, lane.new_owner())
    engine = await rig.load(flash_attn=True, **CONTEXT)
    whole = await run(rig, engine, [448])
    assert await run(rig, engine, [447, 448]) != whole
    await rig.close()
