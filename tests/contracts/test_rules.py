"""Plans that break a rule: refused by name, and nothing has changed."""

from __future__ import annotations

import array
from typing import Any

import pytest

from erllama.backend.base import Begin, Draw, Engine, Row, StepPlan
from erllama.config import ModelConfig
from erllama.errors import DecodeFailed
from tests.contracts.rig import GREEDY, PROMPT, RANDOM, Rig, on_thread, slice_of, small_context

# Sequence 0 holds 100 tokens and has a sampler; 1 holds 10; 2 and 3 are empty, without samplers.
BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "gap": ({"rows": (Row(0, 101, 5),)}, "gap"),
    "overlap": ({"rows": (Row(0, 99, 5),)}, "gap"),
    "negative position": ({"rows": (Row(0, -1, 5),)}, "gap"),
    "gap in a prefill": ({"prefill": slice_of(PROMPT[:8], seq=1, pos=11)}, "gap"),
    "overlap in a prefill": ({"prefill": slice_of(PROMPT[:8], seq=1, pos=9)}, "gap"),
    "gap in an empty sequence": ({"prefill": slice_of(PROMPT[:8], seq=3, pos=1)}, "gap"),
    "old position after begin": (
        {"begin": (Begin(0, GREEDY),), "rows": (Row(0, 100, 5),)},
        "gap",
    ),
    "old position after end": ({"end": (0,), "rows": (Row(0, 100, 5),)}, "gap"),
    "negative id": ({"rows": (Row(0, 100, -1),)}, "vocabulary"),
    "id beyond the vocabulary": ({"rows": (Row(0, 100, 100_000),)}, "vocabulary"),
    "id of 41 bits": ({"rows": (Row(0, 100, 2**40),)}, "vocabulary"),
    "bad id in the middle of a prefill": (
        {"prefill": slice_of([5, 2**31 - 1, 6], seq=0, pos=100)},
        "vocabulary",
    ),
    "negative id in a prefill": ({"prefill": slice_of([5, -7], seq=0, pos=100)}, "vocabulary"),
    "sequence too high": ({"rows": (Row(4, 0, 5),)}, "ids go from 0 to 3"),
    "negative sequence": ({"rows": (Row(-1, 0, 5),)}, "ids go from 0 to 3"),
    "prefill of a sequence too high": ({"prefill": slice_of([5], seq=9)}, "ids go from 0 to 3"),
    "begin of a sequence too high": ({"begin": (Begin(4, GREEDY),)}, "ids go from 0 to 3"),
    "end of a sequence too high": ({"end": (4,)}, "ids go from 0 to 3"),
    "end of a negative sequence": ({"end": (-1,)}, "ids go from 0 to 3"),
    "draw of a sequence too high": ({"draws": (Draw(4, 0),)}, "ids go from 0 to 3"),
    "too many rows": ({"prefill": slice_of((PROMPT * 2)[:193], seq=2)}, "192 fit"),
    "two rows of one sequence": (
        {"rows": (Row(0, 100, 5), Row(0, 100, 6))},
        "two decode rows",
    ),
    "empty prefill": ({"prefill": slice_of([], seq=1, pos=10)}, "no rows"),
    "prefill and rows": (
        {"prefill": slice_of([5], seq=1, pos=10), "rows": (Row(0, 100, 5),)},
        "not both",
    ),
    "draw without computing": ({"draws": (Draw(0, 0),)}, "no logits"),
    "draw of another sequence": (
        {"rows": (Row(0, 100, 5),), "draws": (Draw(1, 0),)},
        "no logits",
    ),
    "draw from a prefill without logits": (
        {"prefill": slice_of([5], seq=0, pos=100, logits=False), "draws": (Draw(0, 0),)},
        "no logits",
    ),
    "draw without a sampler": (
        {"prefill": slice_of([5], seq=2), "draws": (Draw(2, 0),)},
        "no sampler",
    ),
    "draw after the end": (
        {"end": (0,), "prefill": slice_of([5], seq=0), "draws": (Draw(0, 0),)},
        "no sampler",
    ),
    "negative seed": ({"rows": (Row(0, 100, 5),), "draws": (Draw(0, -1),)}, "seed"),
    "seed that means any": (
        {"rows": (Row(0, 100, 5),), "draws": (Draw(0, 0xFFFFFFFF),)},
        "seed",
    ),
    "seed of 33 bits": ({"rows": (Row(0, 100, 5),), "draws": (Draw(0, 2**32),)}, "seed"),
    "prefill beyond n_ctx": (
        {"prefill": slice_of((PROMPT * 2)[:157], seq=0, pos=100)},
        "exceed n_ctx 256",
    ),
}


async def prepared(rig: Rig) -> tuple[Engine, list[int]]:
    """An engine as the table above says, and the greedy tokens of sequence 0."""
    engine = await rig.load()
    expected = await rig.generate(engine, PROMPT[:100], 5)
    first = await rig.prefill(engine, PROMPT[:100])
    await rig.prefill(engine, PROMPT[:10], seq=1)
    assert first.token == expected[0]
    return engine, expected


@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_plan_is_refused_and_changes_nothing(rig: Rig, name: str) -> None:
    parts, message = BROKEN[name]
    engine, expected = await prepared(rig)
    with pytest.raises(DecodeFailed, match=message):
        await rig.step(engine, **parts)
    assert await rig.go_on(engine, expected[0], 100, 4) == expected[1:]
    other = await rig.step(engine, rows=(Row(1, 10, 5),), draws=(Draw(1, 0),))
    assert other.positions == {1: 11}


async def test_a_refused_begin_gives_no_sampler(rig: Rig) -> None:
    engine, _ = await prepared(rig)
    with pytest.raises(DecodeFailed, match="gap"):
        await rig.step(engine, begin=(Begin(2, RANDOM),), rows=(Row(2, 7, 5),))
    with pytest.raises(DecodeFailed, match="no sampler"):
        await rig.step(engine, prefill=slice_of([5], seq=2), draws=(Draw(2, 0),))


async def test_a_full_sequence_takes_no_further_token(rig: Rig) -> None:
    """Llama.cpp itself would let a recurrent model go on."""
    engine = await rig.load()
    await rig.step(engine, begin=(Begin(0, GREEDY),))
    for pos in (0, 128):
        await rig.step(engine, prefill=slice_of(PROMPT[:128], pos=pos))
    with pytest.raises(DecodeFailed, match="exceed n_ctx 256"):
        await rig.step(engine, rows=(Row(0, 256, 5),))
    with pytest.raises(DecodeFailed, match="exceed n_ctx 256"):
        await rig.step(engine, prefill=slice_of([5], pos=256))


async def test_a_refused_step_can_be_repeated_under_its_number(rig: Rig) -> None:
    engine, expected = await prepared(rig)
    with pytest.raises(DecodeFailed):
        await rig.step(engine, number=900, rows=(Row(0, 101, 5),))
    outcome = await rig.step(
        engine, number=900, rows=(Row(0, 100, expected[0]),), draws=(Draw(0, 0),)
    )
    assert outcome.sampled[0].token == expected[1]


async def test_a_vocabulary_alone_cannot_generate(rig: Rig) -> None:
    loading = rig.kind.backend().open(
        rig.kind.path(), ModelConfig(vocab_only=True), small_context()
    )
    await on_thread(lambda: loading.load(lambda _: True))
    engine = await rig.on_lane(loading.warm_up)
    rig.engines.append(engine)
    assert not engine.capabilities.generate
    for parts in ({"slices": (slice_of([5]),)}, {"rows": (Row(0, 0, 5),)}):
        plan = StepPlan(number=1, **parts)
        with pytest.raises(DecodeFailed, match="cannot generate"):
            await rig.on_lane(lambda plan=plan: engine.step(plan))  # type: ignore[misc]
    assert engine.detokenize(array.array("i", [65])) != ""
