"""What the actors of the cache tell each other."""

from __future__ import annotations

import pathlib
from dataclasses import dataclass
from typing import Any, Literal

from erllama.cache.files import Found
from erllama.cache.policy import Reason
from erllama.cache.reservation import Reservation
from erllama.cache.row import RowId, RowMeta
from erllama.cache.trie import Row, Tier


@dataclass(frozen=True, slots=True)
class NewRow:
    """A row that was just taken out of a sequence: `parts` are its payload, in order."""

    meta: RowMeta
    parts: tuple[Any, ...]

    @property
    def size(self) -> int:
        """Bytes of the payload."""
        return sum(memoryview(part).nbytes for part in self.parts)


@dataclass(frozen=True, slots=True)
class Offer:
    """Call to the arbiter: keep these rows if there is room; answered once that is decided."""

    rows: tuple[NewRow, ...]
    reason: Reason
    tiers: tuple[Tier, ...]
    write_through: bool


@dataclass(frozen=True, slots=True)
class Opened:
    """Urgent to the arbiter: a tier has (re)started and holds exactly these rows."""

    tier: Tier
    found: tuple[Found, ...]
    quarantined: int
    writable: bool


@dataclass(frozen=True, slots=True)
class Bad:
    """Urgent to the arbiter: a row was read back wrong, or was not there."""

    row: Row
    tier: Tier
    missing: bool


@dataclass(frozen=True, slots=True)
class Promote:
    """Urgent to the arbiter: these rows were read from files and are hot."""

    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Reserve:
    """Call to the arbiter: the right to write a row into a tier; a `Reservation` or None."""

    row: NewRow
    tier: Tier


@dataclass(frozen=True, slots=True)
class StillWanted:
    """Call to the arbiter: whether the reservation holds."""

    reservation: Reservation


@dataclass(frozen=True, slots=True)
class Written:
    """Call to the arbiter: the row has its name in the tier; `size` 0: it could not be written."""

    reservation: Reservation
    meta: RowMeta
    tier: Tier
    size: int


@dataclass(frozen=True, slots=True)
class Free:
    """Call to the arbiter: evict this many bytes, from these tiers; answered with `Freed`."""

    n_bytes: int
    tiers: tuple[Tier, ...]


@dataclass(frozen=True, slots=True)
class Freed:
    """What was evicted."""

    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Collect:
    """Call to the arbiter: remove rows that nothing can reach; answered with `Freed`."""


@dataclass(frozen=True, slots=True)
class Put:
    """Call to the RAM tier: hold a row."""

    row: RowId
    parts: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Drop:
    """Urgent to a tier: delete these rows."""

    rows: tuple[RowId, ...]


@dataclass(frozen=True, slots=True)
class SetAside:
    """Urgent to a tier of files: move a bad row's file out of the way."""

    row: RowId


@dataclass(frozen=True, slots=True)
class Write:
    """Cast to the writers: publish a row in a tier of files."""

    row: NewRow
    tier: Tier


@dataclass(frozen=True, slots=True)
class Drain:
    """Call to the writers: answered once everything that was queued before is written."""


@dataclass(frozen=True, slots=True)
class TierPlace:
    """Where a tier of files lies, how much it may hold, and how it is opened."""

    tier: Tier
    root: pathlib.Path
    quota: int
    read_only: bool = False
    if_locked: Literal["refuse", "read_only"] = "refuse"
