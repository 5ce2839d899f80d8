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
        told (see `Progress` in `erllama.backend.base`).
        """
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def close(self) -> None:
        """Take no more work and let go of idle threads; what runs is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)
