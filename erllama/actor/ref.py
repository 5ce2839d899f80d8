"""`Ref`: the only handle on an actor that others hold.

State:      what is known of the actor from outside: its mailbox, the calls it still owes an
            answer, its watchers, whether it started, how it ended.
Writers:    callers add calls and watches; `Process` reports the start and the end.
Invariants: a call is answered or fails: the end of the actor's task fails all that are pending.
            Watchers hear of the end once. `reason` is written once.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from erllama.actor.mailbox import Mailbox
from erllama.actor.message import Call, Cast, Down, Message, ReplyTo, StatusRequest, Urgent
from erllama.clock import Clock
from erllama.errors import ActorDied, CallTimeout

log = logging.getLogger("erllama.actor")

_ids = itertools.count(1)


@dataclass(frozen=True, slots=True)
class ActorStatus:
    """A snapshot of one actor.

    Attributes:
        name, id: of its `Ref`.
        state: "starting", "stopping", "dead", or what the actor's `status_state` says.
        system: messages waiting in the system lane of the mailbox.
        work: messages waiting in the work lane.
        uptime: seconds since it was spawned; the final figure once it is dead.
    """

    name: str
    id: int
    state: str
    system: int
    work: int
    uptime: float


class Watch:
    """One watcher's subscription to the end of an actor."""

    __slots__ = ("__weakref__", "_callback", "_siblings")

    def __init__(
        self, callback: Callable[[Down], object], siblings: dict[Watch, None] | None = None
    ) -> None:
        self._callback: Callable[[Down], object] | None = callback
        self._siblings = siblings if siblings is not None else {}
        self._siblings[self] = None

    def cancel(self) -> None:
        """Never call the callback; does nothing if it was called already."""
        self._callback = None
        self._siblings.pop(self, None)

    def _notify(self, down: Down) -> None:
        callback = self._callback
        self.cancel()
        if callback is None:
            return
        try:
            callback(down)
        except Exception:
            log.exception("a watcher of actor %r failed", down.ref_name)


class Control(Protocol):
    """What a `Ref` asks of the process behind it."""

    def owns_current_task(self) -> bool:
        """Whether the actor itself is running right now."""

    def state(self) -> str:
        """The state for `ActorStatus`."""

    def request_stop(self, reason: object, deadline: float) -> None:
        """Ask the actor to end; kill it after `deadline` seconds."""

    def kill(self) -> None:
        """Cancel what the actor does."""


class Ref:
    """A handle on one incarnation of an actor; it fails fast once that one has ended.

    Attributes:
        name: for people and logs; not unique.
        id: unique in this Python process.
        stuck: whether the actor was given up: its task did not even obey its cancellation.
    """

    def __init__(self, name: str, *, clock: Clock, mailbox: Mailbox[Message]) -> None:
        self.name = name
        self.id = next(_ids)
        self.stuck = False
        self._clock = clock
        self._mailbox = mailbox
        self._control: Control | None = None
        self._pending: set[ReplyTo] = set()
        self._watches: dict[Watch, None] = {}
        self._on_started: list[Callable[[], object]] = []
        self._started = False
        self._start_decided = asyncio.Event()
        self._ended = asyncio.Event()
        self._reason: object = None
        self._born = clock.now()
        self._died: float | None = None

    def __repr__(self) -> str:
        return f"<Ref {self.name!r} #{self.id} {self._state()}>"

    @property
    def alive(self) -> bool:
        """Whether the actor takes messages: it has not begun to end."""
        return not self._mailbox.closed

    @property
    def reason(self) -> object:
        """The exit reason, None while the actor is alive."""
        return self._reason

    # Messages

    async def call(self, payload: object, *, timeout: float | None = None) -> Any:
        """Send a request and wait for its answer.

        Args:
            payload: what `handle_call` receives.
            timeout: seconds on the actor's clock; None waits as long as the actor lives.

        Raises:
            ActorDied: the actor is dead or dies before it answers.
            CallTimeout: no answer in time. The actor may still carry the request out.
            MailboxFull: too much work waits already; nothing was sent.
            RuntimeError: an actor called itself, which would wait forever.
            Exception: whatever the handler answered with.
        """
        if self._control is not None and self._control.owns_current_task():
            raise RuntimeError(f"actor {self.name!r} called itself and would wait forever")
        return await self._within(timeout, *self._ask(payload))

    def call_nowait(self, payload: object) -> asyncio.Future[Any]:
        """Send a request and return the future of its answer.

        Cancelling the future tells the actor that its caller gave up.

        Raises:
            ActorDied, MailboxFull: as in `call`.
        """
        return self._ask(payload)[1]

    def cast(self, payload: object) -> None:
        """Send a message without an answer.

        Raises:
            ActorDied: the actor is dead.
            MailboxFull: too much work waits already.
        """
        if not self._mailbox.put_work(Cast(payload)):
            raise self._dead()

    def urgent(self, payload: object) -> bool:
        """Send a message that overtakes all work; False if the actor is dead."""
        return self._mailbox.put_system(Urgent(payload))

    def note(self, payload: object) -> bool:
        """`urgent`, but an idle actor is left alone until another message comes.

        For what it should know before all that comes later, and need not act upon.
        """
        return self._mailbox.put_note(Urgent(payload))

    async def probe(self, *, timeout: float | None = None) -> ActorStatus:
        """The status as the actor itself reports it, which shows that it serves its mailbox.

        Raises:
            ActorDied, CallTimeout: as in `call`.
        """
        reply, future = self._envelope()
        if not self._mailbox.put_system(StatusRequest(reply)):
            raise self._dead()
        self._expect(reply, future)
        status: ActorStatus = await self._within(timeout, reply, future)
        return status

    # Life and death

    async def wait_started(self) -> None:
        """Return once the actor's `init` has finished.

        Raises:
            Exception: what `init` raised.
            ActorDied: the actor was stopped or killed before its `init` finished.
        """
        await self._start_decided.wait()
        if self._started:
            return
        if isinstance(self._reason, Exception):
            raise self._reason
        raise self._dead()

    def on_started(self, callback: Callable[[], object]) -> None:
        """Call `callback` once `init` has finished, at once if it has; never if it fails."""
        if self._started:
            callback()
        else:
            self._on_started.append(callback)

    async def stop(self, reason: object = "shutdown", deadline: float = 5.0) -> bool:
        """End the actor and wait until it has ended. Returns whether it did; never hangs.

        The message `Stop` comes first. After `deadline` seconds what the actor does is
        cancelled. If it does not obey that either it is given up as stuck: that is logged as
        `StuckActor`, the actor counts as dead, and its task is left behind.

        Cancelling `stop` does not call the stop off.

        Raises:
            RuntimeError: an actor awaited its own end; it should use `stop_self`.
        """
        if self._control is not None and self._control.owns_current_task():
            raise RuntimeError(f"actor {self.name!r} awaited its own end; use stop_self")
        self.request_stop(reason, deadline)
        await self.wait_dead()
        return not self.stuck

    def request_stop(self, reason: object = "shutdown", deadline: float = 5.0) -> None:
        """Do as `stop` does, without waiting for the end."""
        if self._control is not None:
            self._control.request_stop(reason, deadline)

    async def wait_dead(self) -> None:
        """Return once the actor has ended, `terminate` included, or was given up as stuck."""
        await self._ended.wait()

    def watch(self, callback: Callable[[Down], object]) -> Watch:
        """Call `callback` once when the actor has ended, at once if it has already."""
        if not self._ended.is_set():
            return Watch(callback, self._watches)
        watch = Watch(callback)
        watch._notify(self._down())
        return watch

    def status(self) -> ActorStatus:
        """A snapshot taken from outside: it needs no answer from the actor."""
        until = self._clock.now() if self._died is None else self._died
        return ActorStatus(
            name=self.name,
            id=self.id,
            state=self._state(),
            system=self._mailbox.system_length,
            work=self._mailbox.work_length,
            uptime=until - self._born,
        )

    # Called by the process behind this Ref

    def _report_started(self) -> None:
        self._started = True
        self._start_decided.set()
        callbacks, self._on_started = self._on_started, []
        for callback in callbacks:
            callback()

    def _report_leaving(self, reason: object) -> None:
        """The actor serves no more: refuse newcomers, and fail the calls it never looked at."""
        if self.alive:
            self._reason = reason
            for message in self._mailbox.close():
                if isinstance(message, Call | StatusRequest):
                    message.reply.fail(self._dead())

    def _report_ended(self, reason: object) -> None:
        """The actor's task is done, or given up: nothing may wait for it any longer."""
        if self._ended.is_set():
            return
        self._report_leaving(reason)
        self._died = self._clock.now()
        self._control = None
        for reply in list(self._pending):
            reply.fail(self._dead())
        self._start_decided.set()
        self._on_started.clear()
        self._ended.set()
        for watch in list(self._watches):
            watch._notify(self._down())

    # Helpers

    def _envelope(self) -> tuple[ReplyTo, asyncio.Future[Any]]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        return ReplyTo(future), future

    def _ask(self, payload: object) -> tuple[ReplyTo, asyncio.Future[Any]]:
        reply, future = self._envelope()
        # No await between the check and the put: nobody can die in the middle.
        if not self._mailbox.put_work(Call(payload, reply)):
            raise self._dead()
        self._expect(reply, future)
        return reply, future

    def _expect(self, reply: ReplyTo, future: asyncio.Future[Any]) -> None:
        self._pending.add(reply)
        future.add_done_callback(lambda _: self._pending.discard(reply))

    async def _within(
        self, timeout: float | None, reply: ReplyTo, future: asyncio.Future[Any]
    ) -> Any:
        if timeout is None:
            return await future
        late = CallTimeout(f"actor {self.name!r} did not answer within {timeout:g} s")
        timer = self._clock.call_later(timeout, lambda: reply.expire(late))
        try:
            return await future
        finally:
            timer.cancel()

    def _dead(self) -> ActorDied:
        return ActorDied(
            f"actor {self.name!r} is dead: {_reason_text(self._reason)}", reason=self._reason
        )

    def _down(self) -> Down:
        return Down(self.name, self.id, self._reason)

    def _state(self) -> str:
        return "dead" if self._control is None else self._control.state()


def _reason_text(reason: object) -> str:
    return repr(reason) if isinstance(reason, BaseException) else str(reason)
