"""Rows in files: `ram_file` under shared memory, `disk` under the cache folder."""

from __future__ import annotations

import asyncio
from typing import Any

from erllama.actor import Actor
from erllama.cache.board import Board
from erllama.cache.files import RowFiles
from erllama.cache.messages import Drop, Opened, SetAside, TierPlace
from erllama.cache.peers import Peers
from erllama.cache.publish import Observer
from erllama.cache.row import RowId

_AT_A_TIME = 1_000  # rows, between two turns of the event loop


class FilesTier(Actor):
    """Opens the folder, tells what lies in it, deletes and moves files aside.

    Reading is done by whoever needs a row, writing by the writers; both on worker threads.
    """

    def __init__(
        self,
        place: TierPlace,
        board: Board,
        peers: Peers,
        *,
        at: Observer | None = None,
    ) -> None:
        self._place = place
        self._board = board
        self._peers = peers
        self._at = at
        self._files: RowFiles | None = None

    async def init(self) -> None:
        files = self._files = await asyncio.to_thread(self._open)
        try:
            scan = await asyncio.to_thread(files.scan)
        except BaseException:
            files.close()  # or whoever comes next finds it locked
            raise
        self._board.files[self._place.tier] = files
        self._peers.tell_arbiter(
            Opened(
                self._place.tier,
                tuple(scan.found),
                scan.quarantined,
                writable=not files.read_only,
            )
        )

    async def handle_urgent(self, payload: Any) -> None:
        files = self._files
        match payload:
            case Drop(rows) if files is not None:
                gone = [row for row in rows if not self._is_there_again(row)]
                await asyncio.to_thread(files.delete, gone)
            case SetAside(row) if files is not None:
                if not self._is_there_again(row):
                    await asyncio.to_thread(files.quarantine, row)
            case _:
                await super().handle_urgent(payload)

    async def terminate(self, reason: object) -> None:
        files = self._files
        if files is None:
            return
        try:
            if not files.read_only:
                hits = {}
                for i, row in enumerate(list(self._board.index)):
                    if i % _AT_A_TIME == 0:
                        await asyncio.sleep(0)
                    if row.hits:
                        hits[row.id.name] = row.hits
                await asyncio.to_thread(files.remember_hits, hits)
        finally:
            files.close()

    def _is_there_again(self, row: RowId) -> bool:
        """Whether a row was written anew since it was to go."""
        return self._board.index.contains(row, self._place.tier)

    def _open(self) -> RowFiles:
        place = self._place
        if self._at is None:
            return RowFiles(place.root, read_only=place.read_only, if_locked=place.if_locked)
        return RowFiles(
            place.root, read_only=place.read_only, if_locked=place.if_locked, at=self._at
        )
