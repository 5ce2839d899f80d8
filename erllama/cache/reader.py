"""Reading the rows of a hit into the state that an engine takes. On a worker thread.

What is read is pinned by then, and what lies in memory is held here by reference: neither an
eviction nor the end of a tier takes it away in the middle.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple, Protocol

from erllama.cache.board import Board
from erllama.cache.files import RowFiles
from erllama.cache.lookup import Hit
from erllama.cache.row import BadRow
from erllama.cache.trie import Row, Tier


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
    """Where one row is read from. `parts` if it lies in memory."""

    row: Row
    tier: Tier
    parts: tuple[Any, ...] | None


class Reader:
    """The rows of one hit. Made on the event loop, used once on a worker.

    Args:
        board: whose rows.
        hit: what to read.
        n_vocab: how many logits a row has that has any.
    """

    def __init__(self, board: Board, hit: Hit, *, n_vocab: int) -> None:
        self._board = board
        self._hit = hit
        self._logits_bytes = 4 * n_vocab
        self._sources = {row: self._source(row) for row in hit.all_rows}
        self.logits: Any = None
        self.n_bytes = 0
        self.tiers: set[Tier] = set()

    def fill(self, target: Target) -> None:
        """Read everything into `target`; of an exact hit, the logits into `logits`.

        Raises:
            Unreadable: a row is missing or damaged; `target` must not be used.
        """
        for row, start, n in self._hit.parts():
            self._timed(row, lambda row=row, start=start, n=n: self._rows(row, start, n, target))
        if self._hit.snapshot is not None:
            snapshot = self._hit.snapshot
            self._timed(snapshot, lambda: self._snapshot(snapshot, target))

    def _timed(self, row: Row, read: Any) -> None:
        source = self._sources[row]
        started = time.perf_counter()
        try:
            read()
        except (BadRow, ValueError, BufferError) as bad:
            raise Unreadable(row, source.tier, missing=False) from bad
        except OSError as gone:
            raise Unreadable(row, source.tier, missing=True) from gone
        size = row.size
        self.n_bytes += size
        self.tiers.add(source.tier)
        self._board.note_read(source.tier, size, time.perf_counter() - started)

    def _rows(self, row: Row, start: int, n: int, target: Target) -> None:
        source = self._sources[row]
        logits = self._logits_buffer(row)
        if source.parts is not None:
            target.put_rows(start, source.parts[0], row.n_tokens, n)
            if logits is not None:
                self.logits = source.parts[1]
            return
        segments = target.segments(start, start + n) if n == row.n_tokens else None
        rest = [memoryview(logits)] if logits is not None else []
        if segments is not None:
            self._read(source, [*segments, *rest])
        else:
            rows = bytearray(self._payload(row) - self._logits_size(row))
            self._read(source, [memoryview(rows), *rest])
            target.put_rows(start, rows, row.n_tokens, n)
        if logits is not None:
            self.logits = logits

    def _snapshot(self, row: Row, target: Target) -> None:
        source = self._sources[row]
        logits = self._logits_buffer(row)
        if source.parts is not None:
            target.put_snapshot(source.parts[0])
            if logits is not None:
                self.logits = source.parts[1]
            return
        state = bytearray(self._payload(row) - self._logits_size(row))
        rest = [memoryview(logits)] if logits is not None else []
        self._read(source, [memoryview(state), *rest])
        target.put_snapshot(state)
        if logits is not None:
            self.logits = logits

    def _source(self, row: Row) -> _Source:
        parts = self._board.ram.get(row.id)
        if parts is not None:
            return _Source(row, "ram", parts)
        on_files: list[Tier] = [tier for tier in row.tiers if tier != "ram"]
        return _Source(row, on_files[0] if on_files else "disk", None)

    def _read(self, source: _Source, segments: list[memoryview]) -> None:
        self._files(source.tier).read(source.row.id, segments)

    def _files(self, tier: Tier) -> RowFiles:
        files = self._board.files.get(tier)
        if files is None:
            raise FileNotFoundError(f"tier {tier} is not open")
        return files

    def _logits_size(self, row: Row) -> int:
        return self._logits_bytes if row.has_logits else 0

    def _logits_buffer(self, row: Row) -> bytearray | None:
        return bytearray(self._logits_bytes) if row.has_logits else None

    def _payload(self, row: Row) -> int:
        """Bytes of a row's payload in a file."""
        return self._files(self._sources[row].tier).payload_bytes(row.id)
