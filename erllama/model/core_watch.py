"""Watches whether a model's threads find a core each, beside the requests.

Contract
    State     the latest reading of the cores' time, and what it said with the one before.
    Writer    the event loop. Readings are made on a thread; at most one at a time.
    Invariant nothing waits for a reading, and none of them fails a model.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from erllama.backend.cpu_time import CpuTime, read_cpu_time
from erllama.clock import Clock
from erllama.model.core_shortage import LEAST_WINDOW_S, CoreShortage, find_shortage
from erllama.model.gauges import Gauges

log = logging.getLogger("erllama.model")

EVERY_S = 5.0
"""How often a model that does something looks."""

STALE_S = 30.0
"""What happened longer ago says little about now."""

REPEAT_S = 600.0
"""How long a shortage that stays is not written to the log again."""

Read = Callable[[], CpuTime | None]


class CoreWatch:
    """See the module.

    Args:
        gauges: get the warning, for `status()`.
        read: makes a reading, on a thread; never raises.
    """

    def __init__(self, *, gauges: Gauges, clock: Clock, read: Read | None = None) -> None:
        self._gauges = gauges
        self._clock = clock
        self._read = read
        self._latest: CpuTime | None = None
        self._n_threads = 0
        self._next_look = 0.0
        self._reading = False
        self._told_at: float | None = None

    def begin(self) -> None:
        """Loading begins: note how busy the cores are until it has ended."""
        self._look()

    def loaded(self, n_threads: int) -> None:
        """The model computes with so many threads of the CPU from now on; 0: a GPU computes."""
        self._n_threads = n_threads
        self._next_look = self._clock.now()
        self.look()

    def look(self) -> None:
        """Look if it is time to. Costs nothing if not; called with every message of the model."""
        if self._n_threads and self._clock.now() >= self._next_look and not self._reading:
            self._look()

    def _look(self) -> None:
        self._next_look = self._clock.now() + EVERY_S
        try:
            loop = asyncio.get_running_loop()
            reading = loop.run_in_executor(None, self._read or read_cpu_time)
        except RuntimeError:  # the program is ending
            return
        self._reading = True
        reading.add_done_callback(self._have_read)

    def _have_read(self, reading: asyncio.Future[CpuTime | None]) -> None:
        self._reading = False
        now = None if reading.cancelled() or reading.exception() else reading.result()
        if now is None:  # this system does not tell
            self._n_threads = 0
            return
        before = self._latest
        if before is not None and now.at - before.at < LEAST_WINDOW_S:
            self._look_soon()
            return
        self._latest = now
        if before is None or now.at - before.at > STALE_S or not self._n_threads:
            self._look_soon()
        else:
            self._found(find_shortage(before, now, self._n_threads))

    def _look_soon(self) -> None:
        self._next_look = min(self._next_look, self._clock.now() + 2 * LEAST_WINDOW_S)

    def _found(self, shortage: CoreShortage | None) -> None:
        now = self._clock.now()
        self._gauges.warn(() if shortage is None else (str(shortage),), until=now + STALE_S)
        if shortage is None or (self._told_at is not None and now - self._told_at < REPEAT_S):
            return
        self._told_at = now
        log.warning("model %r: %s (docs/busy-machine.md)", self._gauges.id, shortage)
