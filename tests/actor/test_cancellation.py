import asyncio

from erllama.actor.cancellation import CANCEL_GRACE, end_tasks, ended_within, where
from erllama.actor.testing import ManualClock, hang, settle


async def test_tasks_that_obey_are_gone_at_once(clock: ManualClock) -> None:
    tasks = [asyncio.create_task(hang()) for _ in range(3)]
    await settle()
    assert await end_tasks(tasks, clock) == []
    assert all(task.cancelled() for task in tasks)
    assert clock.pending == 0


async def test_a_task_that_ignores_one_cancellation_gets_another(clock: ManualClock) -> None:
    task = asyncio.create_task(hang(swallow=1))
    await settle()
    ending = asyncio.create_task(end_tasks([task], clock))
    await clock.advance(CANCEL_GRACE)
    assert await ending == []
    assert task.cancelled()


async def test_a_task_that_ignores_two_is_returned(clock: ManualClock) -> None:
    task = asyncio.create_task(hang(swallow=2))
    await settle()
    ending = asyncio.create_task(end_tasks([task], clock))
    await clock.advance(2 * CANCEL_GRACE)
    assert await ending == [task]
    task.cancel()
    await settle()


async def test_the_wait_ends_with_the_last_task_or_with_the_time(clock: ManualClock) -> None:
    gates = [asyncio.Event(), asyncio.Event()]
    tasks = [asyncio.create_task(gate.wait()) for gate in gates]
    waiting = asyncio.create_task(ended_within(tasks, clock, 3))
    for gate in gates:
        await settle()
        assert not waiting.done()
        gate.set()
    await settle()
    assert waiting.done()

    forever = asyncio.create_task(hang())
    waiting = asyncio.create_task(ended_within([forever], clock, 3))
    await clock.advance(2.9)
    assert not waiting.done()
    await clock.advance(0.1)
    assert waiting.done()
    forever.cancel()


async def test_a_cancellation_does_not_interrupt_the_wait(clock: ManualClock) -> None:
    task = asyncio.create_task(hang())
    waiting = asyncio.create_task(ended_within([task], clock, 3))
    await settle()
    waiting.cancel()
    await settle()
    assert not waiting.done()
    await clock.advance(3)
    assert waiting.done()
    assert not waiting.cancelled()
    task.cancel()


async def test_where_names_the_function_that_a_task_waits_in() -> None:
    task = asyncio.create_task(hang())
    await settle()
    assert where(task).startswith("in hang (")
    task.cancel()
    await settle()
    assert where(task) == "at an unknown place"
