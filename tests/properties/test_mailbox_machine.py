"""The mailbox against a model made of plain lists."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from erllama.actor import Mailbox
from erllama.actor.testing import settle
from erllama.errors import MailboxFull


class MailboxMachine(RuleBasedStateMachine):
    """Puts, takes, parks and cancelled waits in any order lose, double and reorder nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.count = 0
        self.system: list[int] = []
        self.work: list[int] = []
        self.parked_system: list[int] = []
        self.parked_work: list[int] = []
        self.taken: tuple[int, bool] | None = None  # the last item, and whether of the system lane

    def run(self, coro: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(coro)

    @initialize(capacity=st.integers(1, 4))
    def open(self, capacity: int) -> None:
        self.mailbox: Mailbox[int] = Mailbox(capacity)

    def take(self) -> int:
        """What the model hands out next."""
        lane = self.system or self.work
        self.taken = lane[0], lane is self.system
        return lane.pop(0)

    @rule()
    def put_system(self) -> None:
        self.count += 1
        assert self.mailbox.put_system(self.count)
        self.system.append(self.count)

    @rule()
    def put_note(self) -> None:
        self.count += 1
        assert self.mailbox.put_note(self.count)
        self.system.append(self.count)

    @rule()
    def put_work(self) -> None:
        self.count += 1
        full = len(self.work) + len(self.parked_work) >= self.mailbox.capacity
        try:
            assert self.mailbox.put_work(self.count)
        except MailboxFull:
            assert full
        else:
            assert not full
            self.work.append(self.count)

    @precondition(lambda self: self.system or self.work)
    @rule()
    def get(self) -> None:
        assert self.run(self.mailbox.get()) == self.take()

    @rule()
    def get_nowait(self) -> None:
        try:
            item = self.mailbox.get_nowait()
        except asyncio.QueueEmpty:
            assert not self.system
            assert not self.work
        else:
            assert item == self.take()

    @precondition(lambda self: not self.system and not self.work)
    @rule(system=st.booleans(), woken=st.booleans())
    def cancel_a_waiting_get(self, system: bool, woken: bool) -> None:
        async def scenario() -> None:
            getting = asyncio.create_task(self.mailbox.get())
            await settle()
            if woken:
                self.put_system() if system else self.put_work()
            getting.cancel()
            await settle()
            assert getting.cancelled()

        self.run(scenario())

    @precondition(lambda self: self.taken is not None)
    @rule()
    def park_the_last_item(self) -> None:
        assert self.taken is not None
        item, system = self.taken
        # The mailbox remembers the lane of the item that was taken last.
        self.mailbox.park(item)
        (self.parked_system if system else self.parked_work).append(item)
        self.taken = None

    @rule()
    def unpark(self) -> None:
        self.mailbox.unpark()
        self.system = self.parked_system + self.system
        self.work = self.parked_work + self.work
        self.parked_system, self.parked_work = [], []

    @precondition(lambda self: self.parked_system or self.parked_work)
    @rule(data=st.data())
    def discard_parked(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from(self.parked_system + self.parked_work))
        self.mailbox.discard_parked(item)
        for parked in (self.parked_system, self.parked_work):
            if item in parked:
                parked.remove(item)

    @invariant()
    def lengths_agree(self) -> None:
        if self.count == 0:
            return
        assert self.mailbox.system_length == len(self.system) + len(self.parked_system)
        assert self.mailbox.work_length == len(self.work) + len(self.parked_work)
        assert self.mailbox.parked_length == len(self.parked_system) + len(self.parked_work)

    def teardown(self) -> None:
        if self.count:
            system = self.parked_system + self.system
            assert self.mailbox.close() == system + self.parked_work + self.work
            assert not self.mailbox.put_system(0)
        self.loop.close()


MailboxMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestMailbox = MailboxMachine.TestCase
