"""Whose turn it is on the lane. Pure.

Start-time fair queueing (Goyal, Vin and Cheng 1996) without weights: every owner has a virtual
time that grows by the time its jobs took; the owner with the least goes next. An owner that was
idle starts at the virtual time of those that were not, so it cannot save up turns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Jobs of many owners, first in first out within one owner."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, deque[T]] = {}
        self._used: dict[Hashable, float] = {}
        self._floor = 0.0

    def __len__(self) -> int:
        return sum(len(jobs) for jobs in self._waiting.values())

    def put(self, owner: Hashable, job: T) -> None:
        """Append `job` to those of `owner`."""
        jobs = self._waiting.get(owner)
        if jobs is None:
            jobs = self._waiting[owner] = deque()
            self._used[owner] = max(self._used.get(owner, 0.0), self._floor)
        jobs.append(job)

    def get(self) -> tuple[Hashable, T]:
        """The next job and its owner.

        Raises:
            IndexError: nothing waits.
        """
        if not self._waiting:
            raise IndexError("nothing waits")
        owner = min(self._waiting, key=self._used.__getitem__)
        self._floor = self._used[owner]
        jobs = self._waiting[owner]
        job = jobs.popleft()
        if not jobs:
            del self._waiting[owner]
        return owner, job

    def goes_on(self, owner: Hashable) -> bool:
        """Whether a further job of `owner`, who had the last turn, comes next: nobody waits.

        Then it need not be put.
        """
        if self._waiting or owner not in self._used:
            return False
        self._floor = self._used[owner]
        return True

    def charge(self, owner: Hashable, seconds: float) -> bool:
        """Note that a job of `owner` took this long; False if it was forgotten meanwhile."""
        if owner not in self._used:
            return False
        self._used[owner] += seconds
        return True

    def waiting(self) -> list[Hashable]:
        """The owners that have something waiting."""
        return list(self._waiting)

    def forget(self, owner: Hashable) -> None:
        """Drop the account of an owner that is gone and has nothing waiting."""
        if owner not in self._waiting:
            self._used.pop(owner, None)

    def drain(self) -> list[tuple[Hashable, T]]:
        """Take out everything that waits."""
        left = [(owner, job) for owner, jobs in self._waiting.items() for job in jobs]
        self._waiting.clear()
        return left
