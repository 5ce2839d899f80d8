"""Against a plain sorted list."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama.cache import sorted_buckets
from erllama.cache.sorted_buckets import SortedBuckets

Numbers = st.lists(st.integers(0, 60), unique=True, max_size=60)


def double(item: int) -> int:
    return 2 * item


@pytest.fixture(autouse=True, scope="module")
def small_buckets() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sorted_buckets, "FULL", 4)
        yield


@given(Numbers, st.integers(0, 60), st.randoms(use_true_random=False))
def test_it_finds_what_a_sorted_list_finds(
    numbers: list[int], n_gone: int, chance: random.Random
) -> None:
    found: SortedBuckets[int] = SortedBuckets(double)
    for number in numbers:
        found.add(number)
    gone = chance.sample(numbers, min(n_gone, len(numbers)))
    for number in gone:
        found.discard(number)
    plain = sorted(set(numbers) - set(gone))
    assert bool(found) == bool(plain)
    for key in range(-1, 125):
        place = bisect_left(plain, key, key=double)
        before = plain[place - 1] if place else None
        there = plain[place] if place < len(plain) else None
        assert found.around(key) == (before, there)


@pytest.mark.parametrize("order", [1, -1])
def test_no_bucket_grows_beyond_its_size_however_many_there_are(order: int) -> None:
    found: SortedBuckets[int] = SortedBuckets(double)
    for number in range(0, order * 1_000, order):
        found.add(number)
    sizes = [len(bucket) for bucket in found._buckets]
    assert sum(sizes) == 1_000
    assert max(sizes) <= 4
    for number in range(0, order * 1_000, order):
        found.discard(number)
    assert not found._buckets
