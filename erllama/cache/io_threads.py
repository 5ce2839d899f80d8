"""A few threads for calls into one file system.

A call into a disk that hangs does not come back, and cannot be cancelled. So these threads are
bounded in number and shared with nobody else, and as daemons they do not keep a process from
ending.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

_Job = tuple["Future[Any]", Callable[[], Any]]


class Threads:
    """Runs calls on at most `most` threads, which start as they are needed."""

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._started = 0
        self._closed = False

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Queue a call. Cancelling the future takes it back as long as it has not begun."""
        future: Future[T] = Future()
        with self._lock:
            if self._closed:  # somebody still holds on to a folder that was opened anew
                self._start(_run, future, work)
                return future
            self._jobs.put((future, work))
            if not self._idle.acquire(blocking=False) and self._started < self._most:
                self._started += 1
                self._start(_serve, self._jobs, self._idle)
        return future

    async def run(self, work: Callable[[], T]) -> T:
        """Run a call and wait for it."""
        return await asyncio.wrap_future(self.submit(work))

    def close(self) -> None:
        """Let the threads end, after what is queued."""
        with self._lock:
            for _ in range(0 if self._closed else self._started):
                self._jobs.put(None)
            self._closed = True

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        name = f"{self._name}-{self._started}"
        threading.Thread(target=target, args=arguments, name=name, daemon=True).start()


def _serve(jobs: queue.SimpleQueue[_Job | None], idle: threading.Semaphore) -> None:
    while (job := jobs.get()) is not None:
        _run(*job)
        del job  # or what it refers to lives until the next one
        idle.release()


def _run(future: Future[Any], work: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = work()
    except BaseException as error:
        with contextlib.suppress(Exception):
            future.set_exception(error)
    else:
        future.set_result(result)
