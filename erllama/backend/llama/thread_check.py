"""Whether as many threads can be started as a model is to compute with.

GNU OpenMP ends the process where one cannot: at a limit of processes (`ulimit -u`, `pids.max`) or
of memory, which their stacks count for.
"""

from __future__ import annotations

import _thread
import os
import threading

from erllama.config import ContextConfig
from erllama.errors import ConfigError


def check_threads(config: ContextConfig) -> None:
    """Start them all at once, and let them end.

    Raises:
        ConfigError: names the option, and how many could be started.
    """
    usable = len(os.sched_getaffinity(0))
    decode = config.n_threads or usable
    batch = config.n_threads_batch or decode
    field, wanted = max(("n_threads", decode), ("n_threads_batch", batch), key=lambda it: it[1])
    started = start_threads(wanted - 1)  # the one that computes is there already
    if started < wanted - 1:
        raise ConfigError(
            f"ContextConfig.{field}: of {wanted} threads only {started + 1} can be started, by a "
            f"limit on processes or memory; lower {field}, or raise the limit"
        )


def start_threads(n: int) -> int:
    """How many of `n` more threads can be there together."""
    gate, ended = threading.Event(), threading.Semaphore(0)

    def wait() -> None:
        gate.wait()
        ended.release()

    started = 0
    try:
        while started < n:
            _thread.start_new_thread(wait, ())  # `Thread.start` would wait for each to run
            started += 1
    except (RuntimeError, MemoryError):
        pass
    gate.set()
    for _ in range(started):
        ended.acquire()
    return started
