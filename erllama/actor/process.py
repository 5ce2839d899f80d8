"""`Process`: the task that an actor lives in, from its first step to its end.

State:      the phase (new, init, serving, terminating, cleaning, dead), the exit reason as far
            as it is decided, the actor's own background tasks.
Writers:    the task itself, the timers of `request_stop` and `kill`.
Invariants: phases only go forward. `terminate` runs once if `init` succeeded, however the actor
            ends. No background task outlives the actor, unless it ignores two cancellations,
            which is logged. Every phase after a kill is bounded in time: the last resort is to
            give the task up as stuck.

How an actor is made to end:

    request_stop ── Stop message ── deadline ──┐
    kill ──────────────────────────────────────┴─ cancel ── grace ── cancel ── grace ── StuckActor
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import weakref
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from erllama.actor.cancellation import CANCEL_GRACE, end_tasks, where
from erllama.actor.failures import StuckActor, unwrap
from erllama.actor.mailbox import Mailbox
from erllama.actor.message import Message, StatusRequest, Stop, TaskDone
from erllama.actor.ref import Ref, Watch
from erllama.clock import Clock, Timer
from erllama.errors import ActorDied

if TYPE_CHECKING:
    from erllama.actor.actor import Actor

T = TypeVar("T")

log = logging.getLogger("erllama.actor")

# Messages served before other tasks of the loop get a turn, if the handlers never wait.
TURN = 16

# The event loop holds its tasks weakly and an idle actor is reachable from itself alone, so
# somebody has to hold it until it ends.
_tasks: set[asyncio.Task[Any]] = set()

_NOT_DECIDED = object()


class Process:
    """The life of one actor."""

    def __init__(self, actor: Actor, *, name: str, clock: Clock, capacity: int) -> None:
        self.actor = actor
        self.clock = clock
        self.mailbox: Mailbox[Message] = Mailbox(capacity, name)
        self.ref = Ref(name, clock=clock, mailbox=self.mailbox)
        self._phase = "new"
        self._exit: object = _NOT_DECIDED
        self._killed = False
        self._initialised = False
        self._own_tasks: set[asyncio.Task[Any]] = set()
        self._own_watches: weakref.WeakSet[Watch] = weakref.WeakSet()
        self._deadline: tuple[float, Timer] | None = None
        self._escalation: list[Timer] = []
        self._terminating: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None]

    def begin(self) -> Ref:
        """Start the task."""
        self.ref._control = self
        self._task = asyncio.get_running_loop().create_task(self._live(), name=self.ref.name)
        _tasks.add(self._task)
        self._task.add_done_callback(self._on_done)
        return self.ref

    # What the Ref asks

    def owns_current_task(self) -> bool:
        return asyncio.current_task() is self._task

    def state(self) -> str:
        if self._phase in ("new", "init"):
            return "starting"
        if self._phase != "serving":
            return "stopping"
        try:
            return self.actor.status_state()
        except Exception as error:
            return f"unknown: {error!r}"

    def request_stop(self, reason: object, deadline: float) -> None:
        """Send `Stop` and arm the deadline; the earliest of several deadlines counts.

        A start is not worth waiting for any more: `init` is cancelled at once.
        """
        if self._phase in ("new", "init"):
            if self._exit is _NOT_DECIDED:
                self._exit = reason
                self._task.cancel()
        else:
            self.mailbox.put_system(Stop(reason))
        self._arm_deadline(deadline)

    def kill(self) -> None:
        """Cancel what the actor does now, once; its `terminate` still runs if it has not begun."""
        if self._killed or self._phase in ("cleaning", "dead"):
            return
        self._killed = True
        if self._phase == "terminating":
            self._press()
            return
        self._exit = "killed"
        self._press()

    # What the actor asks

    def stop_self(self, reason: object) -> None:
        """Leave after the message that is being handled."""
        if self._exit is _NOT_DECIDED:
            self._exit = reason
            self.mailbox.put_system(Stop(reason))  # wakes the actor if it is idle

    def watch(self, ref: Ref) -> Watch:
        """Have a `Down` put into the own system lane when `ref` ends."""
        watch = ref.watch(self.mailbox.put_system)
        self._own_watches.add(watch)
        return watch

    def spawn_task(self, coro: Coroutine[Any, Any, T], tag: object) -> asyncio.Task[T]:
        """Start a background task whose end arrives as `TaskDone`."""
        if self._phase in ("cleaning", "dead"):
            coro.close()
            raise ActorDied(
                f"actor {self.ref.name!r} has ended and starts no more tasks",
                reason=self.ref.reason,
            )
        task = asyncio.get_running_loop().create_task(coro, name=f"{self.ref.name}: {tag}")
        self._own_tasks.add(task)
        task.add_done_callback(lambda done: self._own_task_done(done, tag))
        return task

    # The life

    async def _live(self) -> None:
        reason = await self._serve()
        self._leave(reason)
        await self._terminate(reason)
        await self._clean_up()

    async def _serve(self) -> object:
        """Run until there is a reason to end, and return it."""
        self._task = asyncio.current_task() or self._task
        self._phase = "init"
        try:
            await self.actor.init()
            await self.actor._after_init()
            await self._forget_cancellations()
            self._initialised = True
            self._phase = "serving"
            if not self._leaving:
                self.ref._report_started()
            served = 0
            while not self._leaving:
                await self._handle(await self.mailbox.get())
                await self._forget_cancellations()
                served += 1
                if served % TURN == 0:
                    await asyncio.sleep(0)
        except asyncio.CancelledError as error:
            # Without a decision and without anybody who cancelled this task, the handler
            # awaited something that was cancelled elsewhere: an error like any other.
            if self._exit is _NOT_DECIDED:
                self._exit = "killed" if self._task.cancelling() else error
        except (Exception, BaseExceptionGroup) as error:
            if not self._killed:
                self._exit = unwrap(error)
        if self._task.cancelling():
            # An actor that was cancelled in its own step has the cancellation still ahead of
            # it. Take it here, or it would hit `terminate`.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
        return self._exit

    @property
    def _leaving(self) -> bool:
        """Whether the exit is decided. A handler may have swallowed the cancellation of a kill."""
        return self._exit is not _NOT_DECIDED

    async def _forget_cancellations(self) -> None:
        """Set the task's count of cancellations back to zero after a handler.

        The `TaskGroup` of Python 3.11 and 3.12 cancels the task it is used in and leaves that in
        the count, so the count does not tell that anybody wants this actor to end.
        """
        if self._task.cancelling() and not self._leaving:
            await asyncio.sleep(0)  # one that is still to be delivered is delivered here
            while self._task.cancelling():
                self._task.uncancel()

    async def _handle(self, message: Message) -> None:
        if isinstance(message, Stop):
            if self._exit is _NOT_DECIDED:
                self._exit = message.reason
        elif isinstance(message, StatusRequest):
            message.reply.send(self.ref.status())
        else:
            await self.actor._dispatch(message)

    def _leave(self, reason: object) -> None:
        self._phase = "terminating"
        self._calm()
        self.ref._report_leaving(reason)
        name = self.ref.name
        if isinstance(reason, BaseException):
            log.error("actor %r crashed: %r", name, reason, exc_info=reason)
        else:
            log.debug("actor %r ends: %s", name, reason)

    async def _terminate(self, reason: object) -> None:
        """Run `terminate` in a task of its own, where the cancellation of this one cannot hit it.

        From here on a cancellation of this task comes from `_press` alone (or from a loop that
        shuts down) and is handed on.
        """
        if not self._initialised and not self.actor._always_terminate:
            return
        task = asyncio.get_running_loop().create_task(
            self.actor.terminate(reason), name=f"{self.ref.name}: terminate"
        )
        self._terminating = task
        if self.actor.terminate_timeout < math.inf:
            self._escalation = [self.clock.call_later(self.actor.terminate_timeout, self._press)]
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                task.cancel()
        self._calm()
        if task.cancelled():
            log.error("terminate of actor %r was cancelled: it took too long", self.ref.name)
        elif (error := task.exception()) is not None:
            log.error("terminate of actor %r failed: %r", self.ref.name, error, exc_info=error)

    async def _clean_up(self) -> None:
        self._phase = "cleaning"
        for watch in list(self._own_watches):
            watch.cancel()
        for task in await end_tasks(list(self._own_tasks), self.clock):
            log.error(
                "StuckActor: task %r of actor %r does not end, %s",
                task.get_name(),
                self.ref.name,
                where(task),
            )
            _keep(task)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        """The end, whichever way: also for a task that was cancelled before its first step."""
        _tasks.discard(task)
        if self._exit is _NOT_DECIDED:
            self._exit = "killed"
        if not task.cancelled() and (error := task.exception()) is not None:
            self._exit = unwrap(error)
        self._phase = "dead"
        self._calm()
        if self._deadline is not None:
            self._deadline[1].cancel()
        self.ref._report_ended(self._exit)

    # Pressure

    def _arm_deadline(self, seconds: float) -> None:
        if seconds == math.inf or self._phase == "dead":
            return
        due = self.clock.now() + seconds
        if self._deadline is not None:
            if self._deadline[0] <= due:
                return
            self._deadline[1].cancel()
        self._deadline = due, self.clock.call_later(seconds, self.kill)

    def _press(self) -> None:
        """Cancel what runs now, cancel it again after a grace, then give it up."""
        self._calm()
        self._task.cancel()
        if self._phase == "terminating" and self.actor._patient_terminate:
            return
        self._escalation = [
            self.clock.call_later(CANCEL_GRACE, self._task.cancel),
            self.clock.call_later(2 * CANCEL_GRACE, self._give_up),
        ]

    def _calm(self) -> None:
        for timer in self._escalation:
            timer.cancel()
        self._escalation = []

    def _give_up(self) -> None:
        task = self._terminating or self._task
        error = StuckActor(
            f"actor {self.ref.name!r} ignored its cancellation, {where(task)}; its task is left"
            " behind"
        )
        log.error("StuckActor: %s", error)
        for own in self._own_tasks:
            own.cancel()
        for watch in list(self._own_watches):
            watch.cancel()
        self.ref.stuck = True
        self.ref._report_ended(error)

    def _own_task_done(self, task: asyncio.Task[Any], tag: object) -> None:
        self._own_tasks.discard(task)
        if task.cancelled():
            done = TaskDone(tag, None, asyncio.CancelledError())
        elif (error := task.exception()) is not None:
            done = TaskDone(tag, None, unwrap(error))
        else:
            done = TaskDone(tag, task.result(), None)
        if not self.mailbox.put_system(done) and done.error is not None:
            log.debug("task %r failed while its actor ended: %r", task.get_name(), done.error)


def _keep(task: asyncio.Task[Any]) -> None:
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
