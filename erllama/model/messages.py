"""What a model actor is sent."""

from __future__ import annotations

import array
from collections.abc import Sequence
from dataclasses import dataclass

from erllama.backend.base import Buffer, SavedState, StepOutcome
from erllama.cache.lookup import Hit
from erllama.cache.policy import Reason, Span
from erllama.cache.reader import Reader
from erllama.model.generation import Restored
from erllama.model.job import Job


@dataclass(frozen=True, slots=True)
class Submit:
    """Call: carry out a request; answered with its `Completion` when it is over."""

    job: Job


@dataclass(frozen=True, slots=True)
class Cancel:
    """Urgent: end a request now, with what it has."""

    job: Job


@dataclass(frozen=True, slots=True)
class Expire:
    """Urgent: the time of a request is over."""

    job: Job


@dataclass(frozen=True, slots=True)
class StepDone:
    """Urgent: the lane is through with a step."""

    outcome: StepOutcome | None
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class AwaitReady:
    """Call: answered with the `ModelInfo` once the model is loaded."""


@dataclass(frozen=True, slots=True)
class Tokenize:
    """Call: answered with token ids."""

    text: str
    add_special: bool
    parse_special: bool


@dataclass(frozen=True, slots=True)
class Detokenize:
    """Call: answered with text."""

    tokens: Sequence[int]


@dataclass(frozen=True, slots=True)
class CachedPrefix:
    """Call: answered with how many of the tokens are in the cache."""

    tokens: array.array[int]


@dataclass(frozen=True, slots=True)
class Evict:
    """Call: answered once everything that was computed is in the cache."""


@dataclass(frozen=True, slots=True)
class RowsRead:
    """Tag of the background task that reads the rows of a hit."""

    job: Job
    hit: Hit
    reader: Reader
    since: float


@dataclass(frozen=True, slots=True)
class RestoreDone:
    """Urgent: the lane has put a state into the sequence, or not."""

    job: Job
    start: Restored
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class Saving:
    """Rows that are being taken out of the sequence, and on their way into the cache."""

    number: int
    tokens: list[int]
    spans: tuple[Span, ...]
    pure_end: int
    salt: str
    reason: Reason
    logits: Buffer | None


@dataclass(frozen=True, slots=True)
class SaveDone:
    """Urgent: the lane has taken rows out of the sequence."""

    saving: Saving
    saved: SavedState | None
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class Kept:
    """Tag of the background task that hands rows to the arbiter."""

    number: int


@dataclass(frozen=True, slots=True)
class WaitedEnough:
    """Urgent: a request has waited for rows being saved as long as its policy allows."""

    job: Job


@dataclass(frozen=True, slots=True)
class Tokenized:
    """Tag of the background task that tokenizes a prompt."""

    job: Job
