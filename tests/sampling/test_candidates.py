"""What stages share is, to the bit, what each would have added up by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from erllama.sampling.candidates import Candidates, Work
from erllama.sampling.running import Floats, Running

SIZES = [1, 2, 40, 511, 512, 513, 5_000, 40_000]


def falling(n: int, spread: float, seed: int = 0) -> Floats:
    drawn = np.random.default_rng(seed).standard_normal(n) * spread
    return np.sort(drawn.astype(np.float32))[::-1].copy()


def plain(down: Floats) -> Floats:
    weights: Floats = np.exp(down - down[0])
    return weights


def bits(running: Running, n: int) -> list[float]:
    return [running.total, *(running.before(at) for at in (0, n // 3, n))]


@pytest.mark.parametrize("spread", [0.0, 0.3, 3.0, 12.0])
@pytest.mark.parametrize("n", SIZES)
def test_the_first_of_candidates_have_the_sums_of_others_that_were_made_anew(
    n: int, spread: float
) -> None:
    down = falling(n, spread)
    for stop in {1, (n + 1) // 2, n // 512 * 512 or 1, n}:
        candidates = Candidates(down)
        assert candidates.running.total > 0
        part = candidates.kept(0, stop)
        assert np.array_equal(part.weights, plain(down[:stop]))
        assert bits(part.running, stop) == bits(Running(plain(down[:stop])), stop)


def test_those_behind_heavy_ones_have_weights_of_their_own() -> None:
    down = falling(5_000, 4.0)
    candidates = Candidates(down)
    assert candidates.running.total > 0
    part = candidates.kept(1_000, 4_000)
    assert np.array_equal(part.weights, plain(down[1_000:4_000]))


@pytest.mark.parametrize(("start", "stop"), [(1, 2), (3, 700), (512, 1_024), (700, 4_000)])
def test_those_behind_some_as_light_as_they_are_keep_their_weights_and_sums(
    start: int, stop: int
) -> None:
    down = falling(5_000, 0.5)
    candidates = Candidates(down)
    assert candidates.running.total > 0
    part, anew = candidates.kept(start, stop), Candidates(down[start:stop].copy())
    assert np.array_equal(part.weights, candidates.weights[start:stop])
    scale = float(part.weights[0])
    assert part.running.total == pytest.approx(anew.running.total * scale, rel=1e-5)
    for share in (1e-9, 0.1, 0.5, 0.9, 1 - 1e-9):
        rank = part.running.reach(share * part.running.total)
        assert abs(rank - anew.running.reach(share * anew.running.total)) <= 1
        assert part.running.before(rank) <= share * part.running.total * (1 + 1e-5) + 1e-9
    n = stop - start
    nested = part.kept(n // 3, n)
    assert nested.running.total == pytest.approx(float(part.weights[n // 3 :].sum()), rel=1e-5)


def test_divided_logits_leave_those_before_as_they_were() -> None:
    down = falling(1_000, 2.0)
    before = down.copy()
    warm = Candidates(down).divided(np.float32(0.5))
    assert np.array_equal(warm.down, before / np.float32(0.5))
    assert np.array_equal(warm.divided(np.float32(4)).down, before * 2 / np.float32(4))
    assert np.array_equal(down, before)


@pytest.mark.parametrize("n", SIZES)
def test_a_share_is_reached_by_as_many_as_reach_it_exactly(n: int) -> None:
    def total(weights: Any) -> float:
        return float(weights.sum(dtype=np.float64))

    for seed in range(20):
        candidates = Candidates(falling(n, 0.5, seed))
        share = float(candidates.weights[n // 2] / total(candidates.weights))  # a hair's breadth
        for factor in (0.0, 0.999, 1 - 1e-7, 1.0, 1 + 1e-7, 1.001, 1e9):
            least = np.float32(share * factor * total(candidates.weights))
            exactly = int((candidates.weights >= least).sum())
            assert candidates.reaching(share * factor, total) == exactly


@pytest.mark.parametrize("n", SIZES)
def test_a_run_is_more_than_something_if_its_sums_say_so(n: int) -> None:
    choose = np.random.default_rng(n)
    weights = choose.random(n).astype(np.float32)
    running = Running(weights)
    for _ in range(200):
        start, stop = sorted(choose.integers(0, n + 1, 2).tolist())
        mass = running.before(stop) - running.before(start)
        for than in (mass, np.nextafter(mass, -1), mass * 0.9 - 0.1, mass * 1.1 + 0.1):
            assert running.more(start, stop, float(than)) == (mass > than)


def test_an_array_is_used_again_and_grows() -> None:
    work = Work()
    small = work.array("a", 5)
    small[:] = 3
    assert np.shares_memory(work.array("a", 4), small)
    assert not np.shares_memory(work.array("b", 5), small)
    assert len(work.array("a", 9)) == 9
    assert len(work.array("a", 2)) == 2
