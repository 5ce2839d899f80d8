"""The pool of sequences: lowest free id first, nothing handed out twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama.model.sequences import Sequences


def test_the_lowest_free_id_comes_first() -> None:
    pool = Sequences(4)
    assert [pool.take() for _ in range(4)] == [0, 1, 2, 3]
    for seq in (2, 0, 3):
        pool.give_back(seq)
    assert [pool.take() for _ in range(3)] == [0, 2, 3]


def test_an_empty_pool_says_so() -> None:
    pool = Sequences(1)
    pool.take()
    assert pool.free == 0
    with pytest.raises(LookupError, match="all sequences are taken"):
        pool.take()


@pytest.mark.parametrize("seq", [-1, 0, 1, 4])
def test_what_was_not_taken_cannot_be_given_back(seq: int) -> None:
    pool = Sequences(4)
    with pytest.raises(KeyError):
        pool.give_back(seq)
    assert pool.free == 4


@given(st.integers(1, 8), st.lists(st.integers(0, 8)))
def test_ids_are_free_or_taken_whatever_comes(n: int, moves: list[int]) -> None:
    pool, taken = Sequences(n), set[int]()
    for move in moves:
        if move < n and move in taken:
            pool.give_back(move)
            taken.remove(move)
        elif pool.free:
            seq = pool.take()
            assert seq == min(set(range(n)) - taken)
            taken.add(seq)
        pool.check_integrity()
        assert pool.free == n - len(taken)


def test_a_broken_pool_is_found_out() -> None:
    pool = Sequences(2)
    pool._taken.add(0)
    with pytest.raises(RuntimeError, match=r"\[0, 1\] free and \{0\} taken"):
        pool.check_integrity()
