"""Buffers whose pages are warm are used again, two of them at most."""

from __future__ import annotations

import numpy as np
import pytest

from erllama.backend.llama import states
from erllama.backend.llama.states import Buffers


def test_a_buffer_that_fits_is_used_again_the_smallest_first() -> None:
    buffers = Buffers()
    small, large = np.empty(100, np.uint8), np.empty(1_000, np.uint8)
    buffers.give_back(large)
    buffers.give_back(small)
    assert buffers.take(50) is small
    assert buffers.take(50) is large
    assert len(buffers.take(50)) >= 50


def test_a_buffer_that_is_too_small_is_left_for_others() -> None:
    buffers = Buffers()
    small = np.empty(100, np.uint8)
    buffers.give_back(small)
    assert len(buffers.take(101)) >= 101
    assert buffers.take(100) is small


def test_the_two_largest_are_kept() -> None:
    buffers = Buffers()
    given = [np.empty(size, np.uint8) for size in (300, 100, 400, 200)]
    for buffer in given:
        buffers.give_back(buffer)
    assert buffers.take(1) is given[0]
    assert buffers.take(1) is given[2]
    assert len(buffers.take(1)) == 1


def test_one_buffer_may_be_of_any_size_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "_SECOND_BYTES", 150)
    buffers = Buffers()
    given = [np.empty(size, np.uint8) for size in (300, 100, 400)]
    for buffer in given:
        buffers.give_back(buffer)
    assert buffers.take(1) is given[1]
    assert buffers.take(1) is given[2]
    assert len(buffers.take(1)) == 1
