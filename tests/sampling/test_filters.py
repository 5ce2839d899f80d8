"""The filters against plain references, for few candidates and for many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama.sampling import filters
from erllama.sampling.candidates import Candidates
from erllama.sampling.logprobs import LogProbs
from erllama.sampling.running import Floats, Running
from erllama.sampling.uniform import Uniform

SIZES = [1, 2, 40, 511, 512, 513, 5_000, 40_000]
SPREADS = [0.0, 0.3, 3.0, 12.0]


def logits(n: int, spread: float, seed: int = 0) -> Floats:
    made: Floats = (np.random.default_rng(seed).standard_normal(n) * spread).astype(np.float32)
    return made


def falling(n: int, spread: float) -> Floats:
    return np.sort(logits(n, spread))[::-1]


def softmax(values: Floats) -> Any:
    powers = np.exp(values.astype(np.float64) - values.max())
    return powers / powers.sum()


@pytest.mark.parametrize("n", SIZES)
def test_running_sums_are_those_of_adding_one_by_one(n: int) -> None:
    weights = np.random.default_rng(n).random(n).astype(np.float32)
    sums = np.cumsum(weights, dtype=np.float64)
    running = Running(weights)
    assert running.total == pytest.approx(float(sums[-1]))
    for at in {0, 1, n // 2, n - 1, n}:
        assert running.before(at) == pytest.approx(float(sums[at - 1]) if at else 0.0)
    for share in (1e-9, 0.1, 0.5, 0.9999):
        target = share * running.total
        assert running.reach(target) == int(np.searchsorted(sums, target))
    assert running.reach(running.total * 1.1) == n - 1


@pytest.mark.parametrize("k", [1, 2, 40, 300, 3_000, 10**9])
@pytest.mark.parametrize("n", SIZES)
def test_the_largest_are_found_and_ranked(n: int, k: int) -> None:
    values = logits(n, 2.0)
    assert filters.ranked(values, k).tolist() == sorted(values.tolist(), reverse=True)[:k]


def test_what_is_banned_is_no_candidate() -> None:
    values = logits(10_000, 1.0)
    values[5:] = -np.inf
    assert len(filters.ranked(values, 40)) == 5
    assert len(filters.ranked(values, 10**6)) == 5
    assert not len(filters.ranked(np.full(10_000, -np.inf, np.float32), 40))


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=1, max_size=12))
def test_of_equal_logits_the_lower_id_is_ranked_first(values: list[float]) -> None:
    row = np.array(values, np.float32)
    down = filters.ranked(row, len(row))
    ids = [filters.token_at(row, down, rank) for rank in range(len(row))]
    assert ids == sorted(range(len(row)), key=lambda token: (-values[token], token))


def top_p(down: Floats, p: float) -> int:
    return int(np.searchsorted(np.cumsum(softmax(down)), p)) + 1


def min_p(down: Floats, p: float) -> int:
    shares = softmax(down)
    return int((shares >= p * shares[0] * (1 - 1e-6)).sum())


@pytest.mark.parametrize("p", [0.001, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize(("stage", "plain"), [(filters.top_p, top_p), (filters.min_p, min_p)])
def test_top_p_and_min_p_keep_what_their_definitions_say(
    stage: Callable[[Candidates, float], filters.Run],
    plain: Callable[[Floats, float], int],
    n: int,
    spread: float,
    p: float,
) -> None:
    down = falling(n, spread)
    start, stop = stage(Candidates(down), p)
    assert start == 0
    assert abs(stop - plain(down, p)) <= (1 if spread else 20)  # equal weights, added in two ways


def typical(down: Floats, p: float) -> set[int]:
    """Meister et al. 2022, in their words: sort by distance, keep until the mass is reached."""
    shares = softmax(down)
    surprise = -np.log(np.maximum(shares, 1e-300))
    distance = np.abs(surprise - (shares * surprise).sum())
    order = np.argsort(distance, kind="stable")
    last = int(np.searchsorted(np.cumsum(shares[order]), p, side="right"))
    return {int(rank) for rank in order[: last + 1]}


@pytest.mark.parametrize("p", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("spread", [0.3, 3.0, 12.0])
@pytest.mark.parametrize("n", SIZES)
def test_typical_keeps_what_its_definition_says(n: int, spread: float, p: float) -> None:
    down = falling(n, spread)
    start, stop = filters.typical(Candidates(down), p)
    plain = typical(down, p)
    assert len(plain ^ set(range(start, stop))) <= (0 if n <= 513 else 3)


@pytest.mark.parametrize("threshold", [0.0001, 0.01, 0.2])
@pytest.mark.parametrize("n", SIZES)
def test_xtc_drops_all_that_reach_the_threshold_but_the_last(n: int, threshold: float) -> None:
    down = falling(n, 2.0)
    reaching = int((softmax(down) >= threshold).sum())
    assert filters.xtc(Candidates(down), threshold) == (max(reaching - 1, 0), n)


@pytest.mark.parametrize("n", [2, 40, 3_000])
def test_picks_are_as_frequent_as_the_probabilities(n: int) -> None:
    down = falling(n, 2.0)
    uniforms = (np.arange(20_000) + 0.5) / 20_000
    counts = np.bincount([filters.pick(Candidates(down), float(u)) for u in uniforms], minlength=n)
    assert np.abs(counts / 20_000 - softmax(down)).max() < 1e-4


def test_a_uniform_number_of_zero_picks_the_likeliest() -> None:
    assert filters.pick(Candidates(falling(3_000, 1.0)), 0.0) == 0


def test_the_random_words_are_those_of_a_mersenne_twister() -> None:
    # the first two outputs of std::mt19937 with its default seed, 5489 (C++11, 26.5.5)
    low, high = 3_499_211_612, 581_869_302
    uniform = Uniform()
    assert uniform.double(5_489) == (low + high * 2**32) / 2**64
    assert uniform.single(5_489) == float(np.float32(low) / np.float32(2**32))
    assert uniform.double(5_489) == uniform.double(5_489)


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("n", [1, 40, 5_000])
def test_log_probabilities_are_those_of_a_plain_log_softmax(n: int, spread: float) -> None:
    row = logits(n, spread) + np.float32(7)
    expected = np.log(softmax(row))
    report = LogProbs(row)
    for token in {0, n // 2, n - 1}:
        assert report.of(token) == pytest.approx(float(expected[token]), rel=1e-5, abs=1e-5)
    likeliest = report.likeliest(7)
    order = sorted(range(n), key=lambda token: (-row[token], token))[:7]
    assert [token for token, _ in likeliest] == order
    assert [share for _, share in likeliest] == pytest.approx(
        [float(expected[token]) for token in order], rel=1e-5, abs=1e-5
    )
    assert report.likeliest(0) == ()


def test_log_probabilities_of_banned_tokens_are_minus_infinity() -> None:
    row = np.array([0, -np.inf], np.float32)
    assert LogProbs(row).of(1) == -np.inf
    assert LogProbs(row).likeliest(5) == ((0, 0.0),)
