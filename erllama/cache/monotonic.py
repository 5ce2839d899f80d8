"""Time that never goes back, made from a clock that may."""

from __future__ import annotations


class MonotonicElapsed:
    """Seconds that have passed, as far as a clock can be believed: a step back counts as none.

    State:      the latest reading and the sum of all forward steps.
    Invariants: `at` never returns less than before, whatever the readings.
    """

    __slots__ = ("_seen", "_total")

    def __init__(self) -> None:
        self._seen: float | None = None
        self._total = 0.0

    def at(self, now: float) -> float:
        """Take a reading of the clock; the seconds that have passed since the first one.

        >>> elapsed = MonotonicElapsed()
        >>> [elapsed.at(now) for now in (100.0, 102.0, 50.0, 53.0)]
        [0.0, 2.0, 2.0, 5.0]
        """
        if self._seen is not None and now > self._seen:
            self._total += now - self._seen
        self._seen = now
        return self._total
