"""The actors of the cache without any model, and runtimes on the stub engine with a cache."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from erllama import Completion, Model, Runtime
from erllama.actor import Ref, Registry, kill, start
from erllama.backend.stub import StubBackend
from erllama.cache.actor_refs import CacheActors
from erllama.cache.facade import Cache
from erllama.cache.messages import NewRow, Offer, TierPlace
from erllama.cache.publish import TEMPORARY, Observer
from erllama.cache.row import HEAD_BYTES, RowId
from erllama.cache.row_store import RowStore
from erllama.cache.shared_view import CacheView
from erllama.cache.supervisor import cache_supervisor
from erllama.cache.trie import TIERS, Tier
from erllama.clock import Clock
from tests.cache.support import row_meta
from tests.model.staging import until

PATIENCE_S = 60.0
"""Far more than any test needs: a test that waits this long hangs."""

TOKEN_BYTES = 4


def new_row(context: Sequence[int], *, logits: bool = False, **fields: Any) -> NewRow:
    """A row of the last block of `context`, whose payload tells it from others."""
    options: dict[str, Any] = {"form": "tail" if logits else "block"} | fields
    meta = row_meta(context, token_bytes=TOKEN_BYTES, **options)
    rows = bytes(token % 251 for token in context[meta.start :] for _ in range(TOKEN_BYTES))
    return NewRow(meta, (rows, bytes(meta.logits_bytes)) if logits else (rows,))


def held(row: NewRow) -> int:
    """Bytes that a row counts with."""
    return row.size + HEAD_BYTES


def names(rows: Sequence[NewRow]) -> set[str]:
    return {row.meta.id.name for row in rows}


def temporaries(root: pathlib.Path) -> list[pathlib.Path]:
    """Files in a cache folder that were never published."""
    return list(root.rglob(f"{TEMPORARY}*"))


def row_files(root: pathlib.Path) -> list[pathlib.Path]:
    """The published files of a cache folder."""
    return sorted(path for path in (root / "rows").rglob("*.*") if path.parent != root / "rows"
                  and not path.name.startswith(TEMPORARY))  # fmt: skip


class Rig:
    """The cache's actors, alone.

    Attributes:
        root: of the tier `disk`.
    """

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        self.registry = Registry()
        self.view = CacheView()
        self.actors = CacheActors(self.registry)
        self.cache = Cache(self)

    async def offer(
        self, *rows: NewRow, tiers: tuple[Tier, ...] = TIERS, write_through: bool = True
    ) -> None:
        """What a model does with rows that it saved."""
        arbiter = self.actors.arbiter
        assert arbiter is not None
        await arbiter.call(Offer(rows, "finish", tiers, write_through))

    async def keep(self, *rows: NewRow, **options: Any) -> None:
        """Offer rows, and wait until they are written."""
        await self.offer(*rows, **options)
        await self.cache.flush()

    def tiers_of(self, row: NewRow) -> tuple[Tier, ...]:
        found = self.view.index.get(row.meta.id)
        return () if found is None else found.tiers

    @property
    def files(self) -> RowStore:
        return self.view.files["disk"]

    def counter(self, name: str) -> int:
        value: int = getattr(self.cache.counters(), name)
        return value

    def actor(self, name: str) -> Ref:
        ref = self.registry.whereis(name)
        assert ref is not None
        return ref

    async def crash(self, name: str) -> Ref:
        """Kill an actor; returns its next incarnation, when the writers are up again too."""
        writers = self.actor("cache:writers")
        ref = self.actor(name)
        kill(ref)
        await ref.wait_dead()
        await writers.wait_dead()
        await (await self.registry.wait_for("cache:writers")).wait_started()
        # what the tiers tell the arbiter when they start is urgent: a call comes behind it
        await self.offer()
        return self.actor(name)


@contextlib.asynccontextmanager
async def rig(
    root: pathlib.Path,
    *,
    ram: int = 0,
    disk: int | None = 1 << 24,
    ram_file: tuple[pathlib.Path, int] | None = None,
    read_only: bool = False,
    clock: Clock | None = None,
    at: Observer | None = None,
    shutdown: float = 5.0,
    patience: float = PATIENCE_S,
) -> AsyncIterator[Rig]:
    """The cache's actors with these quotas; a test that hangs in it fails."""
    made = Rig(root)
    places = []
    if ram_file is not None:
        places.append(TierPlace("ram_file", *ram_file))
    if disk is not None:
        places.append(TierPlace("disk", root, disk, read_only=read_only))
    supervisor = cache_supervisor(
        made.view,
        made.registry,
        ram_bytes=ram,
        places=places,
        intensity=100,
        period=60.0,
        shutdown=shutdown,
        at=at,
    )
    async with asyncio.timeout(patience):
        ref = await start(supervisor, name="cache", clock=clock)
        try:
            await made.offer()
            yield made
        finally:
            await ref.stop(deadline=PATIENCE_S)


# Runtimes on the stub engine


def prompt(seed: int, n: int = 300) -> list[int]:
    """Tokens that agree with those of other seeds nowhere but by chance."""
    return [97 + (seed * 7919 + i * (seed % 11 + 3) + i * i) % 26 for i in range(n)]


async def answer(model: Model, tokens: Sequence[int], **options: Any) -> Completion:
    """A short greedy completion."""
    return await model.complete(tokens, **({"max_tokens": 8, "temperature": 0} | options))


async def cold(tokens: Sequence[int], **options: Any) -> list[int]:
    """What a model without a cache answers."""
    async with stub_runtime() as runtime:
        model = await runtime.load_model("stub.gguf", enabled=False)
        return (await answer(model, tokens, **options)).tokens


@contextlib.asynccontextmanager
async def stub_runtime(
    folder: pathlib.Path | None = None,
    *,
    backend: Callable[[], Any] = StubBackend,
    **options: Any,
) -> AsyncIterator[Runtime]:
    """A runtime on the stub engine, with a cache in `folder`; a test that hangs in it fails."""
    where = {} if folder is None else {"cache_dir": str(folder)}
    async with (
        asyncio.timeout(PATIENCE_S),
        Runtime(backend=backend, **(where | options)) as runtime,
    ):
        yield runtime


async def kept(runtime: Runtime, model: Model) -> None:
    """Wait until all that the model computed is in the cache, on disk too."""
    await model.evict()
    await runtime.cache.flush()


def pins(runtime: Runtime) -> int:
    """How many rows are pinned."""
    return sum(runtime.view.index.pinned(row) for row in runtime.view.index)


async def unpinned(runtime: Runtime) -> None:
    """Wait until no row is pinned.

    A thread that reads rows keeps them pinned until it is through, also for a request that has
    ended: who asks right behind it may be too early on a busy machine.
    """
    await until(lambda: pins(runtime) == 0)


__all__ = [
    "PATIENCE_S", "Rig", "RowId", "answer", "cold", "held", "kept", "names", "new_row", "pins",
    "prompt", "rig", "row_files", "stub_runtime", "temporaries", "unpinned",
]  # fmt: skip
