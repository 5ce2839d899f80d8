"""Rows in the memory of this process."""

from __future__ import annotations

from typing import Any

from erllama.actor import Actor, ReplyTo
from erllama.cache.board import Board
from erllama.cache.messages import Drop, Opened, Put, SetAside
from erllama.cache.peers import Peers


class RamTier(Actor):
    """Holds what the arbiter gives it; its bytes die with it."""

    def __init__(self, board: Board, peers: Peers) -> None:
        self._board = board
        self._peers = peers

    async def init(self) -> None:
        self._board.ram = {}
        self._peers.tell_arbiter(Opened("ram", (), 0, writable=True))

    async def handle_call(self, payload: Any, reply: ReplyTo) -> Any:
        match payload:
            case Put(row, parts):
                self._board.ram[row] = parts
                return None
            case _:
                return await super().handle_call(payload, reply)

    async def handle_urgent(self, payload: Any) -> None:
        match payload:
            case Drop(rows):
                for row in rows:
                    self._board.ram.pop(row, None)
            case SetAside(row):
                self._board.ram.pop(row, None)
            case _:
                await super().handle_urgent(payload)
