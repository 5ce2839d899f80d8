"""Embedding: the calls of a model's actor that make vectors.

Contract
    State     `_jobs` holds the callers that wait, in the order of their turns; `_call` what is on
              its way to the lane and back, of one call at a time.
    Writer    the model's actor.
    Turns     a call and a step are never on their way together. While both are wanted they take
              turns, and a call is no longer than the pause that running streams may have.
    Watch     a call that takes longer than its bound is aborted by flag, and its callers are told;
              one that does not obey within a grace is given up, as a step is.
"""

from __future__ import annotations

import array
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from erllama.actor import ReplyTo
from erllama.backend.base import EmbedCapabilities, EmbedOutcome, EmbedPlan, Engine
from erllama.backend.workers import Workers
from erllama.clock import Clock, Timer
from erllama.config import ContextConfig
from erllama.errors import DecodeFailed, EngineStuck, NotSupported, QueueFull
from erllama.model.embed_job import EmbedJob, Portion, Vector, check_embeddable, pack, vector_of
from erllama.model.engine_owner import EngineOwner
from erllama.model.gauges import Gauges
from erllama.model.messages import (
    EmbedCancel,
    EmbedDone,
    EmbedGiveUp,
    EmbedTokenized,
    EmbedTooLong,
)
from erllama.model.slicing import rows_within
from erllama.model.stepper import GRACE_S

SHORT = 1_024
"""Characters and tokens that are looked through on the event loop."""


@dataclass(slots=True)
class _Call:
    number: int
    portion: Portion
    watch: Timer | None = None
    stuck: bool = False

    @property
    def jobs(self) -> list[EmbedJob]:
        """Each once."""
        return list(dict.fromkeys(share.job for share in self.portion.shares))


class Embeddings:
    """See the module.

    Args:
        urgent: sends a message to the actor itself.
        spawn: starts a background task of the actor.
    """

    def __init__(
        self,
        *,
        owner: EngineOwner,
        engine: Engine,
        context: ContextConfig,
        workers: Workers,
        gauges: Gauges,
        clock: Clock,
        urgent: Callable[[object], bool],
        spawn: Callable[[Coroutine[Any, Any, Any], object], object],
    ) -> None:
        self._owner = owner
        self._engine = engine
        self._context = context
        self._workers = workers
        self._gauges = gauges
        self._clock = clock
        self._urgent = urgent
        self._spawn = spawn
        self._jobs: deque[EmbedJob] = deque()
        self._call: _Call | None = None
        self._numbers = 0
        self._rate = 0.0
        self.turn = True

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def busy(self) -> bool:
        """Whether anything is to be embedded, or is on its way."""
        return bool(self._jobs) or self._call is not None

    @property
    def on_the_lane(self) -> bool:
        """Whether a call has not come back."""
        return self._call is not None

    @property
    def ready(self) -> bool:
        """Whether a call could be made."""
        return self._call is None and any(job.left for job in self._jobs)

    @property
    def _can(self) -> EmbedCapabilities:
        can = self._engine.capabilities.embed
        if can is None:
            raise NotSupported(
                f"model {self._gauges.id!r} cannot embed; load it with embeddings=True"
            )
        return can

    @property
    def jobs(self) -> tuple[EmbedJob, ...]:
        """Those that wait for vectors."""
        return tuple(self._jobs)

    # Coming and going

    def take(self, job: EmbedJob, reply: ReplyTo) -> None:
        """Queue inputs.

        Raises:
            NotSupported: the model cannot embed.
            QueueFull: too many callers wait.
            RequestError: an input that the model cannot take.
        """
        can = self._can
        if len(self._jobs) >= self._context.max_queue:
            raise QueueFull(
                f"model {self._gauges.id!r}: {len(self._jobs)} calls of embed wait already; try "
                "again later, give several inputs in one call, or raise max_queue",
                retry_after=1.0,
            )
        if job.size <= SHORT:
            job.tokens = self._tokenize(job, can)
        else:
            work = self._workers.run(lambda: self._tokenize(job, can))
            self._spawn(work, EmbedTokenized(job))
        job.reply = reply
        self._jobs.append(job)
        reply.on_abandon(lambda: self._urgent(EmbedCancel(job)))

    def tokenized(
        self, job: EmbedJob, tokens: list[array.array[int]] | None, error: BaseException | None
    ) -> None:
        """The inputs of a job were tokenized and checked, or not."""
        job.tokens = tokens
        if error is not None:
            self._fail(job, error)

    def cancel(self, job: EmbedJob) -> None:
        """Nobody waits for a job any more; a call that is its alone is cut short."""
        self._drop(job)
        call = self._call
        if call is not None and not any(one in self._jobs for one in call.jobs):
            self._abort(call)

    def fail_all(self, error: BaseException) -> None:
        """Answer everybody; what is on its way is cut short."""
        for job in list(self._jobs):
            self._fail(job, error)
        if self._call is not None:
            self._stop_watch(self._call)
            self._abort(self._call)

    def _tokenize(self, job: EmbedJob, can: EmbedCapabilities) -> list[array.array[int]]:
        tokens = [
            self._engine.tokenize(prompt, add_special=True, parse_special=True)
            if isinstance(prompt, str)
            else prompt
            for prompt in job.prompts
        ]
        check_embeddable(tokens, n_vocab=self._engine.info.n_vocab, n_input=can.n_input)
        return tokens

    # Calls

    def start(self, *, shared: bool) -> None:
        """Make the next call. Its outcome comes as `EmbedDone`.

        Args:
            shared: others want the lane too: no more than fits the pause that they may have.
        """
        can, granule = self._can, self._engine.capabilities.granule
        limit = can.n_rows
        if shared:
            stall_s = self._context.decode_stall_ms / 1e3
            limit = min(limit, rows_within(stall_s, self._rate, granule))
        portion = pack([job for job in self._jobs if job.left], can, limit, granule)
        self._numbers += 1
        call = self._call = _Call(self._numbers, portion)
        self._jobs.remove(portion.shares[0].job)
        self._jobs.append(portion.shares[0].job)  # the next call begins with somebody else
        self._submit(call, normalizes=can.pooling != "rank")

    def done(self, outcome: EmbedOutcome, vectors: list[Vector | None]) -> None:
        """Take in a call that came back."""
        call = self._finish()
        if call.stuck:
            self._fail_call(call, self._too_long_error())
        elif outcome.status == "done":
            self._take_in(call, outcome, vectors)
        elif outcome.status == "aborted":
            for job in call.jobs:
                job.position = 0
        else:
            self._fail_call(call, DecodeFailed(outcome.detail))

    def failed(self, error: BaseException) -> None:
        """A call was refused: it is over for those that were in it."""
        self._fail_call(self._finish(), error)

    def _submit(self, call: _Call, *, normalizes: bool) -> None:
        portion = call.portion
        plan = EmbedPlan(
            number=call.number,
            inputs=tuple(share.tokens for share in portion.shares),
            pos=portion.pos,
            more=portion.more,
            adapters=portion.shares[0].job.adapters,
        )
        normalize = [share.job.normalize and normalizes for share in portion.shares]

        def work(engine: Engine) -> tuple[EmbedOutcome, list[Vector | None]]:
            outcome = engine.embed(plan)
            pairs = zip(outcome.vectors, normalize, strict=False)
            return outcome, [vector_of(vector, normalize=wish) for vector, wish in pairs]

        self._owner.run(
            work, lambda said, error: self._urgent(EmbedDone(said, error)), what="embed"
        )
        self.turn = False
        self._gauges.step_since = self._clock.now()
        self._watch(call)

    def _take_in(self, call: _Call, outcome: EmbedOutcome, vectors: list[Vector | None]) -> None:
        portion = call.portion
        rows = sum(len(share.tokens) for share in portion.shares)
        if outcome.elapsed_ns:
            self._rate = rows / (outcome.elapsed_ns / 1e9)
        if portion.more:
            portion.shares[0].job.position += rows
            return
        for share, vector in zip(portion.shares, vectors, strict=True):
            self._answer(share.job, vector)

    def _answer(self, job: EmbedJob, vector: Vector | None) -> None:
        """One more input has its vector; with the last one its caller is answered."""
        if job not in self._jobs:
            return
        if vector is None:
            self._fail(job, DecodeFailed("the vector is not finite: the weights are damaged"))
            return
        job.vectors.append(vector)
        job.position = 0
        if job.tokens is not None and len(job.vectors) == len(job.tokens):
            self._drop(job)
            if job.reply is not None:
                job.reply.send(job.vectors)

    def _finish(self) -> _Call:
        call = self._call
        if call is None:
            raise RuntimeError("a call of embed came back that was not on its way")
        self._call = self._gauges.step_since = None
        self._stop_watch(call)
        return call

    def _fail_call(self, call: _Call, error: BaseException) -> None:
        for job in call.jobs:
            self._fail(job, error)

    def _fail(self, job: EmbedJob, error: BaseException) -> None:
        if self._drop(job) and job.reply is not None:
            job.reply.fail(error)

    def _drop(self, job: EmbedJob) -> bool:
        if job not in self._jobs:
            return False
        self._jobs.remove(job)
        return True

    # The watch

    def too_long(self, number: int) -> None:
        """A bound has passed: abort the call if it is still the same one."""
        call = self._call
        if call is None or call.number != number:
            return
        if self._owner.at != "embed":  # it waits for the lane; what is there has a watch
            self._watch(call)
            return
        call.stuck = True
        self._abort(call)
        call.watch = self._clock.call_later(GRACE_S, lambda: self._urgent(EmbedGiveUp(number)))

    def is_lost(self, number: int) -> bool:
        """Whether an aborted call has not come back."""
        return self._call is not None and self._call.number == number

    def _watch(self, call: _Call) -> None:
        call.watch = self._clock.call_later(
            self._context.step_timeout_s, lambda: self._urgent(EmbedTooLong(call.number))
        )

    @staticmethod
    def _stop_watch(call: _Call) -> None:
        if call.watch is not None:
            call.watch.cancel()

    def _abort(self, call: _Call) -> None:
        if self._can.abort:
            self._engine.abort_embed(call.number)

    def _too_long_error(self) -> EngineStuck:
        return EngineStuck(
            f"model {self._gauges.id!r}: a call of embed took longer than step_timeout_s "
            f"({self._context.step_timeout_s:g} s) and was aborted; raise it, or lower n_ubatch"
        )
