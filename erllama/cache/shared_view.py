"""What the cache shows without being asked: read by models on every lookup, with no await.

Contract
    Writers   `index`, `counters`: the arbiter alone. `ram`: the RAM tier alone. `files`: the tier
              of that name alone. A part whose actor restarts is replaced, never emptied: whoever
              holds the old one keeps what it found there. `pending`: the models, each its own.
"""

from __future__ import annotations

from typing import Any

import msgspec

from erllama.cache.index import CacheIndex
from erllama.cache.pending_saves import PendingSaves
from erllama.cache.row import RowId
from erllama.cache.row_store import RowStore
from erllama.cache.trie import TIERS, Tier


class CacheCounters(msgspec.Struct, frozen=True, kw_only=True):
    """Counts since the runtime started, and bytes now.

    Attributes:
        hits_exact, hits_partial, hits_resume, misses: lookups by what came of them.
        saves_cold, saves_continued, saves_finish, saves_evict, saves_shutdown: rows by reason.
        saves_dropped: rows that were not kept because the writers were busy or nothing had room.
        write_errors: rows that could not be written.
        read_timeouts, write_timeouts: rows that a file system took too long to read or write; what
            needed them was computed instead, or is kept in memory only.
        evictions: rows that made room for others.
        corrupt_rows: rows that were read back wrong and moved aside.
        restored_bytes, restore_total_ns: read back, from asking to having it in a state.
        save_total_ns: how long taking rows out of states held the lane.
        ram_bytes, ram_file_bytes, disk_bytes, rows: what is held.
    """

    hits_exact: int = 0
    hits_partial: int = 0
    hits_resume: int = 0
    misses: int = 0
    saves_cold: int = 0
    saves_continued: int = 0
    saves_finish: int = 0
    saves_evict: int = 0
    saves_shutdown: int = 0
    saves_dropped: int = 0
    write_errors: int = 0
    read_timeouts: int = 0
    write_timeouts: int = 0
    evictions: int = 0
    corrupt_rows: int = 0
    restored_bytes: int = 0
    restore_total_ns: int = 0
    save_total_ns: int = 0
    ram_bytes: int = 0
    ram_file_bytes: int = 0
    disk_bytes: int = 0
    rows: int = 0


class Counts:
    """The counters while they count."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = dict.fromkeys(CacheCounters.__struct_fields__, 0)

    def add(self, name: str, n: int = 1) -> None:
        """Raise a counter, which `CacheCounters` has by this name."""
        self._counts[name] += n

    def snapshot(self, index: CacheIndex) -> CacheCounters:
        """A frozen copy, with what the index holds."""
        held = {f"{tier}_bytes": index.bytes(tier) for tier in TIERS}
        return CacheCounters(**(self._counts | held | {"rows": len(index)}))


_FADING = 1.25
"""A tier that seems ten times too slow is tried again at the eleventh chance."""


class CacheView:
    """See the module."""

    def __init__(self) -> None:
        self.index = CacheIndex()
        self.counts = Counts()
        self.ram: dict[RowId, tuple[Any, ...]] = {}
        self.files: dict[Tier, RowStore] = {}
        self.pending = PendingSaves()
        self.bytes_per_s: dict[Tier, float] = dict.fromkeys(TIERS, 0.0)

    def note_read(self, tier: Tier, n_bytes: int, seconds: float) -> None:
        """Keep a moving average of how fast a tier is read."""
        if seconds > 0 and n_bytes >= 1 << 16:
            rate = n_bytes / seconds
            old = self.bytes_per_s[tier]
            self.bytes_per_s[tier] = rate if old == 0 else old + 0.3 * (rate - old)

    def note_not_read(self, tier: Tier) -> None:
        """It was not read because it seemed too slow: what was measured counts for a bit less.

        Who is not read is not measured. Without this, one read that a busy machine held up could
        keep a tier out of use for good; so it is tried again after a while, the sooner the less
        it was too slow.
        """
        self.bytes_per_s[tier] *= _FADING
