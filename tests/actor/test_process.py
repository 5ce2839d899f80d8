"""The ends that an actor can come to."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from erllama.actor import Actor, Ref, StuckActor, kill, spawn, start
from erllama.actor.cancellation import CANCEL_GRACE
from erllama.actor.testing import Exit, Hang, ManualClock, Probe, hang, settle
from erllama.errors import ActorDied


class Stubborn(Probe):
    """Ignores cancellations until it is let go."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where
        self.let_go = asyncio.Event()

    async def ignore(self) -> None:
        while not self.let_go.is_set():
            try:
                await self.let_go.wait()
            except asyncio.CancelledError:
                self.journal.append(("ignored", self.label))

    async def init(self) -> None:
        if self.where == "init":
            await self.ignore()

    async def handle_cast(self, payload: Any) -> None:
        await self.ignore()

    async def terminate(self, reason: object) -> None:
        await super().terminate(reason)
        if self.where == "terminate":
            await self.ignore()


@pytest.fixture
async def stubborn() -> AsyncIterator[Callable[[str], Stubborn]]:
    """Builds stubborn actors and lets them go in the end, or a failed test would never end."""
    actors: list[Stubborn] = []

    def build(where: str) -> Stubborn:
        actors.append(Stubborn(where))
        return actors[-1]

    yield build
    for actor in actors:
        await let_go(actor)


async def let_go(actor: Stubborn) -> None:
    actor.let_go.set()
    await settle()


async def test_killed_before_its_first_step_an_actor_never_runs(clock: ManualClock) -> None:
    probe = Probe()
    ref = spawn(probe, name="unborn", clock=clock)
    answer = ref.call_nowait("early")
    kill(ref)
    with pytest.raises(ActorDied):
        await answer
    assert ref.reason == "killed"
    assert probe.journal == []


async def test_stopped_before_its_first_step_an_actor_never_runs(clock: ManualClock) -> None:
    probe = Probe()
    ref = spawn(probe, name="unborn", clock=clock)
    assert await ref.stop()
    assert ref.reason == "shutdown"
    assert probe.journal == []


async def test_a_handler_that_swallows_its_cancellation_still_ends_the_actor(
    clock: ManualClock,
) -> None:
    class Swallowing(Probe):
        async def handle_cast(self, payload: Any) -> None:
            try:
                await hang()
            except asyncio.CancelledError:
                self.journal.append(("swallowed", self.label))

    probe = Swallowing()
    ref = await start(probe, name="swallowing", clock=clock)
    ref.cast("one")
    await settle()
    ref.cast("two")
    kill(ref)
    await ref.wait_dead()
    assert [entry[0] for entry in probe.journal] == ["init", "swallowed", "terminate"]
    assert ref.reason == "killed"


async def test_a_handler_that_ignores_one_cancellation_is_cancelled_again(
    clock: ManualClock,
) -> None:
    probe = Probe()
    ref = await start(probe, name="deaf on one ear", clock=clock)
    ref.cast(Hang(swallow=1))
    await settle()
    kill(ref)
    await settle()
    assert ref.status().state == "running"
    await clock.advance(CANCEL_GRACE)
    assert ref.status().state == "dead"
    assert not ref.stuck
    assert probe.heard("terminate") == ["killed"]


async def test_a_cancellation_from_outside_the_kernel_counts_as_a_kill(
    clock: ManualClock,
) -> None:
    class Victim(Probe):
        async def handle_cast(self, payload: Any) -> None:
            self.task = asyncio.current_task()
            await hang()

    probe = Victim()
    ref = await start(probe, name="victim", clock=clock)
    ref.cast("go")
    await settle()
    assert probe.task is not None
    probe.task.cancel()
    await ref.wait_dead()
    assert ref.reason == "killed"
    assert probe.heard("terminate") == ["killed"]


async def test_awaiting_something_that_was_cancelled_elsewhere_is_a_crash(
    clock: ManualClock,
) -> None:
    class Unlucky(Probe):
        async def handle_cast(self, payload: Any) -> None:
            await payload

    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    ref = await start(Unlucky(), name="unlucky", clock=clock)
    ref.cast(future)
    await settle()
    future.cancel()
    await ref.wait_dead()
    assert isinstance(ref.reason, asyncio.CancelledError)


async def test_an_actor_that_kills_itself_still_terminates(clock: ManualClock) -> None:
    class Suicidal(Probe):
        async def handle_cast(self, payload: Any) -> None:
            kill(self.ref)

        async def terminate(self, reason: object) -> None:
            await asyncio.sleep(0)
            await super().terminate(reason)

    probe = Suicidal()
    ref = await start(probe, name="suicidal", clock=clock)
    ref.cast("go")
    await ref.wait_dead()
    assert probe.heard("terminate") == ["killed"]


async def test_an_error_while_being_killed_does_not_change_the_reason(
    clock: ManualClock,
) -> None:
    class Sore(Probe):
        async def handle_cast(self, payload: Any) -> None:
            try:
                await hang()
            finally:
                raise ValueError("sore")

    ref = await start(Sore(), name="sore", clock=clock)
    ref.cast("go")
    await settle()
    kill(ref)
    await ref.wait_dead()
    assert ref.reason == "killed"


async def test_a_failing_terminate_is_logged_and_does_not_change_the_reason(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Messy(Actor):
        async def terminate(self, reason: object) -> None:
            raise ValueError("mess")

    ref = await start(Messy(), name="messy", clock=clock)
    assert await ref.stop()
    assert ref.reason == "shutdown"
    assert "terminate of actor 'messy' failed: ValueError('mess')" in caplog.text


class EndsSlowly(Probe):
    terminate_timeout = 3.0

    async def terminate(self, reason: object) -> None:
        self.journal.append(("terminating", self.label, reason))
        await hang()


async def test_terminate_is_cancelled_when_its_time_is_over(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    ref = await start(EndsSlowly(), name="slow", clock=clock)
    kill(ref)
    await clock.advance(2.9)
    assert ref.status().state == "stopping"
    await clock.advance(0.1)
    assert ref.status().state == "dead"
    assert not ref.stuck
    assert "terminate of actor 'slow' was cancelled" in caplog.text
    assert clock.pending == 0


async def test_a_second_kill_does_not_cut_terminate_short(clock: ManualClock) -> None:
    ref = await start(EndsSlowly(), name="slow", clock=clock)
    kill(ref)
    await settle()
    kill(ref)
    await clock.advance(2.9)
    assert ref.status().state == "stopping"
    await clock.advance(0.1)
    assert ref.status().state == "dead"


async def test_a_kill_cuts_the_terminate_of_a_stop_short(clock: ManualClock) -> None:
    ref = await start(EndsSlowly(), name="slow", clock=clock)
    ref.request_stop()
    await settle()
    kill(ref)
    await settle()
    assert ref.status().state == "dead"
    assert ref.reason == "shutdown"


async def test_the_deadline_of_a_stop_cuts_terminate_short(clock: ManualClock) -> None:
    ref = await start(EndsSlowly(), name="slow", clock=clock)
    ref.request_stop(deadline=1)
    await clock.advance(0.9)
    assert ref.status().state == "stopping"
    await clock.advance(0.1)
    assert ref.status().state == "dead"


@pytest.mark.parametrize("where", ["init", "handler", "terminate"])
async def test_an_actor_that_ignores_everything_is_given_up(
    clock: ManualClock,
    stubborn: Callable[[str], Stubborn],
    caplog: pytest.LogCaptureFixture,
    where: str,
) -> None:
    actor = stubborn(where)
    ref = spawn(actor, name="stubborn", clock=clock)
    if where == "handler":
        ref.cast("go")
    downs: list[object] = []
    ref.watch(downs.append)
    await settle()
    waiting = ref.call_nowait("hello")
    stopping = asyncio.create_task(ref.stop(deadline=5))
    await clock.advance(5 + 2 * CANCEL_GRACE)
    assert await stopping is False
    assert ref.stuck
    assert not ref.alive
    assert len(downs) == 1
    if where == "terminate":
        assert await waiting == "hello"  # answered before the stop
    else:
        assert isinstance(waiting.exception(), ActorDied)
        assert isinstance(ref.reason, StuckActor)
    assert "StuckActor: actor 'stubborn' ignored its cancellation" in caplog.text
    assert "in Event.wait (" in caplog.text
    assert len([entry for entry in actor.journal if entry[0] == "ignored"]) >= 2
    await let_go(actor)
    assert len(downs) == 1


async def test_a_stuck_actor_that_comes_back_still_terminates(
    clock: ManualClock, stubborn: Callable[[str], Stubborn]
) -> None:
    actor = stubborn("handler")
    ref = await start(actor, name="stubborn", clock=clock)
    ref.cast("go")
    await settle()
    kill(ref)
    await clock.advance(2 * CANCEL_GRACE)
    assert ref.stuck
    assert actor.heard("terminate") == []
    await let_go(actor)
    assert actor.heard("terminate") == ["killed"]


async def test_giving_an_actor_up_cancels_its_background_tasks(
    clock: ManualClock, stubborn: Callable[[str], Stubborn]
) -> None:
    actor = stubborn("handler")
    ref = await start(actor, name="stubborn", clock=clock)
    task = actor.spawn_task(hang())
    ref.cast("go")
    await settle()
    kill(ref)
    await clock.advance(2 * CANCEL_GRACE)
    assert task.cancelled()
    await let_go(actor)


async def test_a_background_task_that_ignores_cancellation_is_logged_and_left(
    clock: ManualClock, stubborn: Callable[[str], Stubborn], caplog: pytest.LogCaptureFixture
) -> None:
    actor = stubborn("handler")
    ref = await start(actor, name="owner", clock=clock)
    actor.spawn_task(actor.ignore(), then="rebel")
    await settle()
    stopping = asyncio.create_task(ref.stop())
    await clock.advance(2 * CANCEL_GRACE)
    assert await stopping
    assert "StuckActor: task 'owner: rebel' of actor 'owner' does not end" in caplog.text
    await let_go(actor)


async def test_a_background_task_that_fails_while_its_actor_ends_makes_no_noise(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def sore() -> None:
        try:
            await hang()
        finally:
            raise ValueError("sore")

    probe = Probe()
    ref = await start(probe, name="owner", clock=clock)
    probe.spawn_task(sore())
    await settle()
    await ref.stop()
    assert caplog.text == ""


async def test_stop_during_the_end_waits_for_it(clock: ManualClock) -> None:
    ref = await start(EndsSlowly(), name="slow", clock=clock)
    ref.cast(Exit())
    await settle()
    stopping = asyncio.create_task(ref.stop())
    await clock.advance(2.9)
    assert not stopping.done()
    await clock.advance(0.1)
    assert await stopping
    assert ref.reason == "normal"


async def test_asyncio_run_ends_actors_that_nobody_stopped(clock: ManualClock) -> None:
    def run() -> list[tuple[Any, ...]]:
        probe = Probe()

        async def main() -> Ref:
            return await start(probe, name="left", clock=clock)

        ref = asyncio.run(main())
        assert ref.reason == "killed"
        return probe.journal

    journal = await asyncio.to_thread(run)
    assert journal == [("init", "probe"), ("terminate", "probe", "killed")]


async def test_a_failed_task_group_in_a_handler_does_not_count_as_a_cancellation(
    clock: ManualClock,
) -> None:
    async def fail() -> None:
        raise ValueError

    class Grouping(Probe):
        async def init(self) -> None:
            await self.handle_cast("")

        async def handle_cast(self, payload: Any) -> None:
            with contextlib.suppress(ExceptionGroup):
                async with asyncio.TaskGroup() as group:
                    group.create_task(fail())

    ref = await start(Grouping(), name="grouping", clock=clock)
    for _ in range(3):
        ref.cast("go")
    assert await ref.call("still there") == "still there"
    await ref.stop()


async def test_a_cancellation_in_the_actors_own_step_counts_as_a_kill(clock: ManualClock) -> None:
    class Odd(Probe):
        async def handle_cast(self, payload: Any) -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()

    probe = Odd()
    ref = await start(probe, name="odd", clock=clock)
    ref.cast("go")
    await ref.wait_dead()
    assert ref.reason == "killed"
    assert probe.heard("terminate") == ["killed"]


@pytest.mark.parametrize("where", ["init", "handler"])
async def test_a_failed_task_group_does_not_turn_a_later_crash_into_a_kill(
    clock: ManualClock, where: str
) -> None:
    async def fail() -> None:
        raise ValueError

    class Grouping(Probe):
        async def init(self) -> None:
            if where == "init":
                await self.handle_urgent("")

        async def handle_urgent(self, payload: Any) -> None:
            with contextlib.suppress(ExceptionGroup):
                async with asyncio.TaskGroup() as group:
                    group.create_task(fail())

        async def handle_cast(self, payload: Any) -> None:
            await payload

    ref = await start(Grouping(), name="grouping", clock=clock)
    if where == "handler":
        ref.urgent("go")
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.cancel()
    ref.cast(future)
    await ref.wait_dead()
    assert isinstance(ref.reason, asyncio.CancelledError)
