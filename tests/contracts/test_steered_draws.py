"""Draws that take a given token, or the likeliest one, in place of a random one."""

from __future__ import annotations

import array
from typing import Any

import pytest

from erllama.backend.base import Begin, Draw, Row, Sampled
from erllama.errors import DecodeFailed
from erllama.sampling import SamplingParams, plan_sampler
from tests.contracts.rig import GREEDY, PLAIN, PROMPT, RANDOM, STUB, Rig, slice_of

FORCED = 42
# a token that is always the likeliest, until it was seen
PENALIZED = plan_sampler(
    SamplingParams(temperature=0, logit_bias={FORCED: 50.0}, presence_penalty=100, repeat_last_n=-1)
)


async def draw(rig: Rig, *draws: Draw, **options: object) -> tuple[Sampled, ...]:
    engine = await rig.load()
    begin = Begin(0, RANDOM)
    outcome = await rig.step(engine, begin=(begin,), prefill=slice_of(PROMPT), draws=draws)
    assert outcome.status == "done", outcome.detail
    return outcome.sampled


async def test_a_forced_token_is_drawn_whatever_the_logits_say(rig: Rig) -> None:
    (sampled,) = await draw(rig, Draw(0, 5, forced=FORCED))
    assert (sampled.token, sampled.end) == (FORCED, False)


@pytest.mark.parametrize("rig", [STUB, PLAIN], ids=["stub", "plain"], indirect=True)
async def test_a_greedy_draw_of_a_random_sampler_is_that_of_a_greedy_one(rig: Rig) -> None:
    engine = await rig.load()
    likeliest = (await rig.prefill(engine, PROMPT, sampler=GREEDY)).token
    free = set()
    for seed in range(8):
        free.add((await rig.prefill(engine, PROMPT, sampler=RANDOM, seed=seed)).token)
        (sampled,) = (
            await rig.step(
                engine,
                begin=(Begin(0, RANDOM),),
                prefill=slice_of(PROMPT),
                draws=(Draw(0, seed, greedy=True),),
            )
        ).sampled
        assert sampled.token == likeliest
    assert len(free) > 1


@pytest.mark.parametrize("rig", [PLAIN], ids=["plain"], indirect=True)
async def test_a_sampler_goes_on_behind_a_forced_token(rig: Rig) -> None:
    engine = await rig.load()
    history = array.array("i", (token for token in PROMPT if token != FORCED))
    options: dict[str, Any] = {
        "begin": (Begin(0, PENALIZED, history=history),),
        "prefill": slice_of(history),
    }
    row = Row(0, len(history), FORCED)
    for forced in (None, FORCED):
        first = await rig.step(engine, draws=(Draw(0, 0, forced=forced),), **options)
        assert first.sampled[0].token == FORCED
        after = await rig.step(engine, rows=(row,), draws=(Draw(0, 0),))
        assert after.sampled[0].token != FORCED


async def test_a_forced_token_outside_the_vocabulary_is_refused(rig: Rig) -> None:
    engine = await rig.load()
    for forced in (-1, engine.info.n_vocab):
        with pytest.raises(DecodeFailed, match="outside the vocabulary"):
            await rig.step(
                engine,
                begin=(Begin(0, RANDOM),),
                prefill=slice_of(PROMPT),
                draws=(Draw(0, 0, forced=forced),),
            )
