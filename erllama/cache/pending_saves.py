"""Saves that models have decided on and that the arbiter has not got yet.

Contract
    Writers   each model its own saves: `begin` when one is decided, `end` once its rows were
              offered to the arbiter, or never will be. A model ends what it has begun also where
              it crashes, hangs or is unloaded, so that nobody waits for it for ever.
    Readers   `Cache.flush`.
"""

from __future__ import annotations

import asyncio
from typing import TypeAlias

PendingSave: TypeAlias = "asyncio.Future[None]"


class PendingSaves:
    """Those of all models of one runtime."""

    def __init__(self) -> None:
        self._open: set[PendingSave] = set()

    def __len__(self) -> int:
        return len(self._open)

    def begin(self) -> PendingSave:
        """A save was decided; on the event loop."""
        save: PendingSave = asyncio.get_running_loop().create_future()
        self._open.add(save)
        return save

    def end(self, save: PendingSave) -> None:
        """It is over, whatever came of it; does nothing if it was before."""
        self._open.discard(save)
        if not save.done():
            save.set_result(None)

    async def settled(self) -> None:
        """Wait for the saves that are open now; those that begin later are not waited for."""
        if self._open:
            await asyncio.wait(tuple(self._open))
