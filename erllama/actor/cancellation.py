"""Bounded waits for tasks that were told to end."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from types import CoroutineType
from typing import Any

from erllama.clock import Clock

CANCEL_GRACE = 1.0
"""Seconds that a cancelled task gets before it is cancelled again, and after that given up."""


async def end_tasks(tasks: Collection[asyncio.Task[Any]], clock: Clock) -> list[asyncio.Task[Any]]:
    """Cancel tasks and wait for their end; return those that did not obey.

    Each gets a second cancellation: a first one can be lost (a `finally` that fails, a race in
    `asyncio.wait_for` of Python 3.11) without the task meaning any harm.
    """
    for _ in range(2):
        pending = [task for task in tasks if not task.done()]
        for task in pending:
            task.cancel()
        await ended_within(pending, clock, CANCEL_GRACE)
    return [task for task in tasks if not task.done()]


async def ended_within(tasks: Collection[asyncio.Task[Any]], clock: Clock, seconds: float) -> None:
    """Wait until all tasks are done, `seconds` at most. Not interrupted by a cancellation.

    Only the kernel's way out waits here: it is bounded, and it is what a cancellation asks for.
    """
    alarm: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    timer = clock.call_later(seconds, alarm.cancel)
    try:
        while not alarm.done():  # cancelled when the time is over
            pending = [task for task in tasks if not task.done()]
            if not pending:
                return
            try:
                await asyncio.wait([*pending, alarm], return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                continue
    finally:
        timer.cancel()
        alarm.cancel()


def where(task: asyncio.Task[Any]) -> str:
    """The innermost function that a task waits in, for a log line about one that does not end."""
    place = "at an unknown place"
    waiter: Any = task.get_coro()
    while isinstance(waiter, CoroutineType) and (frame := waiter.cr_frame) is not None:
        code = frame.f_code
        place = f"in {code.co_qualname} ({code.co_filename}:{frame.f_lineno})"
        waiter = waiter.cr_await
    return place
