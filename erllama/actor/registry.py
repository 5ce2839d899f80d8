"""`Registry`: names of live actors.

State:      name → the live `Ref` registered under it; who waits for which name.
Writers:    `register`; the end of an actor takes its own entry out, and no other's.
Invariants: every entry was alive when the loop last ran the end of an actor; a name has one
            holder at a time.
"""

from __future__ import annotations

import asyncio

from erllama.actor.failures import NameTaken
from erllama.actor.message import Down
from erllama.actor.ref import Ref
from erllama.clock import Clock, LoopClock
from erllama.errors import ActorDied, CallTimeout


class Registry:
    """Finds the current incarnation of an actor, by name.

    Args:
        clock: for the timeouts of `wait_for`; the loop's own by default.
    """

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock = clock or LoopClock()
        self._refs: dict[str, Ref] = {}
        self._waiters: dict[str, dict[asyncio.Future[Ref], None]] = {}

    def register(self, name: str, ref: Ref) -> None:
        """Make `ref` known as `name` until it ends.

        Raises:
            NameTaken: another live actor has the name.
            ActorDied: `ref` has ended.
        """
        if not ref.alive:
            raise ActorDied(f"cannot register {name!r}: {ref!r} is dead", reason=ref.reason)
        holder = self.whereis(name)
        if holder is ref:
            return
        if holder is not None:
            raise NameTaken(f"the name {name!r} is taken by {holder!r}; choose another one")
        self._refs[name] = ref

        def forget(_: Down) -> None:
            if self._refs.get(name) is ref:
                del self._refs[name]

        ref.watch(forget)
        for waiter in self._waiters.pop(name, ()):
            if not waiter.done():
                waiter.set_result(ref)

    def whereis(self, name: str) -> Ref | None:
        """The live actor of this name, or None."""
        ref = self._refs.get(name)
        return ref if ref is not None and ref.alive else None

    def names(self) -> tuple[str, ...]:
        """All names with a live actor, sorted."""
        return tuple(sorted(name for name, ref in self._refs.items() if ref.alive))

    async def wait_for(self, name: str, timeout: float | None = None) -> Ref:
        """Return the live actor of this name as soon as there is one.

        Args:
            timeout: seconds; None waits as long as it takes.

        Raises:
            CallTimeout: none in time.
        """
        ref = self.whereis(name)
        if ref is not None:
            return ref
        waiter: asyncio.Future[Ref] = asyncio.get_running_loop().create_future()
        waiters = self._waiters.setdefault(name, {})
        waiters[waiter] = None  # in order: who came first goes on first

        def expire() -> None:
            if not waiter.done():
                waiter.set_exception(
                    CallTimeout(f"no actor named {name!r} appeared within {timeout:g} s")
                )

        timer = None if timeout is None else self._clock.call_later(timeout, expire)
        try:
            return await waiter
        finally:
            if timer is not None:
                timer.cancel()
            waiters.pop(waiter, None)
            if not waiters and self._waiters.get(name) is waiters:
                del self._waiters[name]
