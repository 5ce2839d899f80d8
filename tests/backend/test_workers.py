"""Low-priority threads."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Callable

import pytest

from erllama.backend.lane import Lane
from erllama.backend.workers import LOWEST, Workers


def own_nice() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


async def test_workers_run_at_the_lowest_priority_and_nobody_else() -> None:
    before = own_nice()
    workers, lane = Workers(), Lane()
    assert await workers.run(own_nice) == LOWEST == 19
    await lane.start()
    assert await lane.submit(1, own_nice) == before
    assert own_nice() == before
    await lane.stop()
    workers.close()


async def test_workers_hand_on_results_and_errors() -> None:
    workers = Workers()
    assert await workers.run(lambda: 5) == 5
    with pytest.raises(ZeroDivisionError):
        await workers.run(lambda: 1 / 0)
    workers.close()


class State:
    """Stands for what a worker reads into: many megabytes."""


@pytest.mark.parametrize("wrapped", [False, True])
async def test_an_error_does_not_keep_what_was_worked_on(wrapped: bool) -> None:
    seen: list[weakref.ref[State]] = []

    def fill(state: State) -> None:
        seen.append(weakref.ref(state))
        raise OSError("a row is gone")

    def read(fill: Callable[[State], None]) -> State:
        state = State()
        if not wrapped:
            fill(state)
        try:
            fill(state)
        except OSError as gone:
            raise ValueError("unreadable") from gone
        return state

    workers = Workers()
    with pytest.raises(ValueError if wrapped else OSError) as caught:
        await workers.run(lambda: read(fill))
    assert [state() for state in seen] == [None]
    names = [entry.name for entry in caught.traceback]
    assert "read" in names, "where it happened is still told"
    workers.close()


async def test_only_so_many_work_at_once() -> None:
    workers = Workers(threads=2)
    inside, most, lock, go_on = 0, 0, threading.Lock(), threading.Event()
    both = threading.Event()

    def work() -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
            if inside == 2:
                both.set()
        go_on.wait(5)
        with lock:
            inside -= 1

    jobs = [asyncio.ensure_future(workers.run(work)) for _ in range(6)]
    await asyncio.sleep(0)
    await asyncio.get_running_loop().run_in_executor(None, both.wait)
    go_on.set()
    await asyncio.gather(*jobs)
    assert most == 2
    workers.close()


async def test_a_closed_pool_drops_what_waits() -> None:
    workers = Workers(threads=1)
    entered, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        go_on.wait()

    running = asyncio.ensure_future(workers.run(hold))
    await asyncio.get_running_loop().run_in_executor(None, entered.wait)
    waiting = asyncio.ensure_future(workers.run(lambda: "never"))
    await asyncio.sleep(0)
    workers.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    go_on.set()
    await running
