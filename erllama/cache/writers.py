"""The writers: a bounded pool that publishes rows in tiers of files.

Contract
    State     rows that wait, at most `max_bytes` of them; rows being written, at most `width` to
              each tier, so that one that hangs holds up no other.
    Protocol  reserve (arbiter) → write a temporary, fdatasync → ask whether it is still wanted →
              link, fsync of the directory, unlink the temporary → tell the arbiter.
    Refusal   a row that finds no room is dropped and counted; nobody ever waits for a writer,
              but for `Drain`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from erllama.actor import DEFERRED, Actor, ReplyTo, TaskDone
from erllama.cache.actor_refs import CacheActors
from erllama.cache.messages import Drain, Free, NewRow, Reserve, StillWanted, Write, Written
from erllama.cache.publish import discard
from erllama.cache.reservation import Reservation
from erllama.cache.row import BadRow
from erllama.cache.row_store import RowStore
from erllama.cache.shared_view import CacheView
from erllama.cache.trie import TIERS, Tier
from erllama.errors import ErllamaError

T = TypeVar("T")

ADOPTION_S = 2.0
"""How long a start waits for the rows of earlier processes to be known."""


@dataclass(frozen=True, slots=True)
class _Done:
    """Tag of a row that is being written: its number, which is never given twice."""

    number: int


@dataclass(frozen=True, slots=True, eq=False)
class _Drain:
    """A call of `Drain`, and the numbers of the rows that it still waits for."""

    reply: ReplyTo
    rows: set[int]


class Writers(Actor):
    """See the module.

    Args:
        width: rows written to a tier at the same time.
        max_bytes: of the rows that wait.
    """

    terminate_timeout = 600.0  # the supervisor's deadline comes first

    def __init__(
        self, view: CacheView, actors: CacheActors, *, width: int = 2, max_bytes: int = 1 << 30
    ) -> None:
        self._view = view
        self._actors = actors
        self._width = width
        self._max_bytes = max_bytes
        self._waiting: dict[Tier, deque[tuple[int, Write]]] = {tier: deque() for tier in TIERS}
        self._waiting_bytes = 0
        self._writing: dict[Tier, int] = dict.fromkeys(TIERS, 0)
        self._numbers = 0
        self._open: set[int] = set()  # the rows that wait or are being written
        self._drains: list[_Drain] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def init(self) -> None:
        """The last of the cache's actors to start: it does so when what the tiers hold is known.

        A prompt right after the start then finds its rows. Only a while: with very many of them
        it is better to begin without.
        """
        arbiter = self._actors.arbiter
        if arbiter is not None:
            with contextlib.suppress(ErllamaError, TimeoutError):
                async with asyncio.timeout(ADOPTION_S):
                    await arbiter.call(Free(0, ()))

    async def handle_cast(self, payload: Any) -> None:
        match payload:
            case Write(row):
                self._accept(payload, row.size)
            case _:
                await super().handle_cast(payload)

    async def handle_call(self, payload: Any, reply: ReplyTo) -> Any:
        match payload:
            case Drain():
                if not self._open:
                    return None
                self._drains.append(_Drain(reply, set(self._open)))
                return DEFERRED
            case _:
                return await super().handle_call(payload, reply)

    async def handle_urgent(self, payload: Any) -> None:
        match payload:
            case TaskDone(_Done(number), _, error):
                if error is not None:
                    self.log.warning("a row was not written: %r", error)
                self._begin()
                self._over(number)
            case _:
                await super().handle_urgent(payload)

    async def terminate(self, reason: object) -> None:
        """On an orderly end, write what waits; the deadline of the shutdown bounds it.

        On any other, what waits is lost: whoever drains hears that this actor went down.
        """
        if reason not in ("shutdown", "normal"):
            return
        self._begin()
        while self._tasks:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            self._begin()
        for drain in self._drains:
            drain.reply.send(None)

    def _accept(self, write: Write, size: int) -> None:
        if self._waiting_bytes + size > self._max_bytes:
            self._view.counts.add("saves_dropped")
            return
        self._numbers += 1
        self._open.add(self._numbers)
        self._waiting[write.tier].append((self._numbers, write))
        self._waiting_bytes += size
        self._begin()

    def _over(self, number: int) -> None:
        """A row was written, or could not be: answer those who waited for it last."""
        self._open.discard(number)
        for drain in self._drains:
            drain.rows.discard(number)
            if not drain.rows:
                drain.reply.send(None)
        self._drains = [drain for drain in self._drains if drain.rows]

    def _begin(self) -> None:
        """Write what waits, as far as its tier has a writer free."""
        for tier, waiting in self._waiting.items():
            while waiting and self._writing[tier] < self._width:
                number, write = waiting.popleft()
                self._waiting_bytes -= write.row.size
                self._writing[tier] += 1
                task = self.spawn_task(self._write(write.row, tier), then=_Done(number))
                self._tasks.add(task)
                task.add_done_callback(partial(self._ended, tier))

    def _ended(self, tier: Tier, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._writing[tier] -= 1

    async def _write(self, row: NewRow, tier: Tier) -> None:
        arbiter = self._actors.arbiter
        if arbiter is None:
            self._view.counts.add("saves_dropped")
            return
        reservation: Reservation | None = await arbiter.call(Reserve(row, tier))
        if reservation is None:
            return
        size = 0
        try:
            size = await self._publish(row, tier, reservation)
        except (OSError, BadRow) as wrong:
            self._view.counts.add("write_errors")
            self.log.warning("row %s was not written: %s", row.meta.id.name, wrong)
        finally:
            if arbiter.alive:
                await arbiter.call(Written(reservation, row.meta, tier, size))

    async def _publish(self, row: NewRow, tier: Tier, reservation: Reservation) -> int:
        files = self._view.files.get(tier)
        arbiter = self._actors.arbiter
        if files is None or arbiter is None:
            return 0
        temporary, size = await _to_its_end(files, lambda: files.write(row.meta, row.parts))
        try:
            wanted = bool(await arbiter.call(StillWanted(reservation)))
        except ErllamaError:
            wanted = False
        if not wanted:
            await files.writing.run(lambda: discard(temporary))
            return 0
        await _to_its_end(files, lambda: files.publish(temporary, row.meta))
        return size


async def _to_its_end(files: RowStore, work: Callable[[], T]) -> T:
    """Run `work` on a thread of its folder.

    Only the second cancellation is obeyed: what a thread has begun cannot be stopped, and nobody
    would clear up behind it.
    """
    running = asyncio.ensure_future(files.writing.run(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        return await running
