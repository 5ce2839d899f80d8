import asyncio
import gc
import time
from functools import partial
from typing import Any

import pytest

from erllama.actor import kill, start
from erllama.actor.testing import (
    Crash,
    CrashingActor,
    Exit,
    Hang,
    ManualClock,
    Probe,
    forbid_blocked_loop,
    hang,
    no_orphan_tasks,
    settle,
)


def burn(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


async def test_a_manual_clock_moves_only_when_told_to(clock: ManualClock) -> None:
    assert clock.now() == 0.0
    await clock.advance(2.5)
    assert clock.now() == 2.5
    assert ManualClock(start=7.0).now() == 7.0


async def test_due_timers_run_in_order_each_at_its_time(clock: ManualClock) -> None:
    ran: list[tuple[str, float]] = []

    def note(name: str) -> None:
        ran.append((name, clock.now()))

    for name, delay in (("c", 3.0), ("a", 1.0), ("b1", 2.0), ("b2", 2.0), ("late", 9.0)):
        clock.call_later(delay, partial(note, name))
    await clock.advance(3)
    assert ran == [("a", 1.0), ("b1", 2.0), ("b2", 2.0), ("c", 3.0)]
    assert clock.pending == 1


async def test_a_cancelled_timer_does_not_run(clock: ManualClock) -> None:
    timer = clock.call_later(1, lambda: pytest.fail("cancelled"))
    timer.cancel()
    assert clock.pending == 0
    await clock.advance(1)


async def test_a_timer_set_by_a_timer_runs_within_the_same_advance(clock: ManualClock) -> None:
    ran: list[float] = []

    def again() -> None:
        ran.append(clock.now())
        clock.call_later(1, again)

    clock.call_later(1, again)
    await clock.advance(3)
    assert ran == [1.0, 2.0, 3.0]


async def test_advancing_lets_woken_tasks_set_their_next_timer(clock: ManualClock) -> None:
    async def sleeper() -> None:
        for _ in range(3):
            event = asyncio.Event()
            clock.call_later(1, event.set)
            await event.wait()

    task = asyncio.create_task(sleeper())
    await clock.advance(2.9)
    assert not task.done()
    await clock.advance(0.1)
    assert task.done()


async def test_settle_returns_when_no_callback_is_ready() -> None:
    count = 0

    async def work() -> None:
        nonlocal count
        for _ in range(500):
            await asyncio.sleep(0)
            count += 1

    task = asyncio.create_task(work())
    await settle()
    assert count == 500
    assert task.done()


async def test_settle_tells_when_the_loop_never_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    async def restless() -> None:
        while True:  # noqa: ASYNC110  it waits for nothing
            await asyncio.sleep(0)

    monkeypatch.setattr("erllama.actor.testing.MOST_TURNS", 100)
    task = asyncio.create_task(restless())
    with pytest.raises(RuntimeError, match="did not come to rest in 100 turns"):
        await settle()
    task.cancel()
    await settle()


async def test_an_orphan_task_is_named() -> None:
    tasks: list[asyncio.Task[None]] = []
    with pytest.raises(AssertionError, match="1 tasks were left behind: lost child"):
        async with no_orphan_tasks():
            tasks.append(asyncio.create_task(hang(), name="lost child"))
    tasks[0].cancel()
    await settle()


async def test_tasks_from_before_and_finished_tasks_are_no_orphans() -> None:
    before = asyncio.create_task(hang())
    async with no_orphan_tasks():
        await asyncio.create_task(settle())
    before.cancel()
    await settle()


def run_with_guard(main: Any, limit: float = 0.02) -> None:
    with forbid_blocked_loop(limit):
        asyncio.run(main())


def test_a_task_that_burns_the_loops_time_is_named_with_the_milliseconds() -> None:
    async def greedy() -> None:
        burn(0.03)

    async def main() -> None:
        await asyncio.create_task(greedy(), name="the culprit")

    with pytest.raises(AssertionError, match=r"task 'the culprit' \(.*greedy\) burnt \d\d+ ms"):
        run_with_guard(main)


def test_a_plain_callback_that_burns_the_loops_time_is_named() -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_soon(burn, 0.03)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    with pytest.raises(AssertionError, match=r"over 20 ms: burn burnt \d\d+ ms"):
        run_with_guard(main)


def test_a_timer_that_burns_the_loops_time_is_named() -> None:
    async def main() -> None:
        done = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.call_later(0, burn, 0.03)
        loop.call_later(0, done.set)
        await done.wait()

    with pytest.raises(AssertionError, match="burn burnt"):
        run_with_guard(main)


def test_time_spent_in_several_callbacks_is_not_added_up() -> None:
    async def main() -> None:
        for _ in range(6):
            burn(0.01)
            await asyncio.sleep(0)

    run_with_guard(main, limit=0.04)


def test_a_thread_that_waits_burns_nothing() -> None:
    async def main() -> None:
        time.sleep(0.03)  # noqa: ASYNC251  wall time, which is not what counts

    run_with_guard(main)


def test_time_in_other_threads_does_not_count() -> None:
    async def main() -> None:
        await asyncio.to_thread(burn, 0.03)

    run_with_guard(main)


def test_garbage_collection_does_not_count() -> None:
    class Slow:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            burn(0.03)

    async def main() -> None:
        Slow()
        gc.collect()

    gc.collect()
    run_with_guard(main)


def test_the_guard_leaves_the_loop_as_it_was() -> None:
    before = asyncio.events.Handle._run
    callbacks = len(gc.callbacks)
    with forbid_blocked_loop():
        assert asyncio.events.Handle._run is not before
    assert asyncio.events.Handle._run is before
    assert len(gc.callbacks) == callbacks


async def test_a_probe_writes_down_what_happens_to_it(clock: ManualClock) -> None:
    journal: list[tuple[Any, ...]] = []
    probe = Probe(journal, "p")
    ref = await start(probe, name="probe", clock=clock)
    await ref.call("call")
    ref.cast("cast")
    ref.urgent(Exit("enough"))
    await ref.wait_dead()
    assert journal == [
        ("init", "p"),
        ("call", "p", "call"),
        ("urgent", "p", Exit("enough")),
        ("terminate", "p", "enough"),
    ]
    assert probe.heard("call") == ["call"]


async def test_a_probe_crashes_and_hangs_when_told_to(clock: ManualClock) -> None:
    ref = await start(Probe(), name="probe", clock=clock)
    ref.cast(Hang())
    hello = ref.call_nowait("hello")
    await settle()
    assert not hello.done()
    kill(ref)
    await settle()
    ref = await start(Probe(), name="probe", clock=clock)
    error = ValueError()
    ref.cast(Crash(error))
    await settle()
    assert ref.reason is error


async def test_a_crashing_actor_fails_its_start(clock: ManualClock) -> None:
    with pytest.raises(ValueError, match="bad"):
        await start(CrashingActor(ValueError("bad")), name="bad", clock=clock)
