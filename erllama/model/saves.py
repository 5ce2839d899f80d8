"""A model's saves that are on their way into the cache, as others wait for them.

Contract
    State     a `PendingSave` for each that has begun and has not ended, by the save's number.
    Writer    the model's actor, through `CacheWork`; `end_all` also when that actor has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from erllama.cache.pending_saves import PendingSave, PendingSaves


class Saves:
    """See the module.

    Args:
        pending: those of all models, which `Cache.flush` waits for.
        spawn: runs a background task of the actor; its end arrives with the tag.
    """

    def __init__(
        self,
        pending: PendingSaves,
        spawn: Callable[[Coroutine[Any, Any, Any], object], asyncio.Task[Any]],
    ) -> None:
        self._pending = pending
        self._spawn = spawn
        self._open: dict[int, PendingSave] = {}

    def begin(self, number: int) -> None:
        """A save was decided."""
        self._open[number] = self._pending.begin()

    def end(self, number: int) -> None:
        """Its rows were offered to the arbiter, or never will be."""
        save = self._open.pop(number, None)
        if save is not None:
            self._pending.end(save)

    def end_all(self) -> None:
        """Nobody is left who could hand over what was being saved."""
        for number in list(self._open):
            self.end(number)

    def once_over(self, numbers: Iterable[int], then: Callable[[], object]) -> None:
        """Call `then` when these saves have ended; at once if they have."""
        saves = [self._open[number] for number in numbers if number in self._open]
        if not saves:
            then()
            return

        async def wait() -> None:
            await asyncio.wait(saves)
            then()

        self._spawn(wait(), "saved")
