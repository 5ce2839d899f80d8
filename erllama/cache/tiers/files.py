"""Rows in files: `ram_file` under shared memory, `disk` under the cache folder."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any

from erllama.actor import Actor, TaskDone
from erllama.cache.actor_refs import CacheActors
from erllama.cache.index import HIT_WEIGHT_S
from erllama.cache.io_threads import Threads
from erllama.cache.messages import Drop, Opened, SetAside, TierPlace
from erllama.cache.publish import Observer
from erllama.cache.row import RowId
from erllama.cache.row_store import Found, RowStore
from erllama.cache.shared_view import CacheView
from erllama.clock import Timer

HITS_S = 30.0
"""How long hit counts may differ from those on the disk."""

WARM_BYTES = 256 << 20
"""Of the rows that are read at the start."""

_AT_A_TIME = 200  # rows, between two turns of the event loop


class FilesTier(Actor):
    """Opens the folder, tells what lies in it, deletes and moves files aside, keeps hit counts.

    What was used most is read once at the start, in the background: a request that needs it right
    after a restart does not wait for the disk then, nor for pages that nobody touched for long.

    Reading is done by whoever needs a row, writing by the writers; all on the folder's threads.
    """

    def __init__(
        self,
        place: TierPlace,
        view: CacheView,
        actors: CacheActors,
        *,
        at: Observer | None = None,
    ) -> None:
        self._place = place
        self._view = view
        self._actors = actors
        self._at = at
        self._files: RowStore | None = None
        self._uses_kept = 0
        self._timer: Timer | None = None

    async def init(self) -> None:
        opening = Threads("erllama-cache-open", 1)
        try:
            files = self._files = await opening.run(self._open)
        finally:
            opening.close()
        try:
            scan = await files.reading.run(files.scan)
        except BaseException:
            files.close()  # or whoever comes next finds it locked
            raise
        self._view.files[self._place.tier] = files
        self._actors.tell_arbiter(
            Opened(
                self._place.tier,
                tuple(scan.found),
                scan.quarantined,
                writable=not files.read_only,
            )
        )
        self._arm()
        hottest = _hottest(scan.found)
        self.spawn_task(files.reading.run(lambda: files.warm(hottest)), then="warmed")

    async def handle_urgent(self, payload: Any) -> None:
        files = self._files
        match payload:
            case Drop(rows) if files is not None:
                gone = [row for row in rows if not self._is_there_again(row)]
                await files.writing.run(lambda: files.delete(gone))
            case SetAside(row) if files is not None:
                if not self._is_there_again(row):
                    await files.writing.run(lambda: files.quarantine(row))
            case TaskDone("warmed"):
                return
            case "hits" if files is not None:
                await self._keep_hits(files)
                self._arm()
            case _:
                await super().handle_urgent(payload)

    async def terminate(self, reason: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        files = self._files
        if files is None:
            return
        try:
            await self._keep_hits(files)
        finally:
            files.close()

    async def _keep_hits(self, files: RowStore) -> None:
        """Write down how often rows were used, if that has changed."""
        index = self._view.index
        uses = index.uses
        if files.read_only or uses == self._uses_kept:
            return
        hits = {}
        for i, row in enumerate(list(index)):
            if i % _AT_A_TIME == 0:
                await asyncio.sleep(0)
            if row.hits:
                hits[row.id.name] = row.hits
        await files.writing.run(lambda: files.remember_hits(hits))
        self._uses_kept = uses

    def _arm(self) -> None:
        self._timer = self.clock.call_later(HITS_S, lambda: self.ref.urgent("hits"))

    def _is_there_again(self, row: RowId) -> bool:
        """Whether a row was written anew since it was to go."""
        return self._view.index.contains(row, self._place.tier)

    def _open(self) -> RowStore:
        place = self._place
        if self._at is None:
            return RowStore(place.root, read_only=place.read_only, if_locked=place.if_locked)
        return RowStore(
            place.root, read_only=place.read_only, if_locked=place.if_locked, at=self._at
        )


def _hottest(found: Sequence[Found]) -> list[RowId]:
    """The rows that would be evicted last, as many as are read at the start."""
    rows: list[RowId] = []
    left = WARM_BYTES
    order = sorted(found, key=lambda f: f.age_s - HIT_WEIGHT_S * math.log2(1 + f.hits))
    for row in order:
        left -= row.size
        if left < 0:
            break
        rows.append(row.meta.id)
    return rows
