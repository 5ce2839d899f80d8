"""What a model actor is sent."""

from __future__ import annotations

import array
from collections.abc import Sequence

import msgspec

from erllama.backend.base import Buffer, EmbedOutcome, SavedState, StepOutcome
from erllama.cache.lineage import Lineage
from erllama.cache.policy import Reason, Span
from erllama.cache.query import Hit
from erllama.cache.reader import Reader
from erllama.model.embed_job import EmbedJob, Vector
from erllama.model.generation import Restored
from erllama.model.job import Job
from erllama.model.scheduler import Entry
from erllama.model.scope import Scope


class Submit(msgspec.Struct, frozen=True):
    """Call: carry out a request; answered with its `Completion` when it is over."""

    job: Job


class Cancel(msgspec.Struct, frozen=True):
    """Urgent: end a request now, with what it has."""

    job: Job


class Expire(msgspec.Struct, frozen=True):
    """Urgent: the time of a request is over."""

    job: Job


class StepDone(msgspec.Struct, frozen=True):
    """Urgent: the lane is through with a step.

    Attributes:
        following: the step that it went on with.
        taken: the requests and their readers have its tokens already.
    """

    outcome: StepOutcome | None
    error: BaseException | None
    following: int | None = None
    taken: bool = False


class StepTooLong(msgspec.Struct, frozen=True):
    """Urgent: a step has had all the time that it may take."""

    number: int


class GiveUp(msgspec.Struct, frozen=True):
    """Urgent: a step that was aborted for its length has had time to come back."""

    number: int


class CompanyIsLate(msgspec.Struct, frozen=True):
    """Urgent: a request has waited long enough for others to share a step with."""

    job: Job


class Gathered(msgspec.Struct, frozen=True):
    """Urgent: the requests that came together have been taken in."""


class LookAtErrands(msgspec.Struct, frozen=True):
    """Urgent: see whether the lane is at one thing between steps for too long."""


class ErrandGiveUp(msgspec.Struct, frozen=True):
    """Urgent: what took too long between steps has had time to come back."""

    number: int


class LaneBack(msgspec.Struct, frozen=True):
    """Urgent: the lane was given up and works again."""


class Rebuilt(msgspec.Struct, frozen=True):
    """Urgent: the engine has a fresh context, or not."""

    error: BaseException | None


class QueuedTooLong(msgspec.Struct, frozen=True):
    """Urgent: a request has waited for a sequence as long as it may."""

    job: Job


class ReaderCaughtUp(msgspec.Struct, frozen=True):
    """Urgent: the reader of a paused request has made room."""

    job: Job


class ReaderStalls(msgspec.Struct, frozen=True):
    """Urgent: the reader of a paused request has not made room for long."""

    job: Job


class SpillDone(msgspec.Struct, frozen=True):
    """Urgent: the lane has taken the state of a request off its sequence, or not."""

    job: Job
    entry: Entry
    saved: SavedState | None
    error: BaseException | None


class Unspilled(msgspec.Struct, frozen=True):
    """Tag of the background task that makes a spilled state ready to be put back."""

    job: Job
    entry: Entry


class PutBack(msgspec.Struct, frozen=True):
    """Urgent: the lane has put a spilled state on a sequence, or not."""

    job: Job
    entry: Entry
    error: BaseException | None


class SessionsIdle(msgspec.Struct, frozen=True):
    """Urgent: a session that is idle since then is so for too long."""

    since: float


class EndSession(msgspec.Struct, frozen=True):
    """Call: forget a session, and what it holds."""

    session_id: str


class AwaitReady(msgspec.Struct, frozen=True):
    """Call: answered with the `ModelInfo` once the model is loaded."""


class Tokenize(msgspec.Struct, frozen=True):
    """Call: answered with token ids."""

    text: str
    add_special: bool
    parse_special: bool


class Detokenize(msgspec.Struct, frozen=True):
    """Call: answered with text."""

    tokens: Sequence[int]


class CachedPrefix(msgspec.Struct, frozen=True):
    """Call: answered with how many of the tokens are in the cache."""

    tokens: array.array[int]


class Evict(msgspec.Struct, frozen=True):
    """Call: answered once what was running is over, and in the cache."""


class RowsRead(msgspec.Struct, frozen=True):
    """Tag of the background task that reads the rows of a hit."""

    job: Job
    entry: Entry
    hit: Hit
    reader: Reader
    since: float


class RestoreDone(msgspec.Struct, frozen=True):
    """Urgent: the lane has put a state into the sequence, or not."""

    job: Job
    entry: Entry
    start: Restored
    error: BaseException | None


class Saving(msgspec.Struct, frozen=True):
    """Rows that are being taken out of a sequence, and on their way into the cache."""

    number: int
    tokens: array.array[int]
    spans: tuple[Span, ...]
    lineage: Lineage
    scope: Scope
    reason: Reason
    logits: Buffer | None


class SaveDone(msgspec.Struct, frozen=True):
    """Urgent: the lane has taken rows out of the sequence."""

    saving: Saving
    saved: SavedState | None
    error: BaseException | None


class Kept(msgspec.Struct, frozen=True):
    """Tag of the background task that hands rows to the arbiter."""

    number: int


class WaitedEnough(msgspec.Struct, frozen=True):
    """Urgent: a request has waited for rows being saved as long as its policy allows."""

    job: Job


class Tokenized(msgspec.Struct, frozen=True):
    """Tag of the background task that tokenizes a prompt."""

    job: Job


class Embed(msgspec.Struct, frozen=True):
    """Call: answered with a vector for each input."""

    job: EmbedJob


class EmbedCancel(msgspec.Struct, frozen=True):
    """Urgent: nobody waits for these vectors any more."""

    job: EmbedJob


class EmbedTokenized(msgspec.Struct, frozen=True):
    """Tag of the background task that tokenizes and checks inputs."""

    job: EmbedJob


class EmbedDone(msgspec.Struct, frozen=True):
    """Urgent: the lane is through with a call of `embed`; None where a vector is not finite."""

    result: tuple[EmbedOutcome, list[Vector | None]] | None
    error: BaseException | None


class EmbedTooLong(msgspec.Struct, frozen=True):
    """Urgent: a call of `embed` has had all the time that it may take."""

    number: int


class EmbedGiveUp(msgspec.Struct, frozen=True):
    """Urgent: a call of `embed` that was aborted for its length has had time to come back."""

    number: int


class LoadAdapter(msgspec.Struct, frozen=True):
    """Call: answered with the `Adapter` once it is in force for new requests."""

    path: str
    scale: float


class UnloadAdapter(msgspec.Struct, frozen=True):
    """Call: new requests do without this adapter; it is freed behind those that have it."""

    id: int


class SetAdapterScale(msgspec.Struct, frozen=True):
    """Call: new requests have this adapter so strongly."""

    id: int
    scale: float
