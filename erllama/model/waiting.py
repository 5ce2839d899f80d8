"""Which request gets a sequence next. Pure.

The classes of priority share admissions by weight; within a class it is first come, first served,
and one that was interrupted goes before all that have not begun.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from erllama.model.job import Job
from erllama.model.request import Priority
from erllama.model.scheduler import WEIGHTS, ClassShares


class Waiting:
    """The requests that have no sequence."""

    def __init__(self) -> None:
        self._classes: dict[Priority, deque[Job]] = {name: deque() for name in WEIGHTS}
        self._shares = ClassShares()

    def __len__(self) -> int:
        return sum(len(jobs) for jobs in self._classes.values())

    def __contains__(self, job: Job) -> bool:
        return job in self._classes[job.request.priority]

    def __iter__(self) -> Iterator[Job]:
        """All of them, in the order in which they are to be admitted if each can be."""
        classes = [name for name, jobs in self._classes.items() if jobs]
        while classes:
            first = self._shares.first(classes)
            classes.remove(first)
            yield from list(self._classes[first])

    def add(self, job: Job) -> None:
        """Behind all of its class."""
        self._classes[job.request.priority].append(job)

    def put_back(self, job: Job) -> None:
        """Before all of its class: it was interrupted."""
        self._classes[job.request.priority].appendleft(job)

    def remove(self, job: Job) -> None:
        """It ended while it waited."""
        self._classes[job.request.priority].remove(job)

    def admit(self, job: Job) -> None:
        """It gets a sequence."""
        self.remove(job)
        self._shares.charge(job.request.priority, 1.0)


def lent_classes(waiting: Iterable[Job]) -> dict[Job, Priority]:
    """The classes that requests lend to those whose prompts they wait for.

    Else one of a high class would wait as long as one of a low class has to (priority inversion:
    Sha, Rajkumar and Lehoczky 1990, who call this inheritance).
    """
    lent: dict[Job, Priority] = {}
    for job in waiting:
        other = job.waits_for
        if other is None:
            continue
        own = lent.get(other, other.request.priority)
        if WEIGHTS[job.request.priority] > WEIGHTS[own]:
            lent[other] = job.request.priority
    return lent
