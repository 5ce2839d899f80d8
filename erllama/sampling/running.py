"""Sums over the first so many of many weights, without adding up each of them. Pure."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

Floats: TypeAlias = "np.ndarray[Any, np.dtype[np.float32]]"

ERROR = 4e-6
"""More than sums of up to 2**24 weights differ by, relatively, in whatever order they are added."""

_BLOCK = 512


class Running:
    """The running sum of `weights`, exact to the precision of a float.

    A plain `cumsum` of 128,000 weights takes more than a millisecond. The sums of blocks take
    thirty microseconds, and only one block has to be looked at more closely.
    """

    def __init__(self, weights: Floats) -> None:
        n = len(weights) - len(weights) % _BLOCK
        blocks = weights[:n].reshape(-1, _BLOCK).sum(axis=1)  # pairwise: right to the last digits
        sums = np.concatenate(([0.0], np.cumsum(blocks, dtype=np.float64)))
        self._begin(weights, sums)

    def _begin(self, weights: Floats, before: np.ndarray[Any, np.dtype[np.float64]]) -> None:
        self._weights = weights
        self._before = before
        rest = weights[(len(before) - 1) * _BLOCK :]
        self.total = float(before[-1] + rest.sum(dtype=np.float64))

    def first(self, n: int) -> Running:
        """Of the first `n` weights alone."""
        part = Running.__new__(Running)
        part._begin(self._weights[:n], self._before[: n // _BLOCK + 1])
        return part

    def before(self, i: int) -> float:
        """The sum of the first `i` weights."""
        block = min(i // _BLOCK, len(self._before) - 1)
        rest = np.add.reduce(self._weights[block * _BLOCK : i])
        return float(self._before[block] + rest)

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
        end = self.total if stop > last else float(self._before[stop])
        return end - float(self._before[min(start, last)])

    def reach(self, target: float) -> int:
        """The first index up to which, itself included, the sum is at least `target`; or the last.

        `target` is more than 0.
        """
        block = int(np.searchsorted(self._before, target)) - 1
        block = max(block, 0)
        start = block * _BLOCK
        sums = self._before[block] + np.cumsum(
            self._weights[start : start + _BLOCK], dtype=np.float64
        )
        if not len(sums):  # rounding: all weights are in whole blocks, and do not suffice
            return len(self._weights) - 1
        return min(start + int(np.searchsorted(sums, target)), len(self._weights) - 1)
