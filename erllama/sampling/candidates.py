"""The candidates of a draw, ranked, and what several stages ask of them. Pure."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from erllama.sampling.running import ERROR, Floats, Running

_HEAVY = 0.01
"""What weighs less, beside the likeliest, would lose too much to the rounding of sums with it."""


class Work:
    """Arrays that serve one draw after the other: fresh pages cost more than the sums in them."""

    def __init__(self) -> None:
        self._arrays: dict[str, Floats] = {}

    def array(self, name: str, n: int) -> Floats:
        """`n` floats, with anything in them. What was there under this name is lost."""
        whole = self._arrays.get(name)
        if whole is None or len(whole) < n:
            whole = self._arrays[name] = np.empty(n, np.float32)
        return whole[:n]


class Candidates:
    """Logits from the likeliest token down; at least one where more than `down` is asked for.

    One is in use at a time: `weights` go over to those that are made from it.

    Args:
        ranked: the logits.
        work: where to keep what is made of them.
        by: what they are still to be divided by.
        whole: what they weigh together with others that are no more needed; None: no others.
    """

    def __init__(
        self,
        ranked: Floats,
        work: Work | None = None,
        by: np.float32 | None = None,
        whole: float | None = None,
    ) -> None:
        self._ranked = ranked
        self.work = Work() if work is None else work
        self._by = by
        self._whole = whole

    def __len__(self) -> int:
        return len(self._ranked)

    @functools.cached_property
    def down(self) -> Floats:
        """The logits. Mostly only weights are asked for, so they are divided when these are."""
        if self._by is None:
            return self._ranked
        out = self.work.array("divided", len(self))
        return np.divide(self._ranked, self._by, out=out)

    @functools.cached_property
    def weights(self) -> Floats:
        """Probabilities, up to a factor: exp of how far each is below the likeliest."""
        found = self.work.array("weights", len(self))
        if self._by is None or "down" in self.__dict__:
            down = self.down
        else:
            down = np.divide(self._ranked, self._by, out=found)
        np.exp(np.subtract(down, down[0], out=found), out=found)
        return found

    @functools.cached_property
    def running(self) -> Running:
        return Running(self.weights)

    @property
    def total(self) -> float:
        """What all weigh, those included that are not here."""
        return self.running.total if self._whole is None else self._whole

    def kept(self, start: int, stop: int) -> Candidates:
        """Those from one rank up to another; they keep their weights, unless these are small."""
        part = Candidates(self._ranked[start:stop], self.work, self._by)
        if "down" in self.__dict__:
            part.down = self.down[start:stop]
        if "running" in self.__dict__ and (start == 0 or self.weights[start] > _HEAVY):
            part.weights = self.weights[start:stop]
            part.running = self.running.part(start, stop)
        return part

    def divided(self, by: np.float32) -> Candidates:
        return Candidates(self.down, self.work, by)

    def weighing(self, least: float) -> int:
        """How many have at least this weight."""
        return len(self) - int(self.weights[::-1].searchsorted(np.float32(least)))

    def reaching(self, share: float, total: Callable[[Floats], float]) -> int:
        """How many have at least this share of all.

        `total` is how the weights are added up. It is called only if it matters how that is done.
        """
        least = share * self.running.total
        found = self.weighing(least * (1 + ERROR))
        if found == self.weighing(least * (1 - ERROR)):
            return found
        return self.weighing(share * float(total(self.weights)))
