"""Time as a dependency, so that tests can hold it still.

Actors never read the system's clock themselves: they ask the `Clock` they were given. The
product uses `LoopClock`; tests use the one in `erllama.actor.testing`, which moves only when told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """A pending callback."""

    def cancel(self) -> None:
        """Forget the callback; does nothing if it ran already."""


class Clock(Protocol):
    """A monotonic clock with timers, in seconds."""

    def now(self) -> float:
        """Seconds since an arbitrary start; never goes back."""

    def call_later(self, delay: float, callback: Callable[[], object]) -> Timer:
        """Run `callback` on the event loop after `delay` seconds."""


class LoopClock:
    """The running event loop's own clock."""

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def call_later(self, delay: float, callback: Callable[[], object]) -> Timer:
        return asyncio.get_running_loop().call_later(delay, callback)
