import asyncio
from typing import Any

import pytest

from erllama.actor import (
    DEFERRED,
    Actor,
    Down,
    ReplyTo,
    TaskDone,
    kill,
    spawn,
    start,
)
from erllama.actor.testing import Crash, CrashingActor, Hang, ManualClock, Probe, settle
from erllama.clock import LoopClock
from erllama.errors import ActorDied, Busy, ConfigError


async def test_everything_an_actor_needs_is_there_before_init(clock: ManualClock) -> None:
    class Curious(Actor):
        async def init(self) -> None:
            self.seen = (self.ref.name, self.clock, self.log.name)

    actor = Curious()
    ref = await start(actor, name="curious", clock=clock)
    assert actor.ref is ref
    assert actor.seen == ("curious", clock, "erllama.actor.Curious")
    await ref.stop()


async def test_an_actor_uses_the_loops_clock_unless_given_another() -> None:
    actor = Probe()
    ref = await start(actor, name="probe")
    assert isinstance(actor.clock, LoopClock)
    assert await ref.call("hello", timeout=60) == "hello"
    await ref.stop()


async def test_spawn_returns_before_init_has_run(clock: ManualClock) -> None:
    probe = Probe()
    ref = spawn(probe, name="probe", clock=clock)
    assert probe.journal == []
    await ref.wait_started()
    assert probe.journal == [("init", "probe")]
    await ref.stop()


async def test_start_raises_what_init_raised_and_leaves_nothing_behind(
    clock: ManualClock,
) -> None:
    actor = CrashingActor(ValueError("bad init"))
    with pytest.raises(ValueError, match="bad init"):
        await start(actor, name="bad", clock=clock)
    assert not actor.ref.alive
    assert actor.heard("terminate") == []


async def test_a_cancelled_start_kills_the_actor(clock: ManualClock) -> None:
    class Slow(Probe):
        async def init(self) -> None:
            await asyncio.get_running_loop().create_future()

    actor = Slow()
    starting = asyncio.create_task(start(actor, name="slow", clock=clock))
    await settle()
    starting.cancel()
    await settle()
    assert starting.cancelled()
    assert actor.ref.reason == "killed"


async def test_an_actor_object_runs_only_once(clock: ManualClock) -> None:
    actor = Probe()
    ref = await start(actor, name="first", clock=clock)
    with pytest.raises(ConfigError, match=r"was started before, as 'first'; build a new one"):
        spawn(actor, name="second", clock=clock)
    await ref.stop()


async def test_messages_that_arrive_during_init_wait(clock: ManualClock) -> None:
    class Slow(Probe):
        async def init(self) -> None:
            await gate.wait()
            await super().init()

    gate = asyncio.Event()
    probe = Slow()
    ref = spawn(probe, name="slow", clock=clock)
    answer = ref.call_nowait("early")
    await settle()
    assert not answer.done()
    gate.set()
    assert await answer == "early"
    assert probe.journal == [("init", "probe"), ("call", "probe", "early")]
    await ref.stop()


async def test_a_deferred_answer_goes_through_the_envelope_later(clock: ManualClock) -> None:
    class Deferring(Actor):
        async def init(self) -> None:
            self.open: list[ReplyTo] = []

        async def handle_call(self, payload: Any, reply: ReplyTo) -> Any:
            if payload == "now":
                for waiting in self.open:
                    waiting.send("later")
                return "now"
            self.open.append(reply)
            return DEFERRED

    ref = await start(Deferring(), name="deferring", clock=clock)
    later = ref.call_nowait("wait")
    await settle()
    assert not later.done()
    assert await ref.call("now") == "now"
    assert await later == "later"
    await ref.stop()


async def test_an_erllama_error_answers_the_call_and_the_actor_lives_on(
    clock: ManualClock,
) -> None:
    ref = await start(Probe(), name="probe", clock=clock)
    with pytest.raises(Busy, match="not now"):
        await ref.call(Busy("not now"))
    assert await ref.call("still there") == "still there"
    await ref.stop()


async def test_an_erllama_error_in_a_group_answers_the_call_too(clock: ManualClock) -> None:
    ref = await start(Probe(), name="probe", clock=clock)
    with pytest.raises(Busy):
        await ref.call(ExceptionGroup("", [Busy("not now")]))
    assert ref.alive
    await ref.stop()


async def test_any_other_error_crashes_the_actor_and_its_caller_learns_the_reason(
    clock: ManualClock,
) -> None:
    ref = await start(Probe(), name="fragile", clock=clock)
    error = ValueError("oops")
    with pytest.raises(
        ActorDied, match=r"'fragile' crashed on this call: ValueError\('oops'\)"
    ) as e:
        await ref.call(error)
    assert e.value.reason is error
    await ref.wait_dead()
    assert ref.reason is error


async def test_an_erllama_error_in_a_cast_crashes_the_actor(clock: ManualClock) -> None:
    ref = await start(Probe(), name="probe", clock=clock)
    error = Busy("nobody to tell")
    ref.cast(Crash(error))
    await ref.wait_dead()
    assert ref.reason is error


@pytest.mark.parametrize("send", ["call", "cast", "urgent"])
async def test_an_actor_crashes_on_messages_it_does_not_take(clock: ManualClock, send: str) -> None:
    ref = await start(Actor(), name="plain", clock=clock)
    if send == "call":
        with pytest.raises(ActorDied):
            await ref.call("what")
    elif send == "cast":
        ref.cast("what")
    else:
        ref.urgent("what")
    await ref.wait_dead()
    assert isinstance(ref.reason, TypeError)
    assert "but got 'what'" in str(ref.reason)


async def test_stop_self_ends_after_the_current_message(clock: ManualClock) -> None:
    class OneShot(Probe):
        async def handle_call(self, payload: Any, reply: ReplyTo) -> Any:
            self.stop_self()
            return "last words"

    probe = OneShot()
    ref = await start(probe, name="one shot", clock=clock)
    first, unseen = ref.call_nowait("first"), ref.call_nowait("second")
    assert await first == "last words"
    with pytest.raises(ActorDied):
        await unseen
    await ref.wait_dead()
    assert ref.reason == "normal"
    assert probe.heard("terminate") == ["normal"]


async def test_stop_self_overtakes_whatever_waits(clock: ManualClock) -> None:
    class OneShot(Probe):
        async def handle_cast(self, payload: Any) -> None:
            self.ref.urgent("late")
            self.stop_self("enough")

    probe = OneShot()
    ref = await start(probe, name="one shot", clock=clock)
    ref.cast("go")
    await ref.wait_dead()
    assert probe.heard("urgent") == []
    assert ref.reason == "enough"


async def test_stop_self_wakes_an_idle_actor(clock: ManualClock) -> None:
    probe = Probe()
    ref = await start(probe, name="idle", clock=clock)
    clock.call_later(1, lambda: probe.stop_self("timer"))
    await clock.advance(1)
    assert ref.reason == "timer"


async def test_stop_self_with_an_error_is_a_crash(clock: ManualClock) -> None:
    probe = Probe()
    ref = await start(probe, name="idle", clock=clock)
    error = ValueError()
    probe.stop_self(error)
    await ref.wait_dead()
    assert ref.reason is error


async def test_a_watched_actors_end_arrives_as_down(clock: ManualClock) -> None:
    watcher = Probe()
    watching = await start(watcher, name="watcher", clock=clock)
    watched = await start(Probe(), name="watched", clock=clock)
    watcher.watch(watched)
    cancelled = watcher.watch(watched)
    cancelled.cancel()
    kill(watched)
    await settle()
    watcher.watch(watched)
    await settle()
    assert watcher.heard("down") == [Down("watched", watched.id, "killed")] * 2
    await watching.stop()


async def test_a_dead_watcher_is_not_kept_by_those_it_watched(clock: ManualClock) -> None:
    watcher = Probe()
    watching = await start(watcher, name="watcher", clock=clock)
    watched = await start(Probe(), name="watched", clock=clock)
    watcher.watch(watched)
    await watching.stop()
    assert not watched._watches
    await watched.stop()


async def give(value: object) -> object:
    await asyncio.sleep(0)
    if isinstance(value, BaseException):
        raise value
    return value


async def test_a_background_tasks_result_arrives_as_task_done(clock: ManualClock) -> None:
    probe = Probe()
    ref = await start(probe, name="probe", clock=clock)
    error = ValueError()
    probe.spawn_task(give(42), then="good")
    probe.spawn_task(give(error), then="bad")
    probe.spawn_task(give(ExceptionGroup("", [error])), then="group")
    await settle()
    assert probe.heard("urgent") == [
        TaskDone("good", 42, None),
        TaskDone("bad", None, error),
        TaskDone("group", None, error),
    ]
    await ref.stop()


async def test_a_cancelled_background_task_arrives_with_its_cancellation(
    clock: ManualClock,
) -> None:
    probe = Probe()
    ref = await start(probe, name="probe", clock=clock)
    task = probe.spawn_task(give(42), then="step")
    task.cancel()
    await settle()
    (done,) = probe.heard("urgent")
    assert done.tag == "step"
    assert isinstance(done.error, asyncio.CancelledError)
    await ref.stop()


async def test_a_failed_background_task_crashes_an_actor_that_does_not_handle_it(
    clock: ManualClock,
) -> None:
    actor = Actor()
    ref = await start(actor, name="plain", clock=clock)
    actor.spawn_task(give("fine"))
    actor.spawn_task(give(1)).cancel()
    await settle()
    assert ref.alive
    error = ValueError()
    actor.spawn_task(give(error))
    await ref.wait_dead()
    assert ref.reason is error


async def test_background_tasks_end_with_their_actor(clock: ManualClock) -> None:
    probe = Probe()
    ref = await start(probe, name="probe", clock=clock)
    task = probe.spawn_task(asyncio.Event().wait())
    await settle()
    await ref.stop()
    assert task.cancelled()


async def test_background_tasks_of_a_failed_init_end_too(clock: ManualClock) -> None:
    class Bad(Actor):
        async def init(self) -> None:
            self.task = self.spawn_task(asyncio.Event().wait())
            raise ValueError

    actor = Bad()
    with pytest.raises(ValueError):
        await start(actor, name="bad", clock=clock)
    assert actor.task.cancelled()


async def test_terminate_may_await_a_background_task(clock: ManualClock) -> None:
    class Careful(Probe):
        async def init(self) -> None:
            self.gate = asyncio.Event()
            self.step = self.spawn_task(self.gate.wait())

        async def terminate(self, reason: object) -> None:
            self.gate.set()
            self.journal.append(("step", await self.step))

    actor = Careful()
    ref = await start(actor, name="careful", clock=clock)
    await ref.stop()
    assert actor.journal == [("step", True)]


async def test_a_dead_actor_starts_no_more_background_tasks(clock: ManualClock) -> None:
    probe = Probe()
    ref = await start(probe, name="gone", clock=clock)
    await ref.stop()
    with pytest.raises(ActorDied, match="'gone' has ended"):
        probe.spawn_task(give(1))


def test_an_actor_that_was_not_started_says_so() -> None:
    with pytest.raises(RuntimeError, match="use spawn or start"):
        Probe().stop_self()


async def test_a_busy_actor_leaves_the_others_their_turn(clock: ManualClock) -> None:
    busy = await start(Probe(), name="busy", clock=clock)
    turns = 0

    async def bystander() -> None:
        nonlocal turns
        while busy.status().work:
            turns += 1
            await asyncio.sleep(0)

    for number in range(200):
        busy.cast(number)
    await bystander()
    assert turns > 5
    await busy.stop()


async def test_a_kill_cancels_at_once(clock: ManualClock) -> None:
    probe = Probe()
    ref = await start(probe, name="probe", clock=clock)
    ref.cast(Hang())
    await settle()
    kill(ref)
    kill(ref)
    await ref.wait_dead()
    kill(ref)
    assert ref.reason == "killed"
    assert probe.heard("terminate") == ["killed"]
    assert clock.pending == 0
