"""Who is writing which row, and for how long they may. Pure.

State:      at most one reservation per row id, with its holder, stage and time limit.
Writers:    the arbiter alone.
Stages:     `writing` → `linked` → released. A writer that runs out of time before it has linked
            its file loses the reservation: nothing of it can be seen. After the link there is a
            file under the row's name, which may be whole: the reservation stays, without its
            holder, in stage `orphaned` until the file was validated and adopted or removed.
Invariants: `check` and `mark_linked` say yes only to the one who holds the row at this moment.
            A clock that goes back neither ends nor lengthens what is left of a reservation.
"""

from __future__ import annotations

import heapq
import itertools
from typing import Literal, NamedTuple

from erllama.cache.monotonic import MonotonicElapsed
from erllama.cache.row import RowId

Stage = Literal["writing", "linked", "orphaned"]


class Reservation(NamedTuple):
    """The right to write one row.

    Attributes:
        id: of the row.
        owner: who holds it, for messages and for `release_all`.
        number: never given twice, so that a late holder is not taken for a new one.
    """

    id: RowId
    owner: str
    number: int


class Expired(NamedTuple):
    """A reservation whose time is over, and what to do about it.

    Attributes:
        action: `drop`: forget it, and delete the temporary file if there is one; the row is free
            again. `validate`: a file may lie under the row's name: adopt or remove it, then
            `release`; until then nobody else gets the row.
    """

    reservation: Reservation
    action: Literal["drop", "validate"]


class _Entry:
    __slots__ = ("deadline", "reservation", "stage")

    def __init__(self, reservation: Reservation, deadline: float) -> None:
        self.reservation = reservation
        self.deadline = deadline
        self.stage: Stage = "writing"


class Reservations:
    """See the module."""

    def __init__(self) -> None:
        self._entries: dict[RowId, _Entry] = {}
        self._due: list[tuple[float, int, RowId]] = []
        self._numbers = itertools.count(1)
        self._elapsed = MonotonicElapsed()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, row: RowId) -> bool:
        return row in self._entries

    def stage(self, row: RowId) -> Stage | None:
        """How far the writing of a row is; None: nobody writes it."""
        entry = self._entries.get(row)
        return entry.stage if entry else None

    def reserve(self, row: RowId, owner: str, now: float, ttl: float) -> Reservation | None:
        """Ask for the right to write a row.

        A reservation that is overdue still holds until `expired` has handed it out.

        Args:
            row: which one.
            owner: who asks.
            now: seconds, by any clock.
            ttl: seconds until it expires, above 0.

        Returns:
            None if somebody holds it.

        Raises:
            ValueError: a time limit that is not above 0.
        """
        if not ttl > 0:
            raise ValueError(f"ttl: expected seconds above 0, got {ttl}")
        time = self._elapsed.at(now)
        if row in self._entries:
            return None
        reservation = Reservation(row, owner, next(self._numbers))
        self._entries[row] = _Entry(reservation, time + ttl)
        heapq.heappush(self._due, (time + ttl, reservation.number, row))
        return reservation

    def check(self, reservation: Reservation) -> bool:
        """Whether it still holds; to be asked right before the link."""
        return self._held(reservation) is not None

    def mark_linked(self, reservation: Reservation, now: float, ttl: float) -> bool:
        """The row's file has its name now; gives the holder time to publish it.

        Returns:
            False if the reservation had been lost: the file must be validated by whoever holds
            the row now, the late writer keeps its hands off.
        """
        time = self._elapsed.at(now)
        entry = self._held(reservation)
        if entry is None:
            return False
        entry.stage = "linked"
        entry.deadline = time + ttl
        heapq.heappush(self._due, (entry.deadline, reservation.number, reservation.id))
        return True

    def release(self, reservation: Reservation) -> bool:
        """Done, in whatever way; also by who validated an orphaned one. False if it was lost."""
        entry = self._entries.get(reservation.id)
        if entry is None or entry.reservation.number != reservation.number:
            return False
        del self._entries[reservation.id]
        return True

    def release_all(self, owner: str) -> list[Expired]:
        """The owner is gone: all that it held, as if its time were over."""
        held = [e for e in self._entries.values() if e.reservation.owner == owner]
        return [self._expire(entry) for entry in held if entry.stage != "orphaned"]

    def expired(self, now: float) -> list[Expired]:
        """Take what is overdue, once each, the oldest first."""
        time = self._elapsed.at(now)
        over: list[Expired] = []
        while self._due and self._due[0][0] <= time:
            deadline, _, row = heapq.heappop(self._due)
            entry = self._entries.get(row)
            if entry is not None and entry.deadline == deadline and entry.stage != "orphaned":
                over.append(self._expire(entry))
        return over

    def _expire(self, entry: _Entry) -> Expired:
        if entry.stage == "writing":
            del self._entries[entry.reservation.id]
            return Expired(entry.reservation, "drop")
        entry.stage = "orphaned"
        return Expired(entry.reservation, "validate")

    def _held(self, reservation: Reservation) -> _Entry | None:
        entry = self._entries.get(reservation.id)
        if entry is None or entry.reservation.number != reservation.number:
            return None
        return None if entry.stage == "orphaned" else entry
