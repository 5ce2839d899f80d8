"""Calls of `evict`, and what each still waits for. Pure.

A call waits for the requests that ran when it came, and for the rows that were on their way into
the cache when the last of them was over. Neither those that come later nor those that wait for
their reader can hold it up.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from erllama.actor import ReplyTo
from erllama.model.job import Job


@dataclass(slots=True, eq=False)
class _Eviction:
    reply: ReplyTo
    jobs: set[Job]
    saves: set[int] | None = None


class Evictions:
    """The calls that are not answered yet."""

    def __init__(self) -> None:
        self._open: list[_Eviction] = []

    def __bool__(self) -> bool:
        return bool(self._open)

    def add(self, reply: ReplyTo, running: Collection[Job]) -> None:
        """A call came while these requests ran."""
        self._open.append(_Eviction(reply, set(running)))

    def done(self, running: Collection[Job], saving: Collection[int]) -> list[ReplyTo]:
        """Whom to answer now, once.

        Args:
            running: the requests that run.
            saving: the numbers of the saves that are on their way.
        """
        over = [one for one in self._open if self._is_over(one, set(running), set(saving))]
        self._open = [one for one in self._open if one not in over]
        return [one.reply for one in over]

    def take_all(self) -> list[ReplyTo]:
        """All of them, to be told that nothing will be done."""
        replies, self._open = [one.reply for one in self._open], []
        return replies

    @staticmethod
    def _is_over(one: _Eviction, running: set[Job], saving: set[int]) -> bool:
        one.jobs &= running
        if one.jobs:
            return False
        one.saves = saving if one.saves is None else one.saves & saving
        return not one.saves
