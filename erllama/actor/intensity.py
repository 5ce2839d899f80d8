"""Restart intensity: how many restarts in how much time are too many. Pure."""

from __future__ import annotations

from collections import deque

from erllama.errors import ConfigError


class Intensity:
    """Counts restarts within a sliding period.

    Args:
        limit: restarts that are allowed within a period, 0 or more.
        period: in seconds, more than 0. A restart exactly one period ago still counts.

    Raises:
        ConfigError: a value that cannot be used.
    """

    def __init__(self, limit: int, period: float) -> None:
        if limit < 0:
            raise ConfigError(f"intensity must be 0 restarts or more, not {limit!r}")
        if not period > 0:
            raise ConfigError(f"period must be more than 0 seconds, not {period!r}")
        self.limit = limit
        self.period = period
        self._times: deque[float] = deque()

    def allows(self, now: float) -> bool:
        """Count a restart at `now`, in seconds; whether it is within the limit."""
        while self._times and now - self._times[0] > self.period:
            self._times.popleft()
        if len(self._times) >= self.limit:
            return False
        self._times.append(now)
        return True
