"""Views of native logits: made once for an address, never read elsewhere than llama.cpp says."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from erllama.backend.llama import logits as logits_module
from erllama.backend.llama.logits import LogitRows, are_finite

N_VOCAB = 5


class Buffer:
    """Plays the output buffer of a context."""

    def __init__(self, rows: int) -> None:
        self.cells = (ctypes.c_float * (rows * N_VOCAB))(*range(rows * N_VOCAB))
        self.shift = 0

    def get(self, _context: object, row: int) -> int:
        return ctypes.addressof(self.cells) + 4 * N_VOCAB * (row + self.shift)


def reader(buffer: Buffer) -> LogitRows:
    rows = LogitRows(N_VOCAB)
    rows._get = buffer.get
    return rows


def values(rows: LogitRows, row: int) -> list[float]:
    view = rows.row(None, row)
    assert view is not None
    return [float(value) for value in view]


def test_a_view_shows_what_the_buffer_holds_now() -> None:
    buffer = Buffer(3)
    rows = reader(buffer)
    assert values(rows, 1) == [5, 6, 7, 8, 9]
    buffer.cells[5] = 50.0
    assert values(rows, 1) == [50, 6, 7, 8, 9]


def test_a_row_that_moved_is_read_where_it_is() -> None:
    buffer = Buffer(3)
    rows = reader(buffer)
    assert values(rows, 0) == [0, 1, 2, 3, 4]
    buffer.shift = 2
    assert values(rows, 0) == [10, 11, 12, 13, 14]


def test_the_view_of_an_address_is_made_once() -> None:
    rows = reader(Buffer(2))
    assert rows.row(None, 1) is rows.row(None, 1)
    assert rows.row(None, 0) is not rows.row(None, 1)


def test_a_row_without_logits_has_no_view() -> None:
    rows = LogitRows(N_VOCAB)
    rows._get = lambda *_: None
    assert rows.row(None, 0) is None


def test_only_so_many_views_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logits_module, "_MOST_VIEWS", 4)
    rows = reader(Buffer(10))
    for row in range(10):
        assert values(rows, row)[0] == row * N_VOCAB
        assert len(rows._views) <= 4


@pytest.mark.parametrize(
    ("values", "finite"),
    [
        ([1, 2], True),
        ([1, -np.inf], True),
        ([1, np.inf], False),
        ([np.nan, 1], False),
        ([-np.inf, -np.inf], False),
        (None, False),
    ],
)
def test_logits_are_finite_where_a_likeliest_token_exists(
    values: list[float] | None, finite: bool
) -> None:
    given = None if values is None else np.array(values, np.float32)
    assert are_finite(given) is finite
