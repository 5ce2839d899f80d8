"""`StateMachine`: an actor whose events are handled by its current state, after gen_statem.

State:      the name of the state, what was postponed (parked in the mailbox), one state timeout.
Writers:    the actor's own task, through `goto` and `state_timeout`.
Invariants: an event is handled by the state that is current when its turn comes. Postponed
            events come back in order after the next change of state, before newer ones of their
            lane, and count towards the mailbox's capacity meanwhile. A state timeout never
            reaches another state than the one that asked for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Any, ClassVar, Final, Literal

from erllama.actor.actor import DEFERRED, Actor, serve_call
from erllama.actor.message import Call, Message, StateTimeout
from erllama.clock import Timer


class _Postpone(Enum):
    POSTPONE = "POSTPONE"


POSTPONE: Final[Literal[_Postpone.POSTPONE]] = _Postpone.POSTPONE
"""Returned by a state: keep this event until the state has changed."""

Event = Message
"""What a state receives: Call, Cast, Urgent, Down, TaskDone or StateTimeout."""


class StateMachine(Actor):
    """Define one `async def in_<state>(self, event)` per state, and `initial_state`.

    What a state returns for a `Call` is the answer, as in `Actor.handle_call`; `POSTPONE` keeps
    any event for the next state. Optional `async def on_enter_<state>(self)` and
    `on_exit_<state>(self)` run at changes of state; the initial state is entered after `init`.

    A postponed call is dropped when its caller gives up. Errors are treated as in `Actor`.

    Attributes:
        state: the current state.
    """

    initial_state: ClassVar[str]
    state: str

    _changed = False
    _entered = False
    _epoch = 0
    _timer: Timer | None = None

    async def goto(self, state: str) -> None:
        """Change the state: leave the old one, enter the new one, see postponed events again.

        Going to the current state leaves and enters it again.

        Raises:
            LookupError: there is no such state.
        """
        self._handler(state)
        if self._entered:
            await self._hook("on_exit_", self.state)
        self._cancel_state_timeout()
        self.state = state
        self._changed = self._entered = True
        await self._hook("on_enter_", state)

    def state_timeout(self, seconds: float, payload: object = None) -> None:
        """Receive `StateTimeout(payload)` after `seconds`, unless the state changes before.

        There is one state timeout at a time: a new one replaces the old one.
        """
        self._cancel_state_timeout()
        event = StateTimeout(payload, self._epoch)
        self._timer = self.clock.call_later(
            seconds, lambda: self._running().mailbox.put_system(event)
        )

    def status_state(self) -> str:
        return self.state

    def _cancel_state_timeout(self) -> None:
        self._epoch += 1  # for one that is in the mailbox already
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _prepare(self) -> None:
        self._handler(self.initial_state)
        self.state = self.initial_state

    async def _after_init(self) -> None:
        if not self._entered:
            self._entered = True
            await self._hook("on_enter_", self.state)
        self._replay_after_change()

    async def _dispatch(self, message: Message) -> None:
        if isinstance(message, StateTimeout) and message.epoch != self._epoch:
            return
        outcome = await self._handle(message)
        if outcome is POSTPONE:
            self._postpone(message)
        elif isinstance(message, Call) and outcome is not DEFERRED:
            message.reply.send(outcome)
        self._replay_after_change()

    async def _handle(self, message: Message) -> Any:
        handler = self._handler(self.state)
        if not isinstance(message, Call):
            return await handler(message)
        return await serve_call(self.ref.name, message.reply, _run(handler, message))

    def _postpone(self, message: Message) -> None:
        mailbox = self._running().mailbox
        mailbox.park(message)
        if isinstance(message, Call):
            # Frees its place in the mailbox at once, whenever the state changes.
            message.reply.on_abandon(lambda: mailbox.discard_parked(message))

    def _replay_after_change(self) -> None:
        if self._changed:
            self._changed = False
            self._running().mailbox.unpark()

    def _handler(self, state: str) -> Callable[[Event], Awaitable[Any]]:
        handler: Callable[[Event], Awaitable[Any]] | None = getattr(self, f"in_{state}", None)
        if handler is None:
            known = sorted(name[3:] for name in dir(self) if name.startswith("in_"))
            raise LookupError(
                f"{type(self).__name__} has no state {state!r}; its states are"
                f" {', '.join(known) or 'none'} (define `async def in_{state}(self, event)`)"
            )
        return handler

    async def _hook(self, prefix: str, state: str) -> None:
        hook: Callable[[], Awaitable[None]] | None = getattr(self, prefix + state, None)
        if hook is not None:
            await hook()


async def _run(handler: Callable[[Event], Awaitable[Any]], message: Message) -> Any:
    return await handler(message)
