"""Sums over the first so many of many weights, without adding up each of them. Pure."""

from __future__ import annotations

import bisect
import itertools
import math
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
        self._begin(weights, list(itertools.accumulate(blocks.tolist(), initial=0.0)), 0)

    def _begin(self, weights: Floats, before: Sequence[float], start: int) -> None:
        """`start`: those of `weights` from there on are meant, with the sums before all blocks."""
        self._weights = weights
        self._before = before
        self._start = start
        rest = weights[(len(before) - 1) * _BLOCK :]
        self._end = before[-1] + (float(rest.sum(dtype=np.float64)) if len(rest) else 0.0)
        self._base = self._up_to(start) if start else 0.0
        self.total = self._end - self._base

    def part(self, start: int, stop: int) -> Running:
        """Of the weights from one index up to another alone."""
        start, stop = self._start + start, self._start + stop
        part = Running.__new__(Running)
        part._begin(self._weights[:stop], self._before[: stop // _BLOCK + 1], start)
        return part

    def dot(self, values: Floats) -> float:
        """The sum of the weights times as many values."""
        weights = self._weights[self._start :]
        n = len(weights) - len(weights) % _BLOCK
        blocks = weights[:n].reshape(-1, _BLOCK), values[:n].reshape(-1, _BLOCK)
        whole = math.fsum(np.einsum("ij,ij->i", *blocks).tolist())
        return whole + (float(np.einsum("i,i", weights[n:], values[n:])) if n < len(weights) else 0)

    def before(self, i: int) -> float:
        """The sum of the first `i` weights."""
        return self._up_to(self._start + i) - self._base

    def more(self, start: int, stop: int, than: float) -> bool:
        """Whether the weights from `start` to `stop` sum to more than that.

        Mostly a look at whole blocks tells.
        """
        start, stop, doubt = self._start + start, self._start + stop, ERROR * self._end
        if self._blocks(-(-start // _BLOCK), stop // _BLOCK) > than + doubt:
            return True
        if self._blocks(start // _BLOCK, -(-stop // _BLOCK)) < than - doubt:
            return False
        return self._up_to(stop) - self._up_to(start) > than

    def reach(self, target: float) -> int:
        """The first index up to which, itself included, the sum is at least `target`; or the last.

        `target` is more than 0.
        """
        target += self._base
        block = max(bisect.bisect_left(self._before, target) - 1, 0)
        start, before = block * _BLOCK, self._before[block]
        sums = list(itertools.accumulate(self._weights[start : start + _BLOCK].tolist()))
        found = bisect.bisect_left(sums, target, key=lambda more: before + more)
        return max(min(start + found, len(self._weights) - 1) - self._start, 0)

    def _up_to(self, i: int) -> float:
        block = min(i // _BLOCK, len(self._before) - 1)
        rest = np.add.reduce(self._weights[block * _BLOCK : i])
        return self._before[block] + float(rest)

    def _blocks(self, start: int, stop: int) -> float:
        """The sum from one block up to another; what is behind the last one is a block too."""
        last = len(self._before) - 1
        end = self._end if stop > last else self._before[stop]
        return end - self._before[min(start, last)]
