"""`Cache`: what a program sees of the KV cache."""

from __future__ import annotations

import time
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

import msgspec

from erllama.actor import Ref
from erllama.cache.actor_refs import CacheActors
from erllama.cache.messages import Bad, Collect, Drain, Free, Freed
from erllama.cache.shared_view import CacheCounters, CacheView
from erllama.cache.trie import TIERS, Tier
from erllama.errors import ActorDied, CacheError

T = TypeVar("T")


class RowInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the cache. Sizes in bytes, ages in seconds."""

    key: str
    form: str
    pure: bool
    start: int
    tokens: int
    size: int
    hits: int
    age_s: float
    tiers: tuple[str, ...]


class VerifyReport(msgspec.Struct, frozen=True, kw_only=True):
    """What reading every row back found.

    Attributes:
        checked: rows in files that were read; those in memory have no checksum to compare.
        bad: how many of them were missing or wrong, and were dropped.
    """

    checked: int
    bad: int


class Finder(Protocol):
    """What the cache needs of its runtime."""

    @property
    def view(self) -> CacheView: ...

    @property
    def actors(self) -> CacheActors: ...


class Cache:
    """The KV cache of a runtime."""

    def __init__(self, runtime: Finder) -> None:
        self._runtime = runtime

    def counters(self) -> CacheCounters:
        """Counts since the start, and bytes now; does not wait."""
        view = self._runtime.view
        return view.counts.snapshot(view.index)

    def rows(self) -> Iterator[RowInfo]:
        """All rows there are now; one that goes while they are looked at is left out."""
        index, now = self._runtime.view.index, time.monotonic()
        for row in list(index):
            if not row.tiers:
                continue
            yield RowInfo(
                key=row.key.hex(),
                form=row.form,
                pure=row.pure,
                start=row.start,
                tokens=row.n_tokens,
                size=row.size,
                hits=row.hits,
                age_s=max(index.age(row, now), 0.0),
                tiers=row.tiers,
            )

    async def evict_bytes(self, n: int, tiers: Sequence[Tier] | None = None) -> Freed:
        """Give up at least `n` bytes, the least valuable rows first; they are free on return.

        Raises:
            CacheError: the cache is not running or went down meanwhile, or `n` is negative, or a
                tier unknown.
        """
        wanted = tuple(tiers) if tiers is not None else TIERS
        if n < 0 or any(tier not in TIERS for tier in wanted):
            raise CacheError(f"evict_bytes: expected n >= 0 and tiers of {', '.join(TIERS)}")
        freed = await self._ask(Free(n, wanted))
        if freed.rows:
            await self._heard(wanted)
        return freed

    async def gc(self) -> Freed:
        """Remove rows that no prompt can reach any more; their files are gone on return.

        Raises:
            CacheError: the cache is not running or went down meanwhile.
        """
        freed = await self._ask(Collect())
        if freed.rows:
            await self._heard(TIERS)
        return freed

    async def verify(self) -> VerifyReport:
        """Read every row in a file back and check it; what is bad was dropped and moved aside.

        Raises:
            CacheError: something is bad, and the cache went down before it was dropped.
        """
        view = self._runtime.view
        checked = 0
        bad: list[Tier] = []
        for row in list(view.index):
            for tier in row.tiers:
                files = view.files.get(tier)
                if files is None:
                    continue
                checked += 1
                good = await files.reading.run(partial(files.is_good, row.id))
                if not good and tier in row.tiers:  # else it was evicted meanwhile
                    bad.append(tier)
                    self._runtime.actors.tell_arbiter(Bad(row, tier, missing=False))
        if bad:
            await self._ask(Free(0, ()))  # a call comes behind what is urgent
            await self._heard(bad)
        return VerifyReport(checked=checked, bad=len(bad))

    async def flush(self) -> None:
        """Wait until what was computed before this call is kept, and written where it is to be.

        So what a request had to leave when it was answered is in files when this returns, as far
        as there are tiers of files that take it; what is saved meanwhile is not waited for. A
        model that crashes, hangs or is unloaded is not waited for either, a disk that hangs is.

        Raises:
            CacheError: the cache went down meanwhile; what was not written yet may be lost.
        """
        await self._runtime.view.pending.settled()
        writers = self._runtime.actors.writers
        if writers is not None:
            await _answer(writers, Drain())

    async def _ask(self, message: object) -> Freed:
        arbiter = self._runtime.actors.arbiter
        if arbiter is None:
            raise CacheError("the cache is not running; start the runtime")
        freed: Freed = await _answer(arbiter, message)
        return freed

    async def _heard(self, tiers: Iterable[Tier]) -> None:
        """Wait until tiers have done what the arbiter told them before."""
        for tier in dict.fromkeys(tiers):
            actor = self._runtime.actors.tier(tier)
            if actor is not None:
                await _alive(actor.probe())  # is served behind what is urgent


async def _answer(actor: Ref, message: object) -> Any:
    return await _alive(actor.call(message))


async def _alive(answer: Coroutine[Any, Any, T]) -> T:
    """What an actor of the cache answers.

    Raises:
        CacheError: it went down before it did.
    """
    try:
        return await answer
    except ActorDied as died:
        raise CacheError(f"the cache went down: {died.reason!r}; it is restarting") from died
