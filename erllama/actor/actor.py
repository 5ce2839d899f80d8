"""`Actor`: what a kind of actor looks like, and how one is started.

An actor handles one message at a time, in its own task; nobody else touches its attributes. It
is built, run once and thrown away: a restart builds a new object.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from enum import Enum
from typing import Any, Final, Literal, TypeVar

from erllama.actor.failures import unwrap
from erllama.actor.message import (
    Call,
    Cast,
    Down,
    Message,
    ReplyTo,
    StateTimeout,
    TaskDone,
    Urgent,
)
from erllama.actor.process import Process
from erllama.actor.ref import Ref, Watch
from erllama.clock import Clock, LoopClock
from erllama.errors import ActorDied, ConfigError, ErllamaError

T = TypeVar("T")


class _Deferred(Enum):
    DEFERRED = "DEFERRED"


DEFERRED: Final[Literal[_Deferred.DEFERRED]] = _Deferred.DEFERRED
"""Returned by `handle_call`: the answer goes through `reply`, later."""


class Actor:
    """Base of all actors; override what you need.

    Attributes:
        ref: the actor's own handle, to give to others.
        clock: the only source of time.
        log: a child of the logger "erllama.actor".
        terminate_timeout: seconds that `terminate` may take before it is cancelled.

    What happens to errors:
        - in `init`: the start fails with it; `terminate` does not run.
        - an `ErllamaError` out of `handle_call`: the answer to that caller; the actor lives on.
        - any other error out of a handler: the actor crashes (let it crash) and its supervisor
          decides. The caller that was being served gets `ActorDied` with the error as reason.
    """

    ref: Ref
    clock: Clock
    log: logging.Logger
    terminate_timeout: float = 5.0

    _process: Process | None = None
    _always_terminate = False  # also after a failed init
    _patient_terminate = False  # a terminate that is bounded by itself is never given up

    # To override

    async def init(self) -> None:
        """Get ready. Messages that arrive meanwhile wait."""

    async def handle_call(self, payload: Any, reply: ReplyTo) -> Any:
        """Answer a request: return the value, or `DEFERRED` to answer through `reply` later."""
        raise TypeError(f"{type(self).__name__} takes no calls, but got {payload!r}")

    async def handle_cast(self, payload: Any) -> None:
        """Handle a message without an answer."""
        raise TypeError(f"{type(self).__name__} takes no casts, but got {payload!r}")

    async def handle_urgent(self, payload: Any) -> None:
        """Handle a message of the system lane, or the `TaskDone` of an own background task.

        Unless overridden, a background task that failed crashes the actor.
        """
        if not isinstance(payload, TaskDone):
            raise TypeError(f"{type(self).__name__} takes no urgent messages, but got {payload!r}")
        if payload.error is not None and not isinstance(payload.error, asyncio.CancelledError):
            raise payload.error

    async def handle_down(self, down: Down) -> None:
        """A watched actor has ended."""

    async def terminate(self, reason: object) -> None:
        """Release what `init` took. Runs on every way out, also after a crash or a kill.

        The actor is no longer served messages, but its background tasks still run and may be
        awaited; what is left of them afterwards is cancelled. Open calls may be answered.
        """

    def status_state(self) -> str:
        """What to show as the state while the actor serves messages."""
        return "running"

    # To use

    @property
    def backlog(self) -> int:
        """Calls and casts that wait behind the current message; postponed ones do not count."""
        return self._running().mailbox.work_at_hand

    def stop_self(self, reason: object = "normal") -> None:
        """End after the current message. A reason that is an exception counts as a crash."""
        self._running().stop_self(reason)

    def watch(self, ref: Ref) -> Watch:
        """Receive a `Down` when `ref` ends, at once if it has already."""
        return self._running().watch(ref)

    def spawn_task(self, coro: Coroutine[Any, Any, T], *, then: object = None) -> asyncio.Task[T]:
        """Run `coro` in the background; its end arrives as `TaskDone` with the tag `then`.

        The task belongs to the actor: it is cancelled and awaited when the actor ends.

        Raises:
            ActorDied: the actor has ended already.
        """
        return self._running().spawn_task(coro, then)

    def _running(self) -> Process:
        if self._process is None:
            raise RuntimeError(f"{type(self).__name__} was not started; use spawn or start")
        return self._process

    # For the kernel

    def _prepare(self) -> None:
        """Called before the task starts."""

    async def _after_init(self) -> None:
        """Called after `init`, as a part of it."""

    async def _dispatch(self, message: Message) -> None:
        match message:
            case Call(payload, reply):
                value = await serve_call(self.ref.name, reply, self.handle_call(payload, reply))
                if value is not DEFERRED:
                    reply.send(value)
            case Cast(payload):
                await self.handle_cast(payload)
            case Urgent(payload):
                await self.handle_urgent(payload)
            case TaskDone() | StateTimeout():
                await self.handle_urgent(message)
            case Down():
                await self.handle_down(message)


async def serve_call(name: str, reply: ReplyTo, handler: Coroutine[Any, Any, Any]) -> Any:
    """Run the handler of a call and return its value, which is the answer.

    An error is answered here: `DEFERRED` is returned, or what crashes the actor is raised.
    """
    try:
        value = await handler
    except (Exception, BaseExceptionGroup) as error:
        cause = unwrap(error)
        if isinstance(cause, ErllamaError):
            reply.fail(cause)
            return DEFERRED
        reply.fail(ActorDied(f"actor {name!r} crashed on this call: {cause!r}", reason=cause))
        raise
    return value


def spawn(
    actor: Actor, *, name: str, clock: Clock | None = None, mailbox_capacity: int = 256
) -> Ref:
    """Start an actor's task and return at once; `init` has not run yet.

    Args:
        actor: a fresh object; it cannot be started a second time.
        name: for people and logs.
        clock: the loop's own by default.
        mailbox_capacity: most calls and casts that may wait.

    Raises:
        ConfigError: the object was started before, or the capacity is below 1.
    """
    if actor._process is not None:
        raise ConfigError(
            f"this {type(actor).__name__} was started before, as {actor.ref.name!r}; build a"
            " new one"
        )
    process = Process(actor, name=name, clock=clock or LoopClock(), capacity=mailbox_capacity)
    actor._process = process
    actor.ref = process.ref
    actor.clock = process.clock
    actor.log = logging.getLogger("erllama.actor").getChild(type(actor).__name__)
    actor._prepare()
    return process.begin()


async def start(
    actor: Actor, *, name: str, clock: Clock | None = None, mailbox_capacity: int = 256
) -> Ref:
    """Start an actor and wait for its `init`. If the wait is cancelled, so is the start.

    Raises:
        Exception: what `init` raised; the actor has ended by then.
        ActorDied: it was stopped or killed meanwhile.
        ConfigError: as in `spawn`.
    """
    ref = spawn(actor, name=name, clock=clock, mailbox_capacity=mailbox_capacity)
    try:
        await ref.wait_started()
    except asyncio.CancelledError:
        kill(ref)
        raise
    return ref


def kill(ref: Ref) -> None:
    """Cancel what an actor does, without a message first. `terminate` still runs; see `Ref.stop`.

    A `terminate` that runs already is cancelled.
    """
    if ref._control is not None:
        ref._control.kill()
