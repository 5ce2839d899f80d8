"""What travels through mailboxes, and the envelope that an answer goes back in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from erllama.actor.failures import unwrap
from erllama.errors import ActorDied, CallTimeout


class ReplyTo:
    """The envelope of one call: answers go through it, at any later time, at most one counts.

    A caller may have timed out, been cancelled, or been answered already. Whatever comes after
    that is dropped without a word, so that no actor dies of a caller that went away. Use it on
    the event loop's thread only.
    """

    __slots__ = ("_future", "_timed_out")

    def __init__(self, future: asyncio.Future[Any]) -> None:
        self._future = future
        self._timed_out = False

    @property
    def abandoned(self) -> bool:
        """Whether the caller gave up: it was cancelled, or its time ran out."""
        return self._timed_out or self._future.cancelled()

    def send(self, value: object) -> None:
        """Answer the call with `value`."""
        if not self._future.done():
            self._future.set_result(value)

    def fail(self, error: BaseException) -> None:
        """Answer the call with an error, which `Ref.call` raises.

        Exception groups arrive as their first telling error. What a future cannot carry or a
        caller would mistake for its own cancellation arrives as `ActorDied` with that reason.
        """
        if self._future.done():
            return
        error = unwrap(error)
        if not isinstance(error, Exception) or isinstance(error, StopIteration):
            error = ActorDied(f"the call failed with {error!r}", reason=error)
        self._future.set_exception(error)
        # A caller that dropped its future from call_nowait made its choice: asyncio need not
        # complain about an exception that was never retrieved.
        self._future.exception()

    def expire(self, error: CallTimeout) -> None:
        """Give up in the caller's name, with `error`; does nothing once answered."""
        if not self._future.done():
            self._timed_out = True
            self.fail(error)

    def on_abandon(self, callback: Callable[[], object]) -> None:
        """Call `callback` on the event loop soon after the caller gives up, or if it did already.

        It is never called for a call that was answered.
        """
        self._future.add_done_callback(lambda _: callback() if self.abandoned else None)


@dataclass(frozen=True, slots=True)
class Call:
    """A request whose sender waits for the answer (work lane)."""

    payload: Any
    reply: ReplyTo


@dataclass(frozen=True, slots=True)
class Cast:
    """A message without an answer (work lane)."""

    payload: Any


@dataclass(frozen=True, slots=True)
class Urgent:
    """A message without an answer that overtakes all work (system lane)."""

    payload: Any


@dataclass(frozen=True, slots=True)
class Down:
    """A watched actor ended (system lane).

    Attributes:
        ref_name, ref_id: whose `Ref` it was.
        reason: "normal", "shutdown", "killed", another word, or the exception it crashed with.
    """

    ref_name: str
    ref_id: int
    reason: object


@dataclass(frozen=True, slots=True)
class TaskDone:
    """A background task of this actor ended (system lane).

    Attributes:
        tag: the `then=` that the task was started with.
        result: what it returned; None if it failed.
        error: what it raised, a `CancelledError` if it was cancelled, None if it succeeded.
    """

    tag: Any
    result: Any
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class StateTimeout:
    """The state timeout of a state machine ran out (system lane)."""

    payload: Any
    epoch: int


@dataclass(frozen=True, slots=True)
class Stop:
    """End with this reason (system lane); handled by the kernel."""

    reason: object


@dataclass(frozen=True, slots=True)
class StatusRequest:
    """Answer with an `ActorStatus` (system lane); handled by the kernel, see `Ref.probe`."""

    reply: ReplyTo


Message = Call | Cast | Urgent | Down | TaskDone | StateTimeout | Stop | StatusRequest
