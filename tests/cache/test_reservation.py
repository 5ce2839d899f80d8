from __future__ import annotations

import pytest

from erllama.cache import Reservations, RowId

ROW = RowId(bytes(32), "block", True)
OTHER = RowId(bytes(32), "block", False)


def test_a_row_is_reserved_by_one_at_a_time_and_free_again_after_release() -> None:
    table = Reservations()
    first = table.reserve(ROW, "a", 0.0, 10.0)
    assert first is not None
    assert table.reserve(ROW, "b", 1.0, 10.0) is None
    assert table.reserve(OTHER, "b", 1.0, 10.0) is not None
    assert table.release(first)
    assert ROW not in table
    assert table.reserve(ROW, "b", 2.0, 10.0) is not None


def test_a_reservation_that_never_linked_is_dropped_when_its_time_is_over() -> None:
    table = Reservations()
    late = table.reserve(ROW, "a", 0.0, 10.0)
    assert late is not None
    assert table.expired(9.9) == []
    assert table.check(late)
    assert table.expired(10.0) == [(late, "drop")]
    assert table.expired(10.0) == []
    assert not table.check(late)
    assert not table.mark_linked(late, 10.0, 5.0)
    assert not table.release(late)


def test_a_late_writer_is_not_taken_for_the_new_holder() -> None:
    table = Reservations()
    late = table.reserve(ROW, "a", 0.0, 10.0)
    assert late is not None
    table.expired(10.0)
    new = table.reserve(ROW, "a", 11.0, 10.0)
    assert new is not None
    assert not table.check(late)
    assert not table.mark_linked(late, 11.0, 5.0)
    assert not table.release(late)
    assert table.check(new)
    assert table.stage(ROW) == "writing"


def test_after_the_link_the_row_stays_held_until_its_file_was_validated() -> None:
    table = Reservations()
    late = table.reserve(ROW, "a", 0.0, 10.0)
    assert late is not None
    assert table.mark_linked(late, 9.0, 5.0)
    assert table.stage(ROW) == "linked"
    assert table.expired(13.9) == []
    assert table.expired(14.0) == [(late, "validate")]
    assert table.expired(99.0) == []
    assert table.stage(ROW) == "orphaned"
    assert not table.check(late)
    assert not table.mark_linked(late, 99.0, 5.0)
    assert table.reserve(ROW, "b", 99.0, 10.0) is None
    assert table.release(late)
    assert table.reserve(ROW, "b", 99.0, 10.0) is not None


def test_who_is_gone_gives_up_all_at_once_by_stage() -> None:
    table = Reservations()
    writing = table.reserve(ROW, "a", 0.0, 10.0)
    linked = table.reserve(OTHER, "a", 0.0, 10.0)
    assert writing is not None
    assert linked is not None
    table.mark_linked(linked, 1.0, 10.0)
    assert table.release_all("b") == []
    assert table.release_all("a") == [(writing, "drop"), (linked, "validate")]
    assert table.release_all("a") == []
    assert len(table) == 1


def test_a_clock_that_goes_back_neither_ends_nor_lengthens_a_reservation() -> None:
    table = Reservations()
    held = table.reserve(ROW, "a", 1_000.0, 10.0)
    assert table.expired(1_006.0) == []
    assert table.expired(6.0) == []
    assert table.expired(9.9) == []
    assert table.expired(10.0) == [(held, "drop")]


def test_overdue_ones_come_the_oldest_first() -> None:
    table = Reservations()
    slow = table.reserve(ROW, "a", 0.0, 10.0)
    quick = table.reserve(OTHER, "a", 1.0, 2.0)
    assert table.expired(60.0) == [(quick, "drop"), (slow, "drop")]


@pytest.mark.parametrize("ttl", [0.0, -1.0, float("nan")])
def test_a_time_limit_must_be_above_zero(ttl: float) -> None:
    with pytest.raises(ValueError, match="ttl"):
        Reservations().reserve(ROW, "a", 0.0, ttl)
