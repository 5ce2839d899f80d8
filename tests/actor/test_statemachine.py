import asyncio
from typing import Any

import pytest

from erllama.actor import (
    DEFERRED,
    POSTPONE,
    Call,
    Cast,
    Down,
    Event,
    StateMachine,
    StateTimeout,
    TaskDone,
    Urgent,
    kill,
    spawn,
    start,
)
from erllama.actor.testing import ManualClock, Probe, settle
from erllama.errors import ActorDied, Busy, MailboxFull


class Door(StateMachine):
    """closed ⇄ open. Closed, it postpones what needs an open door."""

    initial_state = "closed"

    def __init__(self) -> None:
        self.journal: list[Any] = []

    async def on_enter_closed(self) -> None:
        self.journal.append("enter closed")

    async def on_exit_closed(self) -> None:
        self.journal.append("exit closed")

    async def on_enter_open(self) -> None:
        self.journal.append("enter open")

    async def in_closed(self, event: Event) -> Any:
        match event:
            case Cast("open") | Urgent("open"):
                await self.goto("open")
            case Cast("reopen") | Urgent("reopen"):
                await self.goto("closed")
            case Urgent(("timeout", seconds)):
                self.state_timeout(seconds, payload="tired")
            case Call("state"):
                return self.state
            case Call("busy"):
                raise Busy("not now")
            case Call("defer", reply):
                reply.send("deferred")
                return DEFERRED
            case Call() | Cast() | Urgent():
                return POSTPONE
            case StateTimeout(payload):
                self.journal.append(("timeout", payload))
            case _:
                self.journal.append(event)
        return None

    async def in_open(self, event: Event) -> Any:
        match event:
            case Call("close and go"):
                await self.goto("closed")
                return "closed"
            case Call("nowhere"):
                await self.goto("ajar")
            case Call(payload) | Cast(payload) | Urgent(payload):
                self.journal.append(payload)
                return payload
            case _:
                self.journal.append(event)
        return None


@pytest.fixture
async def door(clock: ManualClock) -> Door:
    door = Door()
    await start(door, name="door", clock=clock)
    door.journal.clear()
    return door


async def test_the_initial_state_is_entered_after_init(clock: ManualClock) -> None:
    class Ready(Door):
        async def init(self) -> None:
            self.journal.append("init")

    door = Ready()
    ref = await start(door, name="door", clock=clock)
    assert door.journal == ["init", "enter closed"]
    assert door.state == "closed"
    await ref.stop()


async def test_init_may_choose_another_state(clock: ManualClock) -> None:
    class Wide(Door):
        async def init(self) -> None:
            await self.goto("open")

    door = Wide()
    ref = await start(door, name="door", clock=clock)
    assert door.state == "open"
    assert door.journal == ["enter open"]
    await ref.stop()


async def test_a_failing_entry_of_the_initial_state_fails_the_start(clock: ManualClock) -> None:
    class Jammed(Door):
        async def on_enter_closed(self) -> None:
            raise ValueError("jammed")

    with pytest.raises(ValueError, match="jammed"):
        await start(Jammed(), name="door", clock=clock)


async def test_the_current_state_answers(door: Door) -> None:
    assert await door.ref.call("state") == "closed"
    assert await door.ref.call("defer") == "deferred"
    door.ref.cast("open")
    assert await door.ref.call("anything") == "anything"
    await door.ref.stop()


async def test_a_change_of_state_leaves_the_old_one_and_enters_the_new_one(door: Door) -> None:
    door.ref.cast("open")
    await settle()
    assert door.journal == ["exit closed", "enter open"]
    assert await door.ref.call("close and go") == "closed"
    assert door.journal[2:] == ["enter closed"]
    await door.ref.stop()


async def test_going_to_the_current_state_leaves_and_enters_it_again(door: Door) -> None:
    door.ref.cast("reopen")
    await settle()
    assert door.journal == ["exit closed", "enter closed"]
    await door.ref.stop()


async def test_the_status_shows_the_state(door: Door) -> None:
    assert door.ref.status().state == "closed"
    door.ref.cast("open")
    await settle()
    assert door.ref.status().state == "open"
    await door.ref.stop()


async def test_postponed_events_come_back_in_order_before_newer_ones(door: Door) -> None:
    calls = [door.ref.call_nowait(number) for number in range(3)]
    door.ref.cast(3)
    await settle()
    assert not any(call.done() for call in calls)
    door.ref.cast("open")
    for number in (4, 5):
        door.ref.cast(number)
    await settle()
    assert door.journal == ["exit closed", "enter open", 0, 1, 2, 3, 4, 5]
    assert [await call for call in calls] == [0, 1, 2]
    await door.ref.stop()


async def test_an_event_may_be_postponed_again(door: Door) -> None:
    call = door.ref.call_nowait("patience")
    door.ref.urgent("reopen")
    await settle()
    door.ref.cast("reopen")
    await settle()
    assert not call.done()
    door.ref.cast("open")
    assert await call == "patience"
    await door.ref.stop()


async def test_an_urgent_event_can_be_postponed(door: Door) -> None:
    door.ref.cast("work")
    await settle()
    door.ref.urgent("urgent")
    await settle()
    door.ref.cast("open")
    await settle()
    assert door.journal[2:] == ["urgent", "work"]
    await door.ref.stop()


async def test_an_event_postponed_by_the_change_itself_comes_back_at_once(
    clock: ManualClock,
) -> None:
    class Turnstile(StateMachine):
        initial_state = "locked"

        async def in_locked(self, event: Event) -> Any:
            await self.goto("unlocked")
            return POSTPONE

        async def in_unlocked(self, event: Event) -> Any:
            return "passed"

    ref = await start(Turnstile(), name="turnstile", clock=clock)
    assert await ref.call("push") == "passed"
    await ref.stop()


async def test_a_postponed_call_is_dropped_when_its_caller_gives_up(
    clock: ManualClock, door: Door
) -> None:
    timed_out = asyncio.create_task(door.ref.call("timed out", timeout=1))
    cancelled = door.ref.call_nowait("cancelled")
    kept = door.ref.call_nowait("kept")
    await settle()
    assert door.ref.status().work == 3
    cancelled.cancel()
    await clock.advance(1)
    assert timed_out.exception() is not None
    assert door.ref.status().work == 1
    door.ref.cast("open")
    assert await kept == "kept"
    assert door.journal[2:] == ["kept"]
    await door.ref.stop()


async def test_postponed_work_counts_towards_the_mailboxs_capacity(clock: ManualClock) -> None:
    ref = await start(Door(), name="door", clock=clock, mailbox_capacity=2)
    ref.cast("one")
    ref.cast("two")
    await settle()
    with pytest.raises(MailboxFull):
        ref.cast("three")
    ref.urgent("open")
    await settle()
    ref.cast("four")
    await ref.stop()


async def test_postponed_calls_fail_with_the_actor(door: Door) -> None:
    call = door.ref.call_nowait("postponed")
    await settle()
    kill(door.ref)
    with pytest.raises(ActorDied):
        await call


async def test_a_state_timeout_reaches_the_state_that_asked_for_it(
    clock: ManualClock, door: Door
) -> None:
    door.ref.urgent(("timeout", 5))
    await clock.advance(4.9)
    assert door.journal == []
    await clock.advance(0.1)
    assert door.journal == [("timeout", "tired")]
    await door.ref.stop()


async def test_a_state_timeout_is_cancelled_by_a_change_of_state(
    clock: ManualClock, door: Door
) -> None:
    door.ref.urgent(("timeout", 5))
    door.ref.urgent("open")
    await settle()
    assert clock.pending == 0
    await clock.advance(5)
    assert door.journal == ["exit closed", "enter open"]
    await door.ref.stop()


async def test_a_state_timeout_that_is_in_the_mailbox_already_is_cancelled_too(
    clock: ManualClock, door: Door
) -> None:
    door.ref.urgent(("timeout", 5))
    await settle()
    clock.call_later(5, lambda: None)
    door.ref.urgent("open")
    door._running().mailbox.put_system(StateTimeout("stale", door._epoch))
    await settle()
    assert door.journal == ["exit closed", "enter open"]
    await door.ref.stop()


async def test_a_new_state_timeout_replaces_the_old_one(clock: ManualClock, door: Door) -> None:
    door.ref.urgent(("timeout", 5))
    await clock.advance(3)
    door.ref.urgent(("timeout", 5))
    await clock.advance(4.9)
    assert door.journal == []
    await clock.advance(0.1)
    assert door.journal == [("timeout", "tired")]
    await door.ref.stop()


async def test_a_dead_machine_leaves_a_timer_that_does_nothing(
    clock: ManualClock, door: Door
) -> None:
    door.ref.urgent(("timeout", 5))
    await door.ref.stop()
    await clock.advance(5)
    assert door.journal == []


async def test_downs_and_finished_tasks_are_events(clock: ManualClock, door: Door) -> None:
    async def work() -> int:
        return 42

    watched = await start(Probe(), name="watched", clock=clock)
    door.watch(watched)
    await watched.stop()
    door.spawn_task(work(), then="tag")
    await settle()
    assert door.journal == [Down("watched", watched.id, "shutdown"), TaskDone("tag", 42, None)]
    await door.ref.stop()


async def test_an_erllama_error_answers_the_call_and_the_machine_lives_on(door: Door) -> None:
    with pytest.raises(Busy):
        await door.ref.call("busy")
    assert await door.ref.call("state") == "closed"
    await door.ref.stop()


async def test_an_unknown_state_is_a_clear_error(door: Door) -> None:
    door.ref.cast("open")
    with pytest.raises(ActorDied, match=r"Door has no state 'ajar'; its states are closed, open"):
        await door.ref.call("nowhere")
    await door.ref.wait_dead()
    assert isinstance(door.ref.reason, LookupError)


async def test_an_unknown_initial_state_is_refused_before_the_start(clock: ManualClock) -> None:
    class Lost(StateMachine):
        initial_state = "limbo"

    with pytest.raises(LookupError, match=r"Lost has no state 'limbo'; its states are none"):
        spawn(Lost(), name="lost", clock=clock)
