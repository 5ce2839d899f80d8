"""Sums over the first so many of many weights, without adding up each of them. Pure."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

Floats: TypeAlias = "np.ndarray[Any, np.dtype[np.float32]]"

ERROR = 4e-6
"""More than sums of up to 2**24 weights differ by, relatively, in whatever order they are added."""

_BLOCK = 512


class Running:
    """The running sum of `weights`, exact to the precision of a float.

    A plain `cumsum` of 128,000 weights takes more than a millisecond. The sums of blocks take
    thirty microseconds, and only one block has to be looked at more closely. What is small is done
    in lists: after a decode each other function of numpy has to come from memory anew, which
    takes longer than its work.
    """

    def __init__(self, weights: Floats) -> None:
        n = len(weights) - len(weights) % _BLOCK
        blocks = np.add.reduce(weights[:n].reshape(-1, _BLOCK), axis=1)  # pairwise
        self._begin(weights, list(itertools.accumulate(blocks.tolist(), initial=0.0)))

    def _begin(self, weights: Floats, before: Sequence[float]) -> None:
        self._weights = weights
        self._before = before
        rest = weights[(len(before) - 1) * _BLOCK :]
        self.total = before[-1] + (float(rest.sum(dtype=np.float64)) if len(rest) else 0.0)

    def first(self, n: int) -> Running:
        """Of the first `n` weights alone."""
        part = Running.__new__(Running)
        part._begin(self._weights[:n], self._before[: n // _BLOCK + 1])
        return part

    def before(self, i: int) -> float:
        """The sum of the first `i` weights."""
        block = min(i // _BLOCK, len(self._before) - 1)
        rest = np.add.reduce(self._weights[block * _BLOCK : i])
        return self._before[block] + float(rest)

    def more(self, start: int, stop: int, than: float) -> bool:
        """Whether the weights from `start` to `stop` sum to more than that.

        Mostly a look at whole blocks tells.
        """
        doubt = ERROR * self.total
        if self._blocks(-(-start // _BLOCK), stop // _BLOCK) > than + doubt:
            return True
        if self._blocks(start // _BLOCK, -(-stop // _BLOCK)) < than - doubt:
            return False
        return self.before(stop) - self.before(start) > than

    def _blocks(self, start: int, stop: int) -> float:
        """The sum from one block up to another; what is behind the last one is a block too."""
        last = len(self._before) - 1
        end = self.total if stop > last else self._before[stop]
        return end - self._before[min(start, last)]

    def reach(self, target: float) -> int:
        """The first index up to which, itself included, the sum is at least `target`; or the last.

        `target` is more than 0.
        """
        block = max(bisect.bisect_left(self._before, target) - 1, 0)
        start, before = block * _BLOCK, self._before[block]
        sums = list(itertools.accumulate(self._weights[start : start + _BLOCK].tolist()))
        found = bisect.bisect_left(sums, target, key=lambda more: before + more)
        return min(start + found, len(self._weights) - 1)
