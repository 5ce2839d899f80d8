"""Which step an abort is meant for.

An abort names a step by its number and comes from another thread than the one that computes. The
step may not have begun, may run, or may be over, and its successor may be running by then. So the
flag that native code reads is set only while the step of that number runs, under a lock.
"""

from __future__ import annotations

import threading
from typing import Protocol


class Flag(Protocol):
    """What a running step looks at to see whether it shall end."""

    def set(self) -> None: ...

    def clear(self) -> None: ...


class Aborts:
    """The aborts of one engine."""

    def __init__(self, flag: Flag) -> None:
        self._flag = flag
        self._lock = threading.Lock()
        self._running = 0
        self._asked = 0

    def enter(self, number: int) -> bool:
        """A step begins; returns whether it was aborted before. On the computing thread."""
        with self._lock:
            self._running = number
            self._flag.clear()
            return number == self._asked

    def abort(self, number: int) -> None:
        """Abort the step of this number; one that is over: nothing. From any thread."""
        with self._lock:
            self._asked = max(self._asked, number)
            if number == self._running:
                self._flag.set()
