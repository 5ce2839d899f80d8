"""What the actors of the cache tell each other."""

from __future__ import annotations

import pathlib
from typing import Any, Literal

import msgspec

from erllama.cache.policy import Reason
from erllama.cache.reservation import Reservation
from erllama.cache.row import RowId, RowMeta
from erllama.cache.row_store import Found
from erllama.cache.trie import Row, Tier


class NewRow(msgspec.Struct, frozen=True):
    """A row that was just taken out of a sequence: `parts` are its payload, in order."""

    meta: RowMeta
    parts: tuple[Any, ...]

    @property
    def size(self) -> int:
        """Bytes of the payload."""
        return sum(memoryview(part).nbytes for part in self.parts)


class Offer(msgspec.Struct, frozen=True):
    """Call to the arbiter: keep these rows if there is room; answered once that is decided."""

    rows: tuple[NewRow, ...]
    reason: Reason
    tiers: tuple[Tier, ...]
    write_through: bool


class Opened(msgspec.Struct, frozen=True):
    """Urgent to the arbiter: a tier has (re)started and holds exactly these rows."""

    tier: Tier
    found: tuple[Found, ...]
    quarantined: int
    writable: bool


class Bad(msgspec.Struct, frozen=True):
    """Urgent to the arbiter: a row was read back wrong, or was not there."""

    row: Row
    tier: Tier
    missing: bool


class Promote(msgspec.Struct, frozen=True):
    """Urgent to the arbiter: these rows were read from files and are hot."""

    rows: tuple[Row, ...]


class Reserve(msgspec.Struct, frozen=True):
    """Call to the arbiter: the right to write a row into a tier; a `Reservation` or None."""

    row: NewRow
    tier: Tier


class StillWanted(msgspec.Struct, frozen=True):
    """Call to the arbiter: whether the reservation holds."""

    reservation: Reservation


class Written(msgspec.Struct, frozen=True):
    """Call to the arbiter: the row has its name in the tier; `size` 0: it could not be written."""

    reservation: Reservation
    meta: RowMeta
    tier: Tier
    size: int


class Free(msgspec.Struct, frozen=True):
    """Call to the arbiter: evict this many bytes, from these tiers; answered with `Freed`."""

    n_bytes: int
    tiers: tuple[Tier, ...]


class Freed(msgspec.Struct, frozen=True):
    """What was evicted."""

    rows: int
    bytes: int


class Collect(msgspec.Struct, frozen=True):
    """Call to the arbiter: remove rows that nothing can reach; answered with `Freed`."""


class Put(msgspec.Struct, frozen=True):
    """Call to the RAM tier: hold a row."""

    row: RowId
    parts: tuple[Any, ...]


class Drop(msgspec.Struct, frozen=True):
    """Urgent to a tier: delete these rows."""

    rows: tuple[RowId, ...]


class SetAside(msgspec.Struct, frozen=True):
    """Urgent to a tier of files: move a bad row's file out of the way."""

    row: RowId


class Write(msgspec.Struct, frozen=True):
    """Cast to the writers: publish a row in a tier of files."""

    row: NewRow
    tier: Tier


class Drain(msgspec.Struct, frozen=True):
    """Call to the writers: answered once what was queued before is written, or was dropped."""


class TierPlace(msgspec.Struct, frozen=True):
    """Where a tier of files lies, how much it may hold, and how it is opened."""

    tier: Tier
    root: pathlib.Path
    quota: int
    read_only: bool = False
    if_locked: Literal["refuse", "read_only"] = "refuse"
