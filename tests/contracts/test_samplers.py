"""Samplers in an engine: checked before, begun anew in the middle, failing alone."""

from __future__ import annotations

import array
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from erllama.backend.base import Begin, Draw, Engine, Row, Sampled
from erllama.backend.lane import Lane
from erllama.errors import DecodeFailed, InvalidGrammar, RequestError
from erllama.sampling import SamplerPlan, SamplingParams, draw_seed, plan_sampler
from tests.contracts.rig import GREEDY, PLAIN, PROMPT, Rig, on_thread, slice_of
from tests.sampling.grammars import JSON

SEED = 11


@pytest_asyncio.fixture
async def plain(lane: Lane) -> AsyncIterator[Rig]:
    """A rig of the plain family: what is drawn from logits is the same for all."""
    rig = Rig(PLAIN, lane, lane.new_owner())
    await on_thread(rig.kind.path)
    yield rig
    await rig.close()


def planned(**options: Any) -> SamplerPlan:
    return plan_sampler(SamplingParams(**options))


async def test_a_biased_token_that_there_is_not_is_refused_before(rig: Rig) -> None:
    engine = await rig.load()
    n_vocab = engine.info.n_vocab
    await on_thread(lambda: engine.prepare(planned(logit_bias={n_vocab - 1: 1.0})))
    for bias in (1.0, float("-inf")):
        with pytest.raises(RequestError, match=f"logit_bias: token id {n_vocab} is not in the"):
            await on_thread(lambda b=bias: engine.prepare(planned(logit_bias={n_vocab: b})))  # type: ignore[misc]


async def test_a_wrong_grammar_is_refused_before_with_its_place(rig: Rig) -> None:
    engine = await rig.load()
    await on_thread(lambda: engine.prepare(planned(grammar=JSON)))
    with pytest.raises(InvalidGrammar, match="grammar: line 1, column 10: the rule `x`"):
        await on_thread(lambda: engine.prepare(planned(grammar="root ::= x")))


SETTINGS: dict[str, dict[str, Any]] = {
    "penalties": {"repeat_penalty": 1.3, "frequency_penalty": 0.2, "repeat_last_n": -1},
    "dry": {"dry_multiplier": 2.0, "dry_allowed_length": 1},
    "grammar": {"grammar": JSON, "temperature": 1.5},
    "mirostat": {"mirostat": 1},
    "mirostat 2": {"mirostat": 2, "frequency_penalty": 0.5},
    "all": {
        "grammar": "root ::= [a-z ]*",
        "dry_multiplier": 1.0,
        "xtc_probability": 0.5,
        "typical_p": 0.9,
        "presence_penalty": 1.0,
        "logit_bias": {7: 2.0, 8: float("-inf")},
        "ignore_eos": True,
        "logprobs": 2,
    },
}


class Sequence:
    """A generation on one sequence that can be given a new sampler at any time."""

    def __init__(self, rig: Rig, engine: Engine, plan: SamplerPlan, seq: int) -> None:
        self._rig = rig
        self._engine = engine
        self._plan = plan
        self._seq = seq
        self.drawn: list[Sampled] = []

    def begin(self, keep: int) -> tuple[Begin, ...]:
        tokens = array.array("i", [*PROMPT, *(one.token for one in self.drawn)])
        mu = self.drawn[-1].mu if self.drawn else None
        return (Begin(self._seq, self._plan, keep, tokens, len(PROMPT), mu),)

    async def start(self) -> None:
        await self._step(begin=self.begin(0), prefill=slice_of(PROMPT, seq=self._seq))

    async def go_on(self, *, anew: bool) -> None:
        at = len(PROMPT) + len(self.drawn) - 1
        row = Row(self._seq, at, self.drawn[-1].token)
        await self._step(begin=self.begin(at) if anew else (), rows=(row,))

    async def _step(self, **parts: Any) -> None:
        draw = Draw(self._seq, draw_seed(SEED, len(PROMPT) + len(self.drawn)))
        outcome = await self._rig.step(self._engine, draws=(draw,), **parts)
        assert not outcome.failures
        self.drawn += outcome.sampled

    @property
    def over(self) -> bool:
        return self.drawn[-1].end


@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS.keys())
async def test_a_sampler_made_anew_from_the_tokens_goes_on_as_the_old_one(
    options: dict[str, Any], plain: Rig
) -> None:
    engine = await plain.load()
    unbroken = Sequence(plain, engine, planned(**options), 0)
    broken = Sequence(plain, engine, planned(**options), 1)
    await unbroken.start()
    await broken.start()
    for step in range(16):
        if unbroken.over:
            break
        await unbroken.go_on(anew=False)
        await broken.go_on(anew=step % 3 == 1)
    assert len(unbroken.drawn) > 3
    mine, others = unbroken.drawn, broken.drawn
    assert [one.token for one in mine] == [one.token for one in others]
    assert [(one.mu, one.logprobs) for one in mine] == [(one.mu, one.logprobs) for one in others]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"grammar": "root ::= x"}, "grammar: line 1"),
        ({"grammar": 'root ::= "\\u0999"'}, "the text so far does not match it"),
    ],
)
async def test_a_sampler_that_cannot_be_made_fails_its_own_draw_alone(
    options: dict[str, Any], said: str, plain: Rig
) -> None:
    engine = await plain.load()
    history = array.array("i", [5, 6])
    begin = (Begin(0, planned(**options), 0, history, 1), Begin(1, GREEDY))
    await plain.step(engine, begin=begin)
    await plain.step(engine, prefill=slice_of(PROMPT[:2], seq=0))
    await plain.step(engine, prefill=slice_of(PROMPT[:2], seq=1))
    rows = (Row(0, 2, 5), Row(1, 2, 5))
    outcome = await plain.step(engine, rows=rows, draws=(Draw(0, 1), Draw(1, 1)))
    assert outcome.status == "done"
    assert [one.seq for one in outcome.sampled] == [1]
    assert list(outcome.failures) == [0]
    assert said in outcome.failures[0]


async def test_log_probabilities_are_those_of_the_raw_logits(plain: Rig) -> None:
    engine = await plain.load()
    plan = planned(logprobs=3, temperature=2.0, logit_bias={9: 50.0}, frequency_penalty=1.0)
    outcome = await plain.step(
        engine,
        begin=(Begin(0, plan, 0, array.array("i", PROMPT), len(PROMPT)),),
        prefill=slice_of(PROMPT),
        draws=(Draw(0, 1),),
        keep_logits=True,
    )
    row = np.frombuffer(outcome.logits[0], np.float32).astype(np.float64)
    expected = row - np.log(np.exp(row).sum())
    (sampled,) = outcome.sampled
    assert sampled.token == 9
    assert sampled.logprobs is not None
    assert sampled.logprobs.token == 9
    assert sampled.logprobs.logprob == pytest.approx(expected[9], abs=1e-4)
    top = sorted(range(len(row)), key=lambda token: -row[token])[:3]
    assert [token for token, _ in sampled.logprobs.top] == top
    assert [share for _, share in sampled.logprobs.top] == pytest.approx(expected[top], abs=1e-4)


async def test_without_being_asked_nothing_is_reported(plain: Rig) -> None:
    sampled = await plain.prefill(await plain.load(), PROMPT)
    assert (sampled.logprobs, sampled.mu) == (None, None)


@pytest.mark.parametrize(
    ("history", "grammar_from", "said"),
    [([-1], 0, "outside the vocabulary"), ([10**6], 0, "outside"), ([1, 2], 3, "begins at 3 of 2")],
)
async def test_a_history_that_cannot_be_is_refused(
    history: list[int], grammar_from: int, said: str, rig: Rig
) -> None:
    engine = await rig.load()
    begin = Begin(0, GREEDY, 0, array.array("i", history), grammar_from)
    with pytest.raises(DecodeFailed, match=said):
        await rig.step(engine, begin=(begin,))
