"""Slices of several prompts in one step: each is what it would be alone, or it is refused."""

from __future__ import annotations

import itertools
import random
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from erllama import DecodeFailed
from erllama.backend.base import AdapterUse, Begin, Draw, Engine, Prefill, Row
from erllama.backend.lane import Lane
from erllama.backend.llama.engine import LlamaEngine
from erllama.config import ContextConfig
from tests.contracts.mix import Mixer, Part
from tests.contracts.rig import (
    ABLE_STUB,
    GREEDY,
    PLAIN,
    PROMPT,
    RANDOM,
    Kind,
    Rig,
    on_thread,
    slice_of,
    small_context,
    token_slice,
)
from tests.models import TINY, TINY_MOE, WIDE
from tests.models.cache import AnyQuant
from tests.models.lora import write_lora

EIGHT: dict[str, Any] = {"n_ctx": 768, "n_seq_max": 8, "n_batch": 512, "n_ubatch": 512}


async def rig_with(lane: Lane, shape: Any, quant: AnyQuant, **context: Any) -> tuple[Rig, Any]:
    rig = Rig(Kind(shape.arch, "plain", shape), lane, lane.new_owner())
    return rig, await rig.load(quant, **(EIGHT | context))


def parts(rng: random.Random, engine: Engine, lengths: list[int]) -> list[Part]:
    """Requests with prompts of these lengths, and two more tokens each."""
    n_vocab = engine.info.n_vocab

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(n_vocab) for _ in range(count))

    return [Part(tokens(length), tokens(2)) for length in lengths]


@pytest.mark.parametrize("flash_attn", [True, False], ids=["flash", "no_flash"])
@pytest.mark.parametrize("quant", ["Q8_0", "Q4_0"])
@pytest.mark.parametrize("n_threads", [1, 2])
async def test_prompts_that_share_steps_are_computed_as_each_alone(
    lane: Lane, quant: AnyQuant, flash_attn: bool, n_threads: int
) -> None:
    rig, engine = await rig_with(lane, WIDE, quant, flash_attn=flash_attn, n_threads=n_threads)
    assert engine.capabilities.n_joint == 512
    rng = random.Random(f"{quant} {flash_attn}")
    for length in (64, 128 + rng.randrange(2, 64), 320 + rng.randrange(2, 64), 17):
        asked = parts(rng, engine, [length] * 8)
        mixer = Mixer(engine, itertools.count(1_000 * length))
        alone = [await rig.on_lane(partial(mixer.alone, part)) for part in asked]
        together = await rig.on_lane(partial(mixer.together, asked, rng))
        assert together == alone, length
    await rig.close()


@pytest.mark.parametrize("type_k", ["q8_0", "f32"])
async def test_so_are_those_with_other_kinds_of_cache(lane: Lane, type_k: Any) -> None:
    rig, engine = await rig_with(lane, WIDE, "Q8_0", type_k=type_k, type_v=type_k)
    rng = random.Random(type_k)
    asked = parts(rng, engine, [150] * 6)
    mixer = Mixer(engine, itertools.count(1))
    alone = [await rig.on_lane(partial(mixer.alone, part)) for part in asked]
    assert await rig.on_lane(partial(mixer.together, asked, rng)) == alone
    await rig.close()


async def test_with_other_weights_company_does_change_bits(lane: Lane) -> None:
    """Why it goes by the weights; were this to pass, the tests above would show nothing."""
    rig, engine = await rig_with(lane, WIDE, "F16")
    engine.capabilities = msgspec.structs.replace(engine.capabilities, n_joint=512)
    rng = random.Random(3)
    asked = parts(rng, engine, [64] * 8)
    mixer = Mixer(engine, itertools.count(1))
    alone = [await rig.on_lane(partial(mixer.alone, part)) for part in asked]
    assert await rig.on_lane(partial(mixer.together, asked, rng)) != alone
    await rig.close()


async def test_rows_of_prompts_that_shared_steps_are_those_of_each_alone(lane: Lane) -> None:
    rig, engine = await rig_with(lane, WIDE, "Q8_0")
    rng = random.Random(5)
    prompts = [part.prompt for part in parts(rng, engine, [128] * 4)]
    seqs = range(2, 6)
    begin = tuple(Begin(seq, GREEDY) for seq in seqs)
    slices = tuple(slice_of(prompts[seq - 2], seq=seq) for seq in seqs)
    outcome = await rig.step(engine, begin=begin, slices=slices, keep_logits=True)
    assert outcome.positions == dict.fromkeys(seqs, 128)
    for seq, prompt in zip(seqs, prompts, strict=True):
        await rig.step(engine, begin=(Begin(0, GREEDY),))
        alone = await rig.step(engine, slices=(slice_of(prompt),), keep_logits=True)
        assert bytes(outcome.logits[seq]) == bytes(alone.logits[0])
        rows = [
            await rig.on_lane(partial(engine.save, one, [(0, 128)], snapshot=False))
            for one in (seq, 0)
        ]
        assert bytes(rows[0].rows[0]) == bytes(rows[1].rows[0])
    await rig.close()


async def test_a_sequence_among_others_keeps_its_own_draws(lane: Lane) -> None:
    for kind in (ABLE_STUB, Kind("wide", "plain", WIDE)):
        rig = Rig(kind, lane, lane.new_owner())
        engine = await rig.load("Q8_0", **EIGHT)
        alone = [
            (await rig.prefill(engine, PROMPT[n : n + 20], sampler=RANDOM, seed=n)).token
            for n in range(4)
        ]
        outcome = await rig.step(
            engine,
            begin=tuple(Begin(n, RANDOM) for n in range(4)),
            slices=tuple(slice_of(PROMPT[n : n + 20], seq=n) for n in range(4)),
            draws=tuple(Draw(n, n) for n in range(4)),
        )
        assert [one.token for one in outcome.sampled] == alone
        assert [one.seq for one in outcome.sampled] == [0, 1, 2, 3]
        # each goes on behind its own prompt
        rows = tuple(Row(n, 20, alone[n]) for n in range(4))
        assert (await rig.step(engine, rows=rows)).positions == dict.fromkeys(range(4), 21)
        await rig.close()


@pytest.mark.parametrize(
    ("shape", "quant", "context"),
    [
        (TINY, "F16", {}),
        (WIDE, "Q4_K_M", {}),
        (TINY_MOE, "Q8_0", {}),
        (TINY, "Q8_0", {"kv_unified": True}),
    ],
    ids=["f16", "q4_k_m", "experts", "unified"],
)
async def test_where_numbers_would_depend_on_company_each_prompt_has_its_own_step(
    lane: Lane, shape: Any, quant: AnyQuant, context: dict[str, Any]
) -> None:
    rig, engine = await rig_with(lane, shape, quant, **context)
    assert engine.capabilities.n_joint == 0
    both = (slice_of(PROMPT[:64], seq=0), slice_of(PROMPT[:64], seq=1))
    with pytest.raises(DecodeFailed, match="0 fit in all"):
        await rig.step(engine, slices=both)
    await rig.close()


async def test_with_adapters_in_force_each_prompt_has_its_own_step(
    lane: Lane, tmp_path: Path
) -> None:
    rig, engine = await rig_with(lane, WIDE, "Q8_0")
    path = str(tmp_path / "lora.gguf")
    await on_thread(lambda: write_lora(tmp_path / "lora.gguf", WIDE))
    await on_thread(lambda: engine.check_adapter(path))
    await rig.on_lane(lambda: engine.load_adapter(1, path))
    use = (AdapterUse(1, "a" * 64, 1.0),)
    both = (slice_of(PROMPT[:64], seq=0), slice_of(PROMPT[:64], seq=1))
    with pytest.raises(DecodeFailed, match="with adapters in force"):
        await rig.step(engine, slices=both, adapters=use)
    assert (await rig.step(engine, slices=both[:1], adapters=use)).status == "done"
    await rig.close()


async def test_other_families_share_no_steps(llama_rig: Rig) -> None:
    engine = await llama_rig.load("Q8_0")
    assert (engine.capabilities.n_joint > 0) == (llama_rig.kind.family == "plain")


def two(first: int, second: int, *seqs: int) -> tuple[Prefill, ...]:
    return slice_of(PROMPT[:first], seq=seqs[0]), slice_of(PROMPT[:second], seq=seqs[1])


BROKEN: dict[str, tuple[tuple[Prefill, ...], str]] = {
    "lengths that differ": (two(64, 128, 0, 1), "of 64, 128 rows in a step"),
    "tails that differ": (two(20, 21, 0, 1), "of 20, 21 rows in a step"),
    "neither whole nor tails": (two(70, 70, 0, 1), "of 70 rows in a step"),
    "single rows": (two(1, 1, 0, 1), "of 1 rows in a step"),
    "a gap between sequences": (two(64, 64, 0, 2), "follow one another"),
    "falling sequences": (two(64, 64, 2, 1), "follow one another"),
    "one sequence twice": (two(64, 64, 1, 1), "follow one another"),
    "too many rows": (
        tuple(slice_of(PROMPT[:64], seq=seq) for seq in range(3)),
        "3 slices of 64 rows; 128 fit",
    ),
    "likeliest tokens": (
        (token_slice(PROMPT[:64], seq=0, greedy=3), slice_of(PROMPT[:64], seq=1)),
        "shares its step",
    ),
    "a gap in the second": (
        (slice_of(PROMPT[:64], seq=0), slice_of(PROMPT[:64], seq=1, pos=64)),
        "leaves a gap",
    ),
    "a bad id in the second": (
        (slice_of(PROMPT[:64], seq=0), slice_of([*PROMPT[:63], -1], seq=1)),
        "outside the vocabulary",
    ),
}


@pytest.mark.parametrize(("slices", "said"), BROKEN.values(), ids=BROKEN.keys())
async def test_slices_that_would_depend_on_each_other_are_refused(
    lane: Lane, slices: tuple[Prefill, ...], said: str
) -> None:
    for kind in (ABLE_STUB, Kind("tiny", "plain", TINY)):
        rig = Rig(kind, lane, lane.new_owner())
        engine = await rig.load("Q8_0", n_batch=192, n_ubatch=128)
        assert engine.capabilities.n_joint == 128
        with pytest.raises(DecodeFailed, match=said):
            await rig.step(engine, slices=slices)
        assert (await rig.prefill(engine, PROMPT[:100])).token >= 0
        await rig.close()


async def test_aborted_slices_leave_each_sequence_at_a_place_to_go_on_from(lane: Lane) -> None:
    rig, engine = await rig_with(lane, WIDE, "Q8_0")
    assert isinstance(engine, LlamaEngine)
    expected = [await rig.generate(engine, PROMPT[n : n + 64], 3) for n in range(3)]
    engine.abort(900)
    slices = tuple(slice_of(PROMPT[n : n + 64], seq=n) for n in range(3))
    begin = tuple(Begin(n, GREEDY) for n in range(3))
    outcome = await rig.step(engine, number=900, begin=begin, slices=slices)
    assert outcome.status == "aborted"
    assert outcome.positions == dict.fromkeys(range(3), 0)
    rig.numbers = itertools.count(901)
    assert [await rig.generate(engine, PROMPT[n : n + 64], 3, seq=n) for n in range(3)] == expected
    await rig.close()


async def test_a_micro_batch_bounds_what_shares_a_step(lane: Lane) -> None:
    context: ContextConfig = small_context(n_batch=192, n_ubatch=64)
    rig = Rig(PLAIN, lane, lane.new_owner())
    engine = await rig.load("Q8_0", n_batch=context.n_batch, n_ubatch=context.n_ubatch)
    assert engine.capabilities.n_joint == 64
    await rig.close()
