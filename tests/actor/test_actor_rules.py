"""One test or more for each of the actor rules of the architecture, named after it."""

import ast
import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import erllama.actor
from erllama.actor import DEFERRED, Actor, Ref, ReplyTo, StuckActor, kill, spawn, start
from erllama.actor.testing import Crash, Exit, Hang, ManualClock, Probe, settle
from erllama.errors import ActorDied, CallTimeout, ErllamaError, MailboxFull

KERNEL = sorted(Path(erllama.actor.__file__).parent.glob("*.py"))


async def test_the_system_lane_is_served_before_the_work_lane(clock: ManualClock) -> None:
    gate = asyncio.Event()

    class Busy(Probe):
        async def handle_cast(self, payload: Any) -> None:
            await super().handle_cast(payload)
            await gate.wait()

    probe, watched = Busy(), await start(Probe(), name="watched", clock=clock)
    ref = await start(probe, name="busy", clock=clock)
    probe.watch(watched)
    for number in range(3):
        ref.cast(number)
    await settle()
    status = asyncio.create_task(ref.probe())
    ref.urgent("cancel")
    await watched.stop()
    stopping = asyncio.create_task(ref.stop())
    await settle()
    gate.set()
    assert await stopping
    kinds = [entry[0] for entry in probe.journal]
    assert kinds == ["init", "cast", "urgent", "down", "terminate"]
    assert (await status).work == 2


async def test_the_work_lane_is_bounded_and_refuses_with_mailbox_full_instead_of_growing(
    clock: ManualClock,
) -> None:
    ref = await start(Probe(), name="bounded", clock=clock, mailbox_capacity=3)
    ref.cast(Hang())
    await settle()
    for number in range(3):
        ref.cast(number)
    for send in (ref.cast, ref.call_nowait):
        with pytest.raises(MailboxFull):
            send("too much")
    assert ref.status().work == 3
    kill(ref)
    await ref.wait_dead()


async def test_call_checks_that_the_actor_lives_and_enqueues_with_no_await_between(
    clock: ManualClock,
) -> None:
    ref = await start(Probe(), name="probe", clock=clock)
    calling = ref.call("hello")
    calling.send(None)  # its first step, up to its first await
    assert ref.status().work == 1
    calling.close()
    await ref.stop()
    calling = ref.call("hello")
    with pytest.raises(ActorDied):
        calling.send(None)


@pytest.mark.parametrize("end", [Exit("normal"), Crash(ValueError())])
@pytest.mark.parametrize("turns", range(12))
async def test_a_call_to_an_actor_that_dies_in_the_same_loop_turn_never_hangs(
    clock: ManualClock, end: object, turns: int
) -> None:
    ref = await start(Probe(), name="dying", clock=clock)
    ref.cast(end)
    for _ in range(turns):
        await asyncio.sleep(0)
    with pytest.raises(ActorDied):
        await ref.call("hello")


@pytest.mark.parametrize("turns", range(12))
async def test_a_call_to_an_actor_that_is_killed_in_the_same_loop_turn_never_hangs(
    clock: ManualClock, turns: int
) -> None:
    ref = spawn(Probe(), name="dying", clock=clock)
    for _ in range(turns):
        await asyncio.sleep(0)
    answer = ref.call_nowait("hello")
    kill(ref)
    with pytest.raises(ActorDied):
        await ref.call("hello")
    with pytest.raises(ActorDied):
        await answer
    assert not ref._pending


async def test_the_tasks_done_callback_fails_all_pending_replies(clock: ManualClock) -> None:
    class Silent(Actor):
        async def handle_call(self, payload: Any, reply: ReplyTo) -> Any:
            if payload == "crash":
                raise ValueError
            return DEFERRED

    ref = await start(Silent(), name="silent", clock=clock)
    answers = [ref.call_nowait(number) for number in range(5)]
    await settle()
    answers += [ref.call_nowait("crash"), ref.call_nowait("behind it in the mailbox")]
    await ref.wait_dead()
    assert [type(answer.exception()) for answer in answers] == [ActorDied] * 7
    assert all(isinstance(error, ActorDied) for error in (a.exception() for a in answers))
    assert not ref._pending


async def test_pending_replies_of_an_actor_cancelled_before_its_first_step_fail_too(
    clock: ManualClock,
) -> None:
    ref = spawn(Probe(), name="unborn", clock=clock)
    answer = ref.call_nowait("early")
    (task,) = (task for task in asyncio.all_tasks() if task.get_name() == "unborn")
    task.cancel()
    with pytest.raises(ActorDied) as died:
        await answer
    assert died.value.reason == "killed"


async def test_a_reply_to_a_caller_that_timed_out_is_dropped(clock: ManualClock) -> None:
    gate = asyncio.Event()
    abandoned: list[bool] = []

    class Slow(Actor):
        async def handle_call(self, payload: Any, reply: ReplyTo) -> Any:
            await gate.wait()
            abandoned.append(reply.abandoned)
            return payload

    ref = await start(Slow(), name="slow", clock=clock)
    timed_out = asyncio.create_task(ref.call("one", timeout=1))
    cancelled = asyncio.create_task(ref.call("two"))
    await clock.advance(1)
    cancelled.cancel()
    with pytest.raises(CallTimeout):
        await timed_out
    gate.set()
    assert await ref.call("three") == "three"
    assert abandoned == [True, True, False]
    await ref.stop()


def test_nothing_in_the_kernel_uses_wait_for() -> None:
    for path in KERNEL:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr == "wait_for":
                assert not isinstance(node.value, ast.Name) or node.value.id != "asyncio", path


@asynccontextmanager
async def hung(clock: ManualClock) -> AsyncIterator[Ref]:
    ref = await start(Probe(), name="hung", clock=clock)
    ref.cast(Hang())
    yield ref
    kill(ref)
    await ref.wait_dead()


@pytest.mark.parametrize(
    "wait",
    [
        lambda ref: ref.call("hello"),
        lambda ref: ref.call("hello", timeout=5),
        lambda ref: ref.probe(timeout=5),
        lambda ref: ref.stop(deadline=5),
        lambda ref: ref.wait_dead(),
    ],
)
async def test_an_outer_cancel_is_never_swallowed(
    clock: ManualClock, wait: Callable[[Ref], Any]
) -> None:
    async with hung(clock) as ref:
        waiting = asyncio.ensure_future(wait(ref))
        await settle()
        waiting.cancel()
        await settle()
        assert waiting.cancelled()


async def test_an_outer_cancel_that_meets_the_answer_is_not_swallowed(clock: ManualClock) -> None:
    class Deferring(Actor):
        reply: ReplyTo

        async def handle_call(self, payload: Any, reply: ReplyTo) -> Any:
            self.reply = reply
            return DEFERRED

    actor = Deferring()
    ref = await start(actor, name="deferring", clock=clock)
    waiting = asyncio.create_task(ref.call("hello", timeout=5))
    await settle()
    actor.reply.send("answer")
    waiting.cancel()
    await settle()
    assert waiting.cancelled()
    await ref.stop()


async def test_stop_is_a_message_with_a_deadline_then_cancel_then_a_logged_stuck_actor(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    let_go = asyncio.Event()
    cancels: list[float] = []

    class Stubborn(Actor):
        async def handle_cast(self, payload: Any) -> None:
            while not let_go.is_set():
                try:
                    await let_go.wait()
                except asyncio.CancelledError:
                    cancels.append(clock.now())

    ref = await start(Stubborn(), name="stubborn", clock=clock)
    try:
        ref.cast("go")
        await settle()
        stopping = asyncio.create_task(ref.stop(deadline=5))
        await clock.advance(4.9)
        assert ref.status().system == 1  # the message
        assert cancels == []
        await clock.advance(0.1)
        assert cancels == [5.0]
        assert caplog.text == ""
        await clock.advance(100)
        assert await stopping is False
        assert isinstance(ref.reason, StuckActor)
        (record,) = caplog.records
        assert (record.name, record.levelno) == ("erllama.actor", logging.ERROR)
        assert "StuckActor" in record.message
    finally:
        let_go.set()
        await settle()


def test_calls_go_down_and_only_urgent_messages_go_up() -> None:
    """No module of the kernel calls an actor: a supervisor learns from its children's events."""
    for path in KERNEL:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                assert node.func.attr not in ("call", "call_nowait"), path


class TogetherError(ErllamaError):
    pass


async def test_exception_groups_never_leave_the_kernel(clock: ManualClock) -> None:
    async def fail(error: Exception) -> None:
        raise error

    class Grouping(Probe):
        async def handle_call(self, payload: Any, reply: ReplyTo) -> Any:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail(payload))

        async def handle_cast(self, payload: Any) -> None:
            await self.handle_call(payload, None)  # type: ignore[arg-type]

    ref = await start(Grouping(), name="grouping", clock=clock)
    with pytest.raises(TogetherError):
        await ref.call(TogetherError())
    with pytest.raises(ActorDied) as died:
        await ref.call(ValueError("inner"))
    assert isinstance(died.value.reason, ValueError)
    await ref.wait_dead()
    assert isinstance(ref.reason, ValueError)

    ref = await start(Grouping(), name="grouping", clock=clock)
    ref.cast(ValueError("inner"))
    await ref.wait_dead()
    assert isinstance(ref.reason, ValueError)


async def test_an_exception_group_out_of_init_does_not_leave_the_kernel(
    clock: ManualClock,
) -> None:
    class Bad(Actor):
        async def init(self) -> None:
            raise ExceptionGroup("", [ValueError("inner")])

    with pytest.raises(ValueError, match="inner"):
        await start(Bad(), name="bad", clock=clock)


@pytest.mark.parametrize("end", ["stop", "kill", "crash"])
async def test_a_step_that_must_not_be_cancelled_can_be_awaited_in_terminate(
    clock: ManualClock, end: str
) -> None:
    """The actor's part of: set the abort flag, await the step, then free."""
    journal: list[str] = []
    abort = asyncio.Event()

    async def native_step() -> None:
        try:
            await abort.wait()
            journal.append("step done")
        except asyncio.CancelledError:
            journal.append("step cancelled")

    class Careful(Probe):
        async def init(self) -> None:
            self.step = self.spawn_task(native_step())

        async def terminate(self, reason: object) -> None:
            abort.set()
            await self.step
            journal.append("free")

    ref = await start(Careful(), name="careful", clock=clock)
    await settle()
    if end == "stop":
        await ref.stop()
    elif end == "kill":
        kill(ref)
    else:
        ref.cast(Crash(ValueError()))
    await ref.wait_dead()
    assert journal == ["step done", "free"]


@pytest.mark.parametrize("end", ["stop", "kill", "crash", "cancel", "self"])
async def test_terminate_runs_on_every_way_out(clock: ManualClock, end: str) -> None:
    probe = Probe()
    ref = await start(probe, name="probe", clock=clock)
    match end:
        case "stop":
            ref.request_stop()
        case "kill":
            kill(ref)
        case "crash":
            ref.cast(Crash(ValueError()))
        case "cancel":
            (task,) = (task for task in asyncio.all_tasks() if task.get_name() == "probe")
            task.cancel()
        case "self":
            probe.stop_self()
    await ref.wait_dead()
    assert len(probe.heard("terminate")) == 1
