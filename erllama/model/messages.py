"""What a model actor is sent."""

from __future__ import annotations

import array
from collections.abc import Sequence
from dataclasses import dataclass

from erllama.backend.base import Buffer, EmbedOutcome, SavedState, StepOutcome
from erllama.cache.lookup import Hit
from erllama.cache.policy import Reason, Span
from erllama.cache.reader import Reader
from erllama.model.embed_job import EmbedJob, Vector
from erllama.model.generation import Restored
from erllama.model.job import Job
from erllama.model.scheduler import Entry
from erllama.model.scope import Scope


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
    """Urgent: the lane is through with a step; `following` is the one that it went on with."""

    outcome: StepOutcome | None
    error: BaseException | None
    following: int | None = None


@dataclass(frozen=True, slots=True)
class StepTooLong:
    """Urgent: a step has had all the time that it may take."""

    number: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Urgent: a step that was aborted for its length has had time to come back."""

    number: int


@dataclass(frozen=True, slots=True)
class LookAtErrands:
    """Urgent: see whether the lane is at one thing between steps for too long."""


@dataclass(frozen=True, slots=True)
class ErrandGiveUp:
    """Urgent: what took too long between steps has had time to come back."""

    number: int


@dataclass(frozen=True, slots=True)
class LaneBack:
    """Urgent: the lane was given up and works again."""


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """Urgent: the engine has a fresh context, or not."""

    error: BaseException | None


@dataclass(frozen=True, slots=True)
class QueuedTooLong:
    """Urgent: a request has waited for a sequence as long as it may."""

    job: Job


@dataclass(frozen=True, slots=True)
class ReaderCaughtUp:
    """Urgent: the reader of a paused request has made room."""

    job: Job


@dataclass(frozen=True, slots=True)
class ReaderStalls:
    """Urgent: the reader of a paused request has not made room for long."""

    job: Job


@dataclass(frozen=True, slots=True)
class SpillDone:
    """Urgent: the lane has taken the state of a request off its sequence, or not."""

    job: Job
    entry: Entry
    saved: SavedState | None
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class Unspilled:
    """Tag of the background task that makes a spilled state ready to be put back."""

    job: Job
    entry: Entry


@dataclass(frozen=True, slots=True)
class PutBack:
    """Urgent: the lane has put a spilled state on a sequence, or not."""

    job: Job
    entry: Entry
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class SessionsIdle:
    """Urgent: a session that is idle since then is so for too long."""

    since: float


@dataclass(frozen=True, slots=True)
class EndSession:
    """Call: forget a session, and what it holds."""

    session_id: str


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
    """Call: answered once what was running is over, and in the cache."""


@dataclass(frozen=True, slots=True)
class RowsRead:
    """Tag of the background task that reads the rows of a hit."""

    job: Job
    entry: Entry
    hit: Hit
    reader: Reader
    since: float


@dataclass(frozen=True, slots=True)
class RestoreDone:
    """Urgent: the lane has put a state into the sequence, or not."""

    job: Job
    entry: Entry
    start: Restored
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class Saving:
    """Rows that are being taken out of a sequence, and on their way into the cache."""

    number: int
    tokens: array.array[int]
    spans: tuple[Span, ...]
    pure_end: int
    scope: Scope
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


@dataclass(frozen=True, slots=True)
class Embed:
    """Call: answered with a vector for each input."""

    job: EmbedJob


@dataclass(frozen=True, slots=True)
class EmbedCancel:
    """Urgent: nobody waits for these vectors any more."""

    job: EmbedJob


@dataclass(frozen=True, slots=True)
class EmbedTokenized:
    """Tag of the background task that tokenizes and checks inputs."""

    job: EmbedJob


@dataclass(frozen=True, slots=True)
class EmbedDone:
    """Urgent: the lane is through with a call of `embed`; None where a vector is not finite."""

    result: tuple[EmbedOutcome, list[Vector | None]] | None
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class EmbedTooLong:
    """Urgent: a call of `embed` has had all the time that it may take."""

    number: int


@dataclass(frozen=True, slots=True)
class EmbedGiveUp:
    """Urgent: a call of `embed` that was aborted for its length has had time to come back."""

    number: int


@dataclass(frozen=True, slots=True)
class LoadAdapter:
    """Call: answered with the `Adapter` once it is in force for new requests."""

    path: str
    scale: float


@dataclass(frozen=True, slots=True)
class UnloadAdapter:
    """Call: new requests do without this adapter; it is freed behind those that have it."""

    id: int


@dataclass(frozen=True, slots=True)
class SetAdapterScale:
    """Call: new requests have this adapter so strongly."""

    id: int
    scale: float
