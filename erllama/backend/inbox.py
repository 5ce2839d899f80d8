"""Callbacks for an event loop from the compute thread, without giving it the interpreter lock.

`call_soon_threadsafe` wakes the loop by a socket write that releases the lock: the loop's thread
takes it at once, and the compute thread waits for it before its next decode. Here the write keeps
the lock (`ctypes.PyDLL`): the loop's thread wakes up all the same, and gets the lock when the
compute thread is inside native code.

Contract
    State     closed → open → closed → open …; closed at first.
    Writers   `open`, `close` and the delivery: the loop's thread. `post`: any thread.
    Invariant each post is delivered once, on the loop, in the order of the posts, also where the
              inbox is closed: then, and where the system or the loop has no such means, it goes
              through `call_soon_threadsafe`. Posts to a loop that is closed are dropped.
              Whoever writes to the descriptor holds the lock, and so it is open.
    Failing   a callback that raises is reported to the loop's exception handler, as the loop does
              with its own; those behind it are called all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import ctypes
import functools
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

_Call: TypeAlias = tuple[Callable[..., object], tuple[object, ...]]

_ONE = (1).to_bytes(8, "little")


class Inbox:
    """The callbacks that wait for one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: deque[_Call] = deque()
        self._lock = threading.Lock()
        self._fd: int | None = None
        self._write = _write() if sys.platform == "linux" else None

    @property
    def is_open(self) -> bool:
        """Whether posts go past `call_soon_threadsafe`."""
        return self._fd is not None

    def open(self) -> None:
        """Let posts wake the loop by themselves, where system and loop can. On the loop."""
        if self.is_open or sys.platform != "linux":
            return
        try:
            fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        except OSError:  # no descriptor is left: it works without
            return
        try:
            # callbacks shall not see the context variables of whoever opens
            contextvars.Context().run(self._loop.add_reader, fd, self._deliver)
        except NotImplementedError:  # the proactor loop
            os.close(fd)
            return
        self._fd = fd

    def close(self) -> None:
        """Give back the descriptor; what was posted is still delivered. On the loop."""
        with self._lock:
            fd, self._fd = self._fd, None
            if fd is None:
                return
            if not self._loop.is_closed():
                self._loop.remove_reader(fd)
                for callback, arguments in self._calls:
                    self._loop.call_soon(callback, *arguments)
            self._calls.clear()
            os.close(fd)

    def post(self, callback: Callable[..., object], *arguments: object) -> None:
        """Have it called on the loop. From any thread."""
        with self._lock:
            if self._loop.is_closed():
                return
            if self._fd is not None and self._write is not None:
                self._calls.append((callback, arguments))
                if self._write(self._fd, _ONE, 8) == 8:
                    return
                callback, arguments = self._deliver, ()
            with contextlib.suppress(RuntimeError):  # closed just now: nobody is left to tell
                self._loop.call_soon_threadsafe(callback, *arguments)

    def _deliver(self) -> None:
        fd = self._fd
        if fd is not None:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(fd)
        # what is posted from here on wakes the loop again
        for _ in range(len(self._calls)):
            if not self._calls:  # a callback closed the inbox: the loop has the rest
                return
            callback, arguments = self._calls.popleft()
            try:
                callback(*arguments)
            except Exception as error:
                self._report(error, callback)
            except BaseException:
                self._loop.call_soon(self._deliver)
                raise

    def _report(self, error: Exception, callback: Callable[..., object]) -> None:
        self._loop.call_exception_handler(
            {"message": f"Exception in callback {callback!r}", "exception": error}
        )

    def __del__(self) -> None:
        # a loop that was closed without a word to us
        if self._fd is not None:
            os.close(self._fd)


@functools.cache
def _write() -> Any:
    """`write(2)` of the C library, which keeps the interpreter lock."""
    write = ctypes.PyDLL(None).write
    write.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t]
    write.restype = ctypes.c_ssize_t
    return write
