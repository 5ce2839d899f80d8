"""Rows in the memory of this process."""

from __future__ import annotations

from typing import Any

from erllama.actor import Actor, ReplyTo
from erllama.cache.actor_refs import CacheActors
from erllama.cache.messages import Drop, Opened, Put, SetAside
from erllama.cache.shared_view import CacheView


class RamTier(Actor):
    """Holds what the arbiter gives it; its bytes die with it."""

    def __init__(self, view: CacheView, actors: CacheActors) -> None:
        self._view = view
        self._actors = actors

    async def init(self) -> None:
        self._view.ram = {}
        self._actors.tell_arbiter(Opened("ram", (), 0, writable=True))

    async def handle_call(self, payload: Any, reply: ReplyTo) -> Any:
        match payload:
            case Put(row, parts):
                self._view.ram[row] = parts
                return None
            case _:
                return await super().handle_call(payload, reply)

    async def handle_urgent(self, payload: Any) -> None:
        match payload:
            case Drop(rows):
                for row in rows:
                    self._view.ram.pop(row, None)
            case SetAside(row):
                self._view.ram.pop(row, None)
            case _:
                await super().handle_urgent(payload)
