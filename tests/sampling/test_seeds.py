"""Random numbers keyed by seed and position."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama.sampling import draw_seed, fresh_seed, seeds
from erllama.sampling.params import MAX_SEED

SEEDS = st.integers(0, MAX_SEED)
POSITIONS = st.integers(0, 2**24)


def splitmix64(state: int, n: int) -> int:
    """The n-th output (from 0) of Vigna's splitmix64.c, written down independently."""
    z = (state + (n + 1) * 0x9E3779B97F4A7C15) % 2**64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    return z ^ (z >> 31)


def test_the_mixer_is_splitmix64() -> None:
    # the first outputs of splitmix64.c from state 0 and from 1234567
    assert seeds._mix(0) == 0xE220A8397B1DCDAF
    assert seeds._mix(1_234_567) == 6_457_827_717_110_365_317


@given(seed=SEEDS, position=POSITIONS)
def test_a_draw_s_seed_mixes_the_seed_then_the_position(seed: int, position: int) -> None:
    expected = splitmix64(splitmix64(seed, 0) ^ position, 0) >> 32
    assert draw_seed(seed, position) == (0 if expected == 0xFFFFFFFF else expected)


def test_known_values_never_change() -> None:
    """A seed that a user wrote down must mean the same in the next release."""
    assert [draw_seed(seed, at) for seed, at in ((0, 0), (0, 1), (42, 0), (MAX_SEED, 4_095))] == [
        2_802_244_911,
        146_079_144,
        1_474_427_578,
        2_367_713_356,
    ]


@given(seed=SEEDS, position=POSITIONS)
def test_seeds_are_32_bits_and_never_the_one_that_means_any(seed: int, position: int) -> None:
    assert 0 <= draw_seed(seed, position) < 0xFFFFFFFF


def test_the_value_that_means_any_seed_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeds, "_mix", lambda _: 2**64 - 1)
    assert draw_seed(1, 1) == 0


@given(seed=SEEDS, position=POSITIONS)
def test_neighbours_draw_something_else(seed: int, position: int) -> None:
    here = draw_seed(seed, position)
    assert here != draw_seed(seed, position + 1)
    assert here != draw_seed((seed + 1) % MAX_SEED, position)


def test_seed_and_position_are_not_interchangeable() -> None:
    same = [draw_seed(a, b) == draw_seed(b, a) for a in range(30) for b in range(a)]
    assert not any(same)


def test_xtc_draws_another_number_than_the_draw_itself() -> None:
    seeds_of_draws = [draw_seed(3, position) for position in range(200)]
    assert not set(seeds_of_draws) & {seeds.xtc_seed(seed) for seed in seeds_of_draws}
    assert seeds.xtc_seed(1) == seeds.xtc_seed(1)


def test_every_bit_is_set_half_of_the_time() -> None:
    n = 4_000
    values = [draw_seed(7, position) for position in range(n)]
    for bit in range(32):
        ones = sum(value >> bit & 1 for value in values)
        # six standard deviations of a fair coin
        assert abs(ones - n / 2) < 6 * (n / 4) ** 0.5
    assert len(set(values)) > n - 5


def test_fresh_seeds_differ_and_are_valid() -> None:
    drawn = {fresh_seed(number.to_bytes(8, "big")) for number in range(100)}
    assert len(drawn) == 100
    assert {fresh_seed(bytes(8)), fresh_seed(b"\xff" * 8)} == {0, MAX_SEED}
