"""The mailbox of one actor: two lanes, one consumer.

State:      a system lane, a bounded work lane, and what was parked for later.
Writers:    anyone on the event loop's thread may put; only the actor's own task gets and parks.
Invariants: the system lane is served first. Work, parked work included, never exceeds the
            capacity: a full mailbox refuses instead of growing. An item leaves its lane in the
            same step in which `get` returns it, so that a cancelled `get` loses nothing. Once
            closed, a mailbox stays empty.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

from erllama.errors import ConfigError, MailboxFull

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Two deques: the system lane (never refuses) before the bounded work lane.

    Args:
        capacity: most items of work that may wait, at least 1.
        name: whose mailbox it is, for error messages.

    Raises:
        ConfigError: the capacity is below 1.
    """

    def __init__(self, capacity: int, name: str = "") -> None:
        if capacity < 1:
            raise ConfigError(f"mailbox capacity must be at least 1, not {capacity}")
        self.capacity = capacity
        self.name = name
        self._system: deque[T] = deque()
        self._work: deque[T] = deque()
        self._parked_system: deque[T] = deque()
        self._parked_work: deque[T] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False
        self._last_was_system = False

    def __len__(self) -> int:
        return self.system_length + self.work_length

    @property
    def system_length(self) -> int:
        """Items waiting in the system lane, parked ones included."""
        return len(self._system) + len(self._parked_system)

    @property
    def work_length(self) -> int:
        """Items waiting in the work lane, parked ones included."""
        return len(self._work) + len(self._parked_work)

    @property
    def parked_length(self) -> int:
        """Items parked until `unpark`."""
        return len(self._parked_system) + len(self._parked_work)

    @property
    def work_at_hand(self) -> int:
        """Items in the work lane that `get` would return without waiting for `unpark`."""
        return len(self._work)

    @property
    def closed(self) -> bool:
        """Whether the mailbox takes no more items."""
        return self._closed

    def put_system(self, item: T) -> bool:
        """Add to the system lane; False once closed, and never refused before."""
        if self._closed:
            return False
        self._system.append(item)
        self._wake()
        return True

    def put_note(self, item: T) -> bool:
        """Add to the system lane, and wake nobody; False once closed.

        It is served when the consumer is awake or woken for another item, before all work.
        """
        if not self._closed:
            self._system.append(item)
        return not self._closed

    def put_work(self, item: T) -> bool:
        """Add to the work lane; False once closed.

        Raises:
            MailboxFull: `capacity` items of work are waiting.
        """
        if self._closed:
            return False
        if self.work_length >= self.capacity:
            raise MailboxFull(
                f"the mailbox of actor {self.name!r} is full: all {self.capacity} places of its"
                " work lane are taken; try again later"
            )
        self._work.append(item)
        self._wake()
        return True

    def get_nowait(self) -> T:
        """Take the next item.

        Raises:
            asyncio.QueueEmpty: nothing waits (parked items do not count).
        """
        lane = self._system or self._work
        if not lane:
            raise asyncio.QueueEmpty
        self._last_was_system = lane is self._system
        return lane.popleft()

    async def get(self) -> T:
        """Wait for the next item and take it. One consumer at a time.

        Raises:
            RuntimeError: another task waits here already.
        """
        while not self._system and not self._work:
            if self._waiter is not None:
                raise RuntimeError(f"the mailbox of actor {self.name!r} has a consumer already")
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self.get_nowait()

    def park(self, item: T) -> None:
        """Keep the item that was taken last until `unpark`; it still counts as work."""
        if not self._closed:
            (self._parked_system if self._last_was_system else self._parked_work).append(item)

    def unpark(self) -> None:
        """Put all parked items back, in order, each before the newer ones of its lane."""
        for parked, lane in (
            (self._parked_system, self._system),
            (self._parked_work, self._work),
        ):
            lane.extendleft(reversed(parked))
            parked.clear()
        if self._system or self._work:
            self._wake()

    def discard_parked(self, item: T) -> None:
        """Forget one parked item, if it is still parked: its place is free again."""
        for parked in (self._parked_system, self._parked_work):
            kept = [other for other in parked if other is not item]
            if len(kept) < len(parked):
                parked.clear()
                parked.extend(kept)

    def close(self) -> list[T]:
        """Take no more items and give back those that were left, in the order of service."""
        self.unpark()
        left = [*self._system, *self._work]
        self._system.clear()
        self._work.clear()
        self._closed = True
        return left

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
