"""Chains that are cut anywhere and begun anew from the tokens draw on as if they were not."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from erllama.sampling import (
    Grammar,
    Greedy,
    IgnoreEnd,
    LogitBias,
    SamplerPlan,
    SamplingParams,
    draw_seed,
    plan_sampler,
)
from erllama.sampling.chain import Chain, Constraint, NothingToDraw
from erllama.sampling.constraint import GrammarConstraint, compile_grammar
from erllama.sampling.history import Breakers
from erllama.sampling.masks import Masks
from erllama.sampling.token_bytes import TokenBytes
from tests.sampling.grammars import JSON
from tests.sampling.words import SomeWords

N_VOCAB = 300


class ByteWords(SomeWords):
    """256 bytes, some words, and an end."""

    def __init__(self) -> None:
        super().__init__(N_VOCAB, {10: [()], 44: [(32,)]})
        words = [f"w{n}".encode() for n in range(N_VOCAB - 257)]
        self.tokens = TokenBytes([*(bytes([byte]) for byte in range(256)), *words, b""])

    def constraint(self, stage: Grammar) -> Constraint:
        return GrammarConstraint(Masks(compile_grammar(stage.text), self.tokens), self.ending())


def random_params(choose: random.Random) -> SamplingParams:
    """Any settings, most of them at once."""
    return SamplingParams(
        temperature=choose.choice([0, 0.7, 1.0, 1.5]),
        top_k=choose.choice([0, 5, 40]),
        top_p=choose.choice([0.8, 1.0]),
        min_p=choose.choice([0, 0.02]),
        typical_p=choose.choice([0.9, 1.0]),
        repeat_penalty=choose.choice([1.0, 1.2]),
        repeat_last_n=choose.choice([-1, 3, 20]),
        frequency_penalty=choose.choice([0, 0.3]),
        presence_penalty=choose.choice([0, 0.3]),
        dry_multiplier=choose.choice([0, 1.0]),
        dry_penalty_last_n=choose.choice([-1, 15]),
        xtc_probability=choose.choice([0, 0.5]),
        xtc_threshold=0.05,
        mirostat=choose.choice([0, 0, 1, 2]),
        logit_bias=choose.choice([{}, {65: 2.0, 66: float("-inf")}]),
        grammar=choose.choice([None, JSON, 'root ::= ([a-e] " ")* "\\n"?']),
    )


class Text:
    """Draws tokens for a context whose logits depend on the token before."""

    def __init__(self, params: SamplingParams, prompt: list[int], seed: int) -> None:
        self._plan = plan_sampler(params)
        self._words = ByteWords()
        self._n_prompt = len(prompt)
        self._seed = seed
        self.tokens = list(prompt)
        self.mu: float | None = None
        self.begin()

    def begin(self) -> None:
        """A new chain, made of what is known of the old one: its tokens, and mirostat's state."""
        self._chain = Chain(self._plan, self._words, self.tokens, self._n_prompt)
        self._chain.mu = self.mu

    def draw(self) -> None:
        rng = np.random.default_rng([self._seed, self.tokens[-1]])
        row = (rng.standard_normal(N_VOCAB) * 3).astype(np.float32)
        token = self._chain.sample(row, draw_seed(self._seed, len(self.tokens)))
        self.tokens.append(token)
        self.mu = self._chain.mu

    @property
    def over(self) -> bool:
        return self.tokens[-1] == N_VOCAB - 1


@pytest.mark.parametrize("seed", range(50))
def test_a_chain_cut_anywhere_goes_on_as_the_unbroken_one(seed: int) -> None:
    choose = random.Random(seed)
    params = random_params(choose)
    prompt = [choose.randrange(64, 80) for _ in range(choose.randrange(1, 60))]
    unbroken, broken = Text(params, prompt, seed), Text(params, prompt, seed)
    for _ in range(40):
        unbroken.draw()
        if choose.random() < 0.3:
            broken.begin()
        broken.draw()
        assert broken.tokens == unbroken.tokens
        assert broken.mu == unbroken.mu
        if unbroken.over:
            break


@pytest.mark.parametrize("version", [1, 2])
def test_mirostat_brings_the_surprise_to_tau_and_can_be_told_its_state(version: int) -> None:
    words, rng = SomeWords(5_000), np.random.default_rng(0)
    params: dict[str, Any] = {"mirostat": version, "mirostat_tau": 3.0, "temperature": 1.0}
    chain = Chain(plan_sampler(SamplingParams(**params)), words)
    assert chain.mu == 6.0
    surprises = []
    for seed in range(300):
        row = (rng.standard_normal(5_000) * 2.5).astype(np.float32)
        token = chain.sample(row, seed)
        powers = np.exp(row.astype(np.float64) - row.max())
        surprises.append(-np.log2(powers[token] / powers.sum()))
    assert chain.mu != 6.0
    assert 2.0 < np.mean(surprises[100:]) < 5.0
    chain.mu = 1.25
    assert chain.mu == 1.25


@pytest.mark.parametrize("mu", [-5.0, 0.5, 3.0, 9.0])
def test_mirostat_2_learns_as_its_paper_says(mu: float) -> None:
    words, shares = SomeWords(4), np.array([0.5, 0.25, 0.125, 0.125])
    params: dict[str, Any] = {"mirostat": 2, "mirostat_tau": 2.0, "temperature": 1.0}
    for seed in range(20):
        chain = Chain(plan_sampler(SamplingParams(**params)), words)
        chain.mu = mu
        token = chain.sample(np.log(shares).astype(np.float32), seed)
        kept = [share for share in shares if -np.log2(share) <= mu] or [shares[0]]
        surprise = -np.log2(shares[token] / sum(kept))
        assert shares[token] in kept
        assert chain.mu == pytest.approx(mu - 0.1 * (surprise - 2.0), abs=1e-5)


def test_without_mirostat_there_is_no_state_to_keep() -> None:
    chain = Chain(plan_sampler(SamplingParams()), SomeWords(5))
    chain.mu = 3.0
    assert chain.mu is None


def row(*values: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array(values, np.float32)


def test_a_biased_or_banned_token_is_drawn_more_or_never() -> None:
    stages = (LogitBias((1,), (5.0,), (2,)), Greedy())
    chain = Chain(SamplerPlan(stages), SomeWords(4))
    assert chain.sample(row(3, 0, 9, 0), 0) == 1


def test_ignoring_the_end_bans_what_ends_a_generation() -> None:
    assert Chain(SamplerPlan((IgnoreEnd(), Greedy())), SomeWords(3)).sample(row(0, 1, 9), 0) == 1
    assert Chain(SamplerPlan((Greedy(),)), SomeWords(3)).sample(row(0, 1, 9), 0) == 2


@pytest.mark.parametrize("options", [{"temperature": 0}, {}, {"top_k": 0}, {"mirostat": 2}])
def test_when_all_is_banned_it_says_what_banned_it(options: dict[str, Any]) -> None:
    bans = {0: float("-inf"), 1: float("-inf")}
    plan = plan_sampler(SamplingParams(logit_bias=bans, ignore_eos=True, **options))
    with pytest.raises(NothingToDraw, match="logit_bias and ignore_eos ban every token"):
        Chain(plan, SomeWords(3)).sample(row(1, 2, 3), 0)


def test_when_the_grammar_allows_no_token_it_says_so() -> None:
    plan = plan_sampler(SamplingParams(grammar='root ::= "a"', logit_bias={97: float("-inf")}))
    with pytest.raises(NothingToDraw, match="the grammar allows no token"):
        Chain(plan, ByteWords()).sample(np.zeros(N_VOCAB, np.float32), 0)


def test_a_text_that_does_not_match_its_grammar_cannot_be_gone_on_with() -> None:
    plan = plan_sampler(SamplingParams(grammar='root ::= "ab"'))
    Chain(plan, ByteWords(), [120, 97], 1)
    with pytest.raises(NothingToDraw, match="token 120 of the text so far does not match"):
        Chain(plan, ByteWords(), [120, 97], 0)


def test_the_prompt_counts_for_penalties_and_not_for_the_grammar() -> None:
    params = SamplingParams(temperature=0, presence_penalty=5.0, grammar="root ::= [ab]+")
    logits = np.zeros(N_VOCAB, np.float32)
    logits[[97, 98]] = 2, 1
    chain = Chain(plan_sampler(params), ByteWords(), [97], 1)
    assert chain.sample(logits, 0) == 98


@pytest.mark.parametrize("seed", range(8))
def test_what_was_drawn_before_leaves_nothing_behind_in_the_arrays_that_are_used_again(
    seed: int,
) -> None:
    choose, rng = random.Random(seed), np.random.default_rng(seed)
    options: dict[str, Any] = {
        "top_k": choose.choice([0, 0, 2_000]),
        "typical_p": choose.choice([0.7, 1.0]),
        "top_p": choose.choice([0.9, 1.0]),
        "xtc_probability": choose.choice([0, 1.0]),
        "xtc_threshold": 0.01,
        "logit_bias": {1: 2.0},
    }
    plan, words = plan_sampler(SamplingParams(**options)), SomeWords(5_000)
    chain = Chain(plan, words)
    for draw in range(30):
        logits = (rng.standard_normal(5_000) * choose.choice([0.3, 2, 9])).astype(np.float32)
        logits[rng.random(5_000) < choose.choice([0, 0.5, 0.999])] = -np.inf
        logits[7] = 1
        before = logits.copy()
        assert chain.sample(logits, draw) == Chain(plan, words).sample(logits, draw)
        assert np.array_equal(logits, before)


def test_what_a_breaker_spells_is_asked_of_the_words() -> None:
    asked: list[Any] = []

    class Asked(SomeWords):
        def breakers(self, texts: Any) -> Breakers:
            asked.append(texts)
            return {}

    params = SamplingParams(dry_multiplier=1.0, dry_sequence_breakers=("x", "y"))
    Chain(plan_sampler(params), Asked(5), [1, 2])
    assert asked == [("x", "y")]
