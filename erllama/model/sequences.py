"""The sequences of a context: who has which. Pure.

The lowest free id is handed out first, so that the rows of a decode step lie on consecutive ids:
llama.cpp starts a new graph at every gap (docs/scheduler.md).
"""

from __future__ import annotations

import heapq


class Sequences:
    """A pool of ids from 0 to `n` - 1."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._free = list(range(n))
        self._taken: set[int] = set()

    @property
    def free(self) -> int:
        """How many can be taken."""
        return len(self._free)

    def take(self) -> int:
        """The lowest free id.

        Raises:
            LookupError: all are taken.
        """
        if not self._free:
            raise LookupError("all sequences are taken")
        seq = heapq.heappop(self._free)
        self._taken.add(seq)
        return seq

    def give_back(self, seq: int) -> None:
        """Nobody uses `seq` any more.

        Raises:
            KeyError: it was not taken.
        """
        self._taken.remove(seq)
        heapq.heappush(self._free, seq)

    def check_integrity(self) -> None:
        """Each id is free or taken.

        Raises:
            RuntimeError: it is not so.
        """
        if sorted([*self._free, *self._taken]) != list(range(self._n)):
            raise RuntimeError(f"sequences: {self._free} free and {self._taken} taken of {self._n}")
