"""Reading the rows of a hit into the state that an engine takes. On a worker thread.

What is read is pinned by then, and what lies in memory is held here by reference: neither an
eviction nor the end of a tier takes it away in the middle. Files are read side by side on the
threads of their folder, and given up if that takes too long: what hangs then still holds the
state that it writes into, so that nobody else gets its memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, NamedTuple, Protocol

from erllama.cache.query import Hit
from erllama.cache.row import BadRow
from erllama.cache.row_store import RowStore
from erllama.cache.shared_view import CacheView
from erllama.cache.trie import Row, Tier

PATIENCE_S = 5.0
SLOWEST_BYTES_PER_S = 20e6
"""A file system that is slower is taken to hang."""


class Target(Protocol):
    """The state to fill: a `Frame` of `erllama.backend.base`."""

    def put_rows(self, start: int, rows: Any, n_rows: int, n: int) -> None: ...

    def segments(self, start: int, stop: int) -> list[memoryview] | None: ...

    def put_snapshot(self, snapshot: Any) -> None: ...


class Unreadable(Exception):
    """A row could not be read.

    Attributes:
        row, tier: which one, where.
        missing: it was not there, or the file system failed; else what was there is wrong.
    """

    def __init__(self, row: Row, tier: Tier, *, missing: bool) -> None:
        super().__init__(f"{row!r} in {tier}")
        self.row = row
        self.tier = tier
        self.missing = missing


class _Source(NamedTuple):
    """Where one row is read from, and where to; `parts` if it lies in memory.

    `start` and `n`: its first token and how many count; of a snapshot, none.
    """

    row: Row
    tier: Tier
    parts: tuple[Any, ...] | None
    start: int = 0
    n: int = 0


class Reader:
    """The rows of one hit. Made on the event loop, used once on a worker.

    Args:
        view: whose rows.
        hit: what to read.
        n_vocab: how many logits a row has that has any.
        patience_s: how long files may take, besides what their size allows for.
    """

    def __init__(
        self, view: CacheView, hit: Hit, *, n_vocab: int, patience_s: float | None = None
    ) -> None:
        self._view = view
        self._hit = hit
        self._logits_bytes = 4 * n_vocab
        self._patience_s = PATIENCE_S if patience_s is None else patience_s
        self._sources = [self._source(row, start, n) for row, start, n in hit.parts()]
        if hit.snapshot is not None:
            self._sources.append(self._source(hit.snapshot))
        self.logits: Any = None
        self.n_bytes = sum(source.row.size for source in self._sources)
        self.tiers: set[Tier] = {source.tier for source in self._sources}

    def fill(self, target: Target) -> None:
        """Read everything into `target`; of an exact hit, the logits into `logits`.

        Raises:
            Unreadable: a row is missing or damaged; `target` must not be used.
        """
        started = time.perf_counter()
        reading = self._begin(target)
        memory = [source for source in self._sources if source.parts is not None]
        try:
            for source in memory:
                _checked(source, partial(self._put, source, source.parts, target))
            self._note("ram", memory, started)
            self._finish(reading, started)
        finally:
            for _, future in reading:
                future.cancel()

    # Memory

    def _put(self, source: _Source, parts: Any, target: Target) -> None:
        row = source.row
        if row is self._hit.snapshot:
            target.put_snapshot(parts[0])
        else:
            target.put_rows(source.start, parts[0], row.n_tokens, source.n)
        if row is self._hit.logits:
            self.logits = parts[1]

    # Files

    def _begin(self, target: Target) -> list[tuple[_Source, Future[None]]]:
        on_files = [source for source in self._sources if source.parts is None]
        places = [self._files(source) for source in on_files]  # before anything is under way
        return [
            (source, files.reading.submit(partial(self._read, source, files, target)))
            for source, files in zip(on_files, places, strict=True)
        ]

    def _read(self, source: _Source, files: RowStore, target: Target) -> None:
        row = source.row
        straight = row is not self._hit.snapshot and source.n == row.n_tokens
        segments = target.segments(source.start, source.start + source.n) if straight else None
        if segments is None:
            self._put(source, files.load(row.id)[1], target)
            return
        logits = bytearray(self._logits_bytes if row.has_logits else 0)
        files.read(row.id, [*segments, memoryview(logits)])
        if row is self._hit.logits:
            self.logits = logits

    def _finish(self, reading: list[tuple[_Source, Future[None]]], started: float) -> None:
        n_bytes = sum(source.row.size for source, _ in reading)
        end = time.monotonic() + self._patience_s + n_bytes / SLOWEST_BYTES_PER_S
        for source, future in reading:
            _checked(source, partial(self._wait, source, future, end))
        for tier in {source.tier for source, _ in reading}:
            self._note(tier, [source for source, _ in reading if source.tier == tier], started)

    def _wait(self, source: _Source, future: Future[None], end: float) -> None:
        try:
            future.result(max(end - time.monotonic(), 0.0))
        except TimeoutError:
            if not future.done():
                self._view.files[source.tier].gave_up(source.row.id, future)
            raise

    def _note(self, tier: Tier, sources: list[_Source], started: float) -> None:
        if sources:
            size = sum(source.row.size for source in sources)
            self._view.note_read(tier, size, time.perf_counter() - started)

    def _source(self, row: Row, start: int = 0, n: int = 0) -> _Source:
        parts = self._view.ram.get(row.id)
        if parts is not None:
            return _Source(row, "ram", parts, start, n)
        on_files: list[Tier] = [tier for tier in row.tiers if tier != "ram"]
        return _Source(row, on_files[0] if on_files else "disk", None, start, n)

    def _files(self, source: _Source) -> RowStore:
        """The folder that a row lies in; not one that hangs."""
        files = self._view.files.get(source.tier)
        if files is None:
            raise Unreadable(source.row, source.tier, missing=True)
        if files.hung:
            files.late.add(source.row.id)
            raise Unreadable(source.row, source.tier, missing=True)
        return files


def _checked(source: _Source, read: Callable[[], None]) -> None:
    """Do `read`, which is about a row; what goes wrong is said of that row."""
    try:
        read()
    except (BadRow, ValueError, BufferError) as bad:
        raise Unreadable(source.row, source.tier, missing=False) from bad
    except OSError as gone:
        raise Unreadable(source.row, source.tier, missing=True) from gone
