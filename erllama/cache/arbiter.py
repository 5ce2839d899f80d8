"""The arbiter: the one who decides what the cache holds.

Contract
    State     the index, the reservations, quotas and which tiers are up.
    Writer    this actor's task, of all of them. Models read `CacheView.index` between its turns,
              and pin, unpin and touch rows there; these change no row's place.
    Invariant a row is in the index under a tier only when that tier holds it whole. What leaves
              the index is deleted after, never before. The bytes of a tier stay within its quota,
              rows being written included.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from erllama.actor import Actor, ReplyTo, TaskDone
from erllama.cache.actor_refs import CacheActors
from erllama.cache.index import CacheIndex
from erllama.cache.messages import (
    Bad,
    Collect,
    Drop,
    Free,
    Freed,
    NewRow,
    Offer,
    Opened,
    Promote,
    Put,
    Reserve,
    SetAside,
    StillWanted,
    Write,
    Written,
)
from erllama.cache.reservation import Expired, Reservation, Reservations
from erllama.cache.row import HEAD_BYTES, RowId
from erllama.cache.shared_view import CacheView
from erllama.cache.trie import BIT, TIERS, Row, Tier
from erllama.clock import Timer
from erllama.errors import ErllamaError

R = TypeVar("R")

RESERVATION_S = 60.0
_SWEEP_S = 5.0
_AT_A_TIME = 50  # rows, between two turns of the event loop


@dataclass(frozen=True, slots=True)
class _Promoted:
    """Tag of the background task that reads a row back."""

    row: Row


class Arbiter(Actor):
    """See the module.

    Args:
        quotas: bytes that each tier may hold; a tier that is not named is not used.
    """

    def __init__(self, view: CacheView, actors: CacheActors, quotas: Mapping[Tier, int]) -> None:
        self._view = view
        self._actors = actors
        self._quotas = dict(quotas)
        self._reservations = Reservations()
        self._reserved: dict[int, tuple[Tier, int]] = {}
        self._writable: set[Tier] = set()
        self._sweep: Timer | None = None

    async def init(self) -> None:
        self._view.index = CacheIndex()
        self._arm_sweep()

    async def terminate(self, reason: object) -> None:
        if self._sweep is not None:
            self._sweep.cancel()

    async def handle_call(self, payload: Any, reply: ReplyTo) -> Any:
        match payload:
            case Offer(rows, reason, tiers, write_through):
                for row in rows:
                    if await self._keep(row, tiers, write_through=write_through):
                        self._view.counts.add(f"saves_{reason}")
                return None
            case Reserve(row, tier):
                return await self._reserve(row, tier)
            case StillWanted(reservation):
                return self._reservations.check(reservation) and self._reservations.mark_linked(
                    reservation, self.clock.now(), RESERVATION_S
                )
            case Written(reservation, meta, tier, size):
                self._release(reservation)
                if size:
                    await self._insert_written(meta, size, tier)
                return None
            case Free(n_bytes, tiers):
                return await self._free(n_bytes, tiers)
            case Collect():
                return await self._collect()
            case _:
                return await super().handle_call(payload, reply)

    async def handle_urgent(self, payload: Any) -> None:
        match payload:
            case Opened():
                await self._opened(payload)
            case Bad(row, tier, missing):
                self._bad(row, tier, missing=missing)
            case Promote(rows):
                for row in rows:
                    if self._view.index.get(row.id) is row and "ram" not in row.tiers:
                        self.spawn_task(self._read_back(row), then=_Promoted(row))
            case TaskDone(_Promoted(row), new, None):
                if self._view.index.get(row.id) is row:
                    await self._put_in_ram(new)
            case "sweep":
                for expired in self._reservations.expired(self.clock.now()):
                    self._over(expired)
                self._arm_sweep()
            case TaskDone():
                return
            case _:
                await super().handle_urgent(payload)

    # Keeping rows

    async def _keep(self, row: NewRow, tiers: tuple[Tier, ...], *, write_through: bool) -> bool:
        """Give a row to the first tier that takes it; whether one did, or had it already."""
        index = self._view.index
        if index.contains(row.meta.id):
            self._write_through(row, tiers, wanted=write_through)
            return False
        for tier in tiers:
            if tier not in self._writable or _held(row) > self._quotas.get(tier, 0):
                continue
            if tier != "ram":
                self._write(row, tier)
                return True
            if await self._put_in_ram(row):
                self._write_through(row, tiers, wanted=write_through)
                return True
        self._view.counts.add("saves_dropped")
        return False

    async def _put_in_ram(self, row: NewRow) -> bool:
        ram = self._actors.tier("ram")
        if ram is None or not await self._make_room("ram", _held(row)):
            return False
        try:
            await ram.call(Put(row.meta.id, row.parts))
        except ErllamaError:
            return False
        index = self._view.index
        kept = index.insert(row.meta, _held(row), "ram", now=self.clock.now())
        await self._drop_superseded(kept)
        return True

    def _write_through(self, row: NewRow, tiers: tuple[Tier, ...], *, wanted: bool) -> None:
        possible = wanted and "disk" in tiers and "disk" in self._writable
        if possible and not self._view.index.contains(row.meta.id, "disk"):
            self._write(row, "disk")

    def _write(self, row: NewRow, tier: Tier) -> None:
        writers = self._actors.writers
        if writers is None:
            self._view.counts.add("saves_dropped")
            return
        try:
            writers.cast(Write(row, tier))
        except ErllamaError:  # its mailbox is full
            self._view.counts.add("saves_dropped")

    async def _read_back(self, row: Row) -> NewRow:
        """A row of a file, as it was before it was written."""
        files = self._view.files[next(tier for tier in row.tiers if tier != "ram")]
        return NewRow(*await files.reading.run(lambda: files.load(row.id)))

    # Files

    async def _reserve(self, row: NewRow, tier: Tier) -> Reservation | None:
        row_id = row.meta.id
        if tier not in self._writable or self._view.index.contains(row_id, tier):
            return None
        size = _held(row)
        if not await self._make_room(tier, size):
            self._view.counts.add("saves_dropped")
            return None
        reservation = self._reservations.reserve(
            row_id, f"writers:{tier}", self.clock.now(), RESERVATION_S
        )
        if reservation is not None:
            self._reserved[reservation.number] = (tier, size)
        return reservation

    def _release(self, reservation: Reservation) -> None:
        self._reservations.release(reservation)
        self._reserved.pop(reservation.number, None)

    async def _insert_written(self, meta: Any, size: int, tier: Tier) -> None:
        kept = self._view.index.insert(meta, size, tier, now=self.clock.now())
        await self._drop_superseded(kept)
        await self._trim(tier)

    def _over(self, expired: Expired) -> None:
        """A writer took too long. Before the link its file is invisible; after it, look."""
        tier, _ = self._reserved.pop(expired.reservation.number, ("disk", 0))
        self._view.counts.add("write_timeouts")
        if expired.action == "validate":
            self.spawn_task(self._validate(expired.reservation, tier), then="validated")

    async def _validate(self, reservation: Reservation, tier: Tier) -> None:
        files = self._view.files.get(tier)
        if files is not None:
            found = await files.reading.run(lambda: files.look(reservation.id))
            if found is None:
                await files.writing.run(lambda: files.quarantine(reservation.id))
            elif self._view.files.get(tier) is files:
                await self._insert_written(found.meta, found.size, tier)
        self._reservations.release(reservation)

    # Tiers come and go

    async def _opened(self, opened: Opened) -> None:
        """A tier has started: it holds what it says, and nothing else."""
        index, now = self._view.index, self.clock.now()
        bit = BIT[opened.tier]
        gone = [row for row in index if row.where & bit] if index.count(opened.tier) else []
        for i, row in enumerate(gone):
            if i % _AT_A_TIME == 0:
                await asyncio.sleep(0)
            index.remove(row, opened.tier)
        if gone and opened.tier == "ram":  # what it was given before this was read
            self._tell_tier("ram", Drop(tuple(row.id for row in gone)))
        for i, found in enumerate(opened.found):
            if i % _AT_A_TIME == 0:
                await asyncio.sleep(0)
            index.insert(
                found.meta, found.size, opened.tier, now=now, hits=found.hits, age_s=found.age_s
            )
        self._view.counts.add("corrupt_rows", opened.quarantined)
        if opened.writable:
            self._writable.add(opened.tier)
            await self._trim(opened.tier)

    def _bad(self, row: Row, tier: Tier, *, missing: bool) -> None:
        index, files = self._view.index, self._view.files.get(tier)
        if files is not None and row.id in files.late:  # it is there, but nobody could wait for it
            files.late.discard(row.id)
            self._view.counts.add("read_timeouts")
            return
        if index.get(row.id) is not row:
            return
        index.remove(row, tier)
        self._view.counts.add("corrupt_rows")
        if not missing:
            self._tell_tier(tier, SetAside(row.id))

    # Room

    async def _make_room(self, tier: Tier, size: int) -> bool:
        """Evict until `size` more bytes fit; whether they do."""
        quota = self._quotas.get(tier, 0)
        if size > quota:
            return False  # whatever went for it would go for nothing
        await self._evict(tier, self._used(tier) + size - quota)
        return self._used(tier) + size <= quota

    async def _trim(self, tier: Tier) -> None:
        await self._evict(tier, self._used(tier) - self._quotas.get(tier, 0))

    def _used(self, tier: Tier) -> int:
        pending = sum(size for where, size in self._reserved.values() if where == tier)
        return self._view.index.bytes(tier) + pending

    async def _evict(self, tier: Tier, n_bytes: int) -> Freed:
        """Give up so many bytes of a tier, a few rows at a time."""
        rows = freed = 0
        while freed < n_bytes:
            victims = self._view.index.evict(tier, n_bytes - freed, most=_AT_A_TIME)
            if not victims:
                break
            self._tell_tier(tier, Drop(tuple(row.id for row in victims)))
            rows += len(victims)
            freed += sum(row.size for row in victims)
            self._view.counts.add("evictions", len(victims))
            if freed < n_bytes:
                await asyncio.sleep(0)
        return Freed(rows, freed)

    async def _free(self, n_bytes: int, tiers: tuple[Tier, ...]) -> Freed:
        rows = freed = 0
        for tier in tiers:
            if tier in self._writable:
                gone = await self._evict(tier, n_bytes - freed)
                rows, freed = rows + gone.rows, freed + gone.bytes
        return Freed(rows, freed)

    async def _collect(self) -> Freed:
        index = self._view.index
        useless: dict[Row, None] = {}
        async for row in _in_turns(index):
            useless |= dict.fromkeys(index.superseded(row))
        async for orphan in _in_turns(index.orphans()):
            if orphan is not None:
                useless[orphan] = None
        writable = tuple(tier for tier in TIERS if tier in self._writable)
        return await self._remove_everywhere(list(useless), only=writable)

    async def _drop_superseded(self, row: Row) -> None:
        """Rows whose tokens a longer one has too, in the tiers where that one lies.

        Those with logits stay until `gc` or an eviction takes them: with them the same prompt
        again is an exact hit.
        """
        old = [old for old in self._view.index.superseded(row) if not old.has_logits]
        await self._remove_everywhere(old, only=row.tiers)

    async def _remove_everywhere(self, rows: list[Row], *, only: tuple[Tier, ...]) -> Freed:
        freed = 0
        for start in range(0, len(rows), _AT_A_TIME):
            if start:
                await asyncio.sleep(0)
            freed += self._remove(rows[start : start + _AT_A_TIME], only)
        return Freed(len(rows), freed)

    def _remove(self, rows: list[Row], only: tuple[Tier, ...]) -> int:
        """Take a few rows out of tiers; returns the bytes."""
        freed = 0
        gone: dict[Tier, list[RowId]] = {tier: [] for tier in only}
        for row in rows:
            if self._view.index.pinned(row):
                continue  # since it was found needless somebody has begun to read it
            row_id, size = row.id, row.size
            for tier in row.tiers:
                if tier in only:
                    self._view.index.remove(row, tier)
                    gone[tier].append(row_id)
                    freed += size
        for tier, ids in gone.items():
            if ids:
                self._tell_tier(tier, Drop(tuple(ids)))
        return freed

    def _tell_tier(self, tier: Tier, message: object) -> None:
        actor = self._actors.tier(tier)
        if actor is not None:
            actor.urgent(message)

    def _arm_sweep(self) -> None:
        self._sweep = self.clock.call_later(_SWEEP_S, lambda: self.ref.urgent("sweep"))


async def _in_turns(rows: Iterable[R]) -> AsyncIterator[R]:
    """Rows, with a turn of the event loop after every few of them."""
    for i, row in enumerate(rows):
        if i % _AT_A_TIME == _AT_A_TIME - 1:
            await asyncio.sleep(0)
        yield row


def _held(row: NewRow) -> int:
    """What a row counts against a quota: the same in every tier, so that one number does."""
    return row.size + HEAD_BYTES
