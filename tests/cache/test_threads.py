"""Threads of one file system: bounded, shared with nobody, left behind when they hang."""

from __future__ import annotations

import asyncio
import threading

import pytest

from erllama.cache.io_threads import Threads


async def test_results_and_errors_come_back() -> None:
    threads = Threads("t", 2)
    assert await threads.run(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        await threads.run(lambda: 1 // 0)
    threads.close()


async def test_no_more_threads_than_allowed_run_at_a_time() -> None:
    threads, gate = Threads("t", 3), threading.Event()
    running: list[str] = []
    started = threading.Semaphore(0)

    def work() -> None:
        running.append(threading.current_thread().name)
        started.release()
        gate.wait()

    futures = [threads.submit(work) for _ in range(10)]
    for _ in range(3):
        await asyncio.to_thread(started.acquire)
    assert sorted(running) == ["t-1", "t-2", "t-3"]
    assert futures[9].cancel(), "what has not begun is taken back"
    gate.set()
    for future in futures[:9]:
        await asyncio.wrap_future(future)
    assert len(running) == 9
    assert set(running) == {"t-1", "t-2", "t-3"}
    threads.close()


async def test_an_idle_thread_is_used_again() -> None:
    threads, names = Threads("t", 3), set()
    ready = threading.Semaphore(0)
    threads._idle = ready
    for _ in range(5):
        names.add(await threads.run(lambda: threading.current_thread().name))
        await asyncio.to_thread(ready.acquire)
        ready.release()
    assert names == {"t-1"}
    threads.close()


async def test_its_threads_end_when_it_is_closed_and_never_keep_a_process() -> None:
    threads = Threads("t", 1)
    thread = await threads.run(threading.current_thread)
    assert thread.daemon
    threads.close()
    await asyncio.to_thread(thread.join)
    assert not thread.is_alive()


async def test_what_comes_after_the_end_is_still_done() -> None:
    threads = Threads("t", 1)
    assert await threads.run(lambda: 1) == 1
    threads.close()
    threads.close()
    assert await threads.run(lambda: 2) == 2
