"""The order of decode rows, and which gaps between them are filled."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama.backend.base import Row
from erllama.backend.llama.rows import gaps_to_fill, graph_cost, pad_gaps, pad_to
from erllama.errors import DecodeFailed


def rows_of(ids: Sequence[int]) -> list[Row]:
    return [Row(seq, 100 + seq, 7 + seq) for seq in ids]


def seqs(rows: Sequence[Row]) -> list[int]:
    return [row.seq for row in rows]


def test_rows_are_sorted_and_keep_what_they_say() -> None:
    layout = pad_gaps(rows_of([3, 1, 2]), lambda _: 0)
    assert list(layout.rows) == rows_of([1, 2, 3])
    assert list(layout.padding) == []


def test_a_lone_row_is_left_alone() -> None:
    layout = pad_gaps(rows_of([5]), lambda _: 0)
    assert (list(layout.rows), list(layout.padding)) == (rows_of([5]), [])


@pytest.mark.parametrize(
    ("ids", "filled"),
    [
        ([0, 2], []),
        ([0, 4], []),
        ([0, 1, 3], [2]),
        ([0, 2, 4, 6, 8], [1, 3, 5, 7]),
        ([0, 1, 2, 3, 5, 6, 7, 8], [4]),
        ([0, 1, 2, 3, 100, 101, 102, 103], []),
    ],
    ids=str,
)
def test_gaps_are_filled_where_that_takes_less_time(ids: list[int], filled: list[int]) -> None:
    assert list(pad_gaps(rows_of(ids), lambda _: 0).padding) == filled


def test_padding_goes_where_the_idle_sequence_ends() -> None:
    layout = pad_gaps(rows_of([0, 1, 3]), {2: 42}.get)
    assert [(row.seq, row.pos) for row in layout.rows] == [(0, 100), (1, 101), (2, 42), (3, 103)]
    assert layout.rows[2].token in {7, 8, 10}


def test_a_gap_with_a_sequence_that_takes_no_padding_stays() -> None:
    layout = pad_gaps(rows_of([0, 1, 2, 3, 6, 7, 8, 9]), {4: 0}.get)
    assert (seqs(layout.rows), list(layout.padding)) == ([0, 1, 2, 3, 6, 7, 8, 9], [])


@given(
    st.sets(st.integers(0, 13), min_size=1).map(lambda ids: tuple(sorted(ids))),
    st.sets(st.integers(0, 13)),
)
def test_no_other_choice_of_gaps_takes_less_time(ids: tuple[int, ...], idle: set[int]) -> None:
    gaps = [tuple(range(a + 1, b)) for a, b in itertools.pairwise(ids) if b > a + 1]
    possible = [gap for gap in gaps if idle.issuperset(gap)]
    chosen = gaps_to_fill(ids, tuple(sorted(idle - set(ids))))
    costs = [
        time_of([*ids, *itertools.chain(*some)])
        for n in range(len(possible) + 1)
        for some in itertools.combinations(possible, n)
    ]
    assert set(chosen) <= {seq for gap in possible for seq in gap}
    assert time_of([*ids, *chosen]) == pytest.approx(min(costs))


def time_of(ids: list[int]) -> float:
    """Of the graphs that consecutive ids make."""
    ids = sorted(ids)
    breaks = [i for i in range(1, len(ids)) if ids[i] != ids[i - 1] + 1]
    return sum(graph_cost(b - a) for a, b in itertools.pairwise([0, *breaks, len(ids)]))


def test_all_sequences_up_to_a_number_get_a_row() -> None:
    layout = pad_to(rows_of([5, 2]), 8, lambda seq: 10 * seq)
    assert seqs(layout.rows) == list(range(8))
    assert [row.pos for row in layout.rows] == [0, 10, 102, 30, 40, 105, 60, 70]
    assert sorted(layout.padding) == [0, 1, 3, 4, 6, 7]


def test_padding_that_has_no_cell_is_refused() -> None:
    with pytest.raises(DecodeFailed, match="sequence 1 has no cell"):
        pad_to(rows_of([0]), 8, {seq: 0 for seq in range(8) if seq != 1}.get)
