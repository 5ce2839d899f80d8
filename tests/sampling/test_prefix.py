"""Ranking the likeliest tokens alone draws what ranking all would, and is done where it pays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from erllama.sampling import MinP, SamplingParams, Stage, Temperature, TopK, TopP, plan_sampler
from erllama.sampling.candidates import Candidates, Work
from erllama.sampling.chain import Chain
from erllama.sampling.prefix import ranked
from erllama.sampling.running import Floats
from erllama.sampling.uniform import Uniform
from tests.sampling.reference import drawn
from tests.sampling.words import SomeWords

N = 40_000
EVERY = N // 2_048 | 1  # logits that are looked at first

OFF: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "temperature": 1.0}
SETTINGS: dict[str, dict[str, Any]] = {
    "top_p": {**OFF, "top_p": 0.9},
    "a high top_p, cold": {**OFF, "top_p": 0.999, "temperature": 0.6},
    "a low top_p": {**OFF, "top_p": 0.05},
    "min_p": {**OFF, "min_p": 0.03, "temperature": 1.4},
    "top_p and min_p": {**OFF, "top_p": 0.9, "min_p": 0.02},
    "typical": {**OFF, "typical_p": 0.8},
    "all of them": {**OFF, "typical_p": 0.9, "top_p": 0.9, "min_p": 0.01, "temperature": 0.8},
}


def normal(spread: float) -> Any:
    return lambda rng: rng.standard_normal(N) * spread


def peaked(rng: np.random.Generator) -> Any:
    """A few tokens share nearly all; where they are is left to chance."""
    logits = rng.standard_normal(N)
    logits[rng.integers(0, N, 30)] += rng.uniform(8, 16, 30)
    return logits


def plateau(rng: np.random.Generator) -> Any:
    return np.where(rng.random(N) < 0.1, 5.0, 0.0) + rng.standard_normal(N) * 0.1


def ties(rng: np.random.Generator) -> Any:
    return rng.integers(0, 12, N)


def banned(rng: np.random.Generator) -> Any:
    return np.where(rng.random(N) < 0.9, -np.inf, rng.standard_normal(N) * 4)


SHAPES: dict[str, Any] = {
    "flat": normal(0.5),
    "random": normal(1.0),
    "steep": normal(4.0),
    "very steep": normal(9.0),
    "peaked": peaked,
    "plateau": plateau,
    "ties": ties,
    "banned": banned,
    "equal": lambda rng: np.zeros(N),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS.keys())
def test_a_draw_is_that_of_the_definitions(options: dict[str, Any], shape: Any) -> None:
    rng = np.random.default_rng(len(options))
    params = SamplingParams(**options)
    chain = Chain(plan_sampler(params), SomeWords(N))
    for seed in range(4):
        logits = shape(rng).astype(np.float32)
        assert chain.sample(logits, seed) in drawn(logits, params, Uniform().double(seed))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("mu", [-1.0, 0.5, 5.0, 9.0, 14.0, 30.0])
def test_mirostat_2_keeps_what_its_definition_says(mu: float, shape: Any) -> None:
    rng = np.random.default_rng(3)
    params = SamplingParams(mirostat=2, temperature=0.7)
    for seed in range(2):
        logits = shape(rng).astype(np.float32)
        chain = Chain(plan_sampler(params), SomeWords(N))
        chain.mu = mu
        assert chain.sample(logits, seed) in drawn(logits, params, Uniform().double(seed), mu)


def misleading(looked_at: float, else_: float) -> Floats:
    """Logits of which those looked at first give a wrong idea."""
    logits = np.full(N, else_) + np.random.default_rng(0).standard_normal(N) * 0.1
    logits[::EVERY] += looked_at - else_
    logits[1] = max(looked_at, else_) + 3.0
    return logits.astype(np.float32)


def two_seen() -> Floats:
    """Two tokens seem to have all the weight; others have, that are not looked at first."""
    logits = misleading(-20.0, -6.0)
    logits[[1, EVERY, 3 * EVERY]] = 0.0
    return logits


@pytest.mark.parametrize(
    "logits", [misleading(0.0, -20.0), misleading(-20.0, -8.0), misleading(-8.0, -4.0), two_seen()]
)
@pytest.mark.parametrize("p", [0.3, 0.9, 0.999])
def test_a_first_look_that_misleads_changes_no_draw(p: float, logits: Floats) -> None:
    params = SamplingParams(**{**OFF, "top_p": p})
    chain = Chain(plan_sampler(params), SomeWords(N))
    for seed in range(10):
        assert chain.sample(logits, seed) in drawn(logits, params, Uniform().double(seed))


STEEP = (np.random.default_rng(0).standard_normal(N) * 6).astype(np.float32)
FLAT = np.random.default_rng(0).standard_normal(N).astype(np.float32)


@pytest.mark.parametrize(
    ("stages", "mu"),
    [
        ([TopK(50)], None),
        ([TopP(0.9)], None),
        ([TopP(0.9), Temperature(0.5)], None),
        ([MinP(0.1)], None),
        ([TopP(0.99999), MinP(0.1)], None),
        ([Temperature(2.0)], 8.0),
        ([], 8.0),
    ],
)
def test_few_are_ranked_where_the_first_stage_drops_most(
    stages: list[Stage], mu: float | None
) -> None:
    found = ranked(STEEP, stages, Work(), mu)
    assert 0 < len(found) < N // 20
    assert np.array_equal(found.down, np.sort(STEEP)[::-1][: len(found)])


@pytest.mark.parametrize(
    ("logits", "stages"),
    [(FLAT, [TopP(0.95)]), (STEEP, [Temperature(0.8)]), (STEEP, []), (STEEP, [TopK(N)])],
)
def test_all_are_ranked_where_most_are_needed(logits: Floats, stages: list[Stage]) -> None:
    assert np.array_equal(ranked(logits, stages, Work()).down, np.sort(logits)[::-1])


def test_the_sum_of_all_counts_those_that_are_not_ranked() -> None:
    shares = np.exp(STEEP.astype(np.float64) - STEEP.max())
    found = ranked(STEEP, [TopP(0.9)], Work())
    assert found.total == pytest.approx(shares.sum(), rel=1e-6)
    assert found.running.total < found.total
    assert Candidates(found.down).total == found.running.total


def test_none_is_left_of_banned_ones() -> None:
    for stages in ([TopP(0.9)], [MinP(0.1)], []):
        assert not len(ranked(np.full(N, -np.inf, np.float32), stages, Work(), 5.0))
