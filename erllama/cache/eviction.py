"""The order in which one tier gives up its rows. Pure.

State:      a heap of (score, row). A row is in it at most once, marked by a bit of its own.
Invariants: a score in the heap is never above the row's score now: using a row only raises it. So
            nothing moves in the heap when rows are used; what comes up with an old score goes
            back with the new one. Rows that must not go (pinned, or others build on them) are
            taken out when they come up, and put back by the index when that changes.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable

from erllama.cache.trie import Row

_QUEUED = 3  # shift from a tier's bit to its bit for "is in the heap"


class EvictionOrder:
    """Least recently used first, weighted by hits, for one tier.

    Args:
        bit: of the tier.
        hit_weight_s: each doubling of a row's hits counts as if it had been used so many
            seconds later.
    """

    def __init__(self, bit: int, hit_weight_s: float) -> None:
        self._bit = bit
        self._mark = bit << _QUEUED
        self._hit_weight_s = hit_weight_s
        self._heap: list[tuple[float, Row]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def score(self, row: Row) -> float:
        """Lower goes first."""
        if row.hits == 0:
            return row.last_used
        return row.last_used + self._hit_weight_s * math.log2(1 + row.hits)

    def queue(self, row: Row) -> None:
        """The row may go when its time comes; once is enough."""
        if not row.where & self._mark:
            row.where |= self._mark
            heapq.heappush(self._heap, (self.score(row), row))

    def pop(self, may_go: Callable[[Row], bool]) -> Row | None:
        """Take out the next row that may go."""
        while self._heap:
            old, row = self._heap[0]
            if row.where & self._bit and may_go(row):
                score = self.score(row)
                if score > old:
                    heapq.heapreplace(self._heap, (score, row))
                    continue
                self._drop(row)
                return row
            self._drop(row)
        return None

    def compact(self, n_rows: int) -> None:
        """Forget rows that have left the tier, once they outnumber the `n_rows` in it."""
        if len(self._heap) > 2 * n_rows + 64:
            kept = []
            for entry in self._heap:
                if entry[1].where & self._bit:
                    kept.append(entry)
                else:
                    entry[1].where &= ~self._mark
            self._heap = kept
            heapq.heapify(self._heap)

    def _drop(self, row: Row) -> None:
        heapq.heappop(self._heap)
        row.where &= ~self._mark
