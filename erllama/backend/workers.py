"""Threads for work beside the lane: loading, hashing, tokenizing.

A busy thread beside a decode that uses every core costs that decode most of its speed, because
the compute threads wait for each other at every barrier. So these threads run at the lowest
priority that the system knows; Linux sets priorities per thread.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

LOWEST = 19


def lower_priority(nice: int = LOWEST) -> None:
    """Give the calling thread this nice value (Linux only; elsewhere nothing happens)."""
    if sys.platform != "linux":
        return
    try:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
    except OSError:  # forbidden by a sandbox: the work is only less considerate then
        return


class Workers:
    """A bounded pool of threads, of low priority unless somebody waits for their work."""

    def __init__(self, threads: int = 4, *, low_priority: bool = True) -> None:
        self._pool = ThreadPoolExecutor(
            max_workers=threads,
            thread_name_prefix="erllama-worker",
            initializer=lower_priority if low_priority else None,
        )

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work` on a worker.

        Cancelling does not stop the thread: work that can take long must be given a way to be
        told (see `Progress` in `erllama.backend.base`). An error comes without the local variables
        of the functions that it left.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, _letting_go, work)

    def close(self) -> None:
        """Take no more work and let go of idle threads; what runs is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _letting_go(work: Callable[[], T]) -> T:
    """Do `work`; an error of it does not keep what it worked on.

    Its traceback has the frames of all functions that it left, with states of many megabytes among
    their variables. And an error that reaches a task is in a reference cycle from Python 3.13 on:
    the frames of a coroutine keep that which resumed it, which has the future with the error. So
    the memory would stay until the next full collection.
    """
    try:
        return work()
    except BaseException as error:
        for part in _chain(error):
            traceback.clear_frames(part.__traceback__)
        raise


def _chain(error: BaseException) -> list[BaseException]:
    """An error with those that it came from."""
    found: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        part = waiting.pop()
        if part is not None and not any(part is known for known in found):
            found.append(part)
            waiting += [part.__cause__, part.__context__]
    return found
