"""The lane's place in the supervision tree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from erllama.actor import Actor
from erllama.backend.lane import Lane
from erllama.errors import EngineCrashed


@dataclass(frozen=True, slots=True)
class _Down:
    reason: BaseException


class LaneActor(Actor):
    """Keeps the compute thread running for one Runtime.

    When the thread's loop ends by accident this actor crashes; its restart joins the old thread
    and starts a new one. Jobs that were lost have failed by then with `EngineCrashed`.
    """

    def __init__(self, lane: Lane) -> None:
        self._lane = lane

    async def init(self) -> None:
        self._lane.on_down = lambda reason: self.ref.urgent(_Down(reason))
        await self._lane.start()

    async def handle_urgent(self, payload: Any) -> None:
        match payload:
            case _Down(reason):
                raise EngineCrashed(f"the compute lane went down: {reason!r}") from reason
            case _:
                await super().handle_urgent(payload)

    async def terminate(self, reason: object) -> None:
        self._lane.on_down = None
        if reason in ("shutdown", "normal"):
            await self._lane.stop()
