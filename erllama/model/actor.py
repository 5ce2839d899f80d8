"""The model actor: one loaded model, one request computed at a time.

Contract
    State     loading → idle ⇄ running; failed, after too many crashes.
              `_queue` holds requests in order of arrival, `_active` the one being computed.
    Writers   this actor's task alone. The lane reports through `StepDone` messages.
    Invariant at most one step is on its way (`_step` is its number, else None); a job is in the
              queue, active, or answered. Between two steps the mailbox is served: cancel, status
              and new requests never wait longer than one step, and a running step is cut short
              for a cancel.

A tick is one message: `StepDone` → apply the outcome → plan the next step → submit it.
"""

from __future__ import annotations

import array
import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from erllama.actor import (
    DEFERRED,
    POSTPONE,
    Call,
    Event,
    ReplyTo,
    StateMachine,
    TaskDone,
    Urgent,
)
from erllama.actor.intensity import Intensity
from erllama.backend.base import Backend, Engine, FingerprintMemory, Frame, StepOutcome
from erllama.backend.lane import Lane
from erllama.backend.workers import Workers
from erllama.cache.board import Board
from erllama.cache.peers import Peers
from erllama.cache.policy import CachePolicy
from erllama.config import ContextConfig, ModelConfig
from erllama.errors import (
    DecodeFailed,
    EngineCrashed,
    EngineError,
    ErllamaError,
    ModelNotFound,
    NotSupported,
    QueueFull,
)
from erllama.model.cache_work import CacheWork
from erllama.model.caching import ModelCache
from erllama.model.engine_owner import EngineOwner
from erllama.model.gauges import Gauges
from erllama.model.generation import NOTHING, Generation, Restored
from erllama.model.info import model_info
from erllama.model.job import Job
from erllama.model.messages import (
    AwaitReady,
    CachedPrefix,
    Cancel,
    Detokenize,
    Evict,
    Expire,
    Kept,
    RestoreDone,
    RowsRead,
    SaveDone,
    StepDone,
    Submit,
    Tokenize,
    Tokenized,
    WaitedEnough,
)
from erllama.model.request import check_tokens
from erllama.model.slicing import rows_within
from erllama.types import Done, Phase

T = TypeVar("T")

SHORT_TEXT = 1_024
"""Characters that are tokenized on the event loop: less than half a millisecond."""

CONTENDED_SLICE_S = 0.1
"""How long a prompt slice may keep the lane while other models compute too."""

_SEQ = 0


@dataclass(slots=True)
class ModelSpec:
    """What it takes to start a model's actor, again and again."""

    id: str
    path: str
    backend: Callable[[], Backend]
    model: ModelConfig
    context: ContextConfig
    lane: Lane
    workers: Workers
    readers: Workers
    memory: FingerprintMemory
    board: Board
    peers: Peers
    policy: CachePolicy
    gauges: Gauges
    crashes: Intensity
    starts: int = field(default=0)

    def build(self) -> ModelActor:
        """A new actor, as a supervisor's child."""
        return ModelActor(self)


class ModelActor(StateMachine):
    """See the module."""

    initial_state: ClassVar[str] = "loading"

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._gauges = spec.gauges
        self._owner = EngineOwner(
            lane=spec.lane,
            workers=spec.workers,
            memory=spec.memory,
            on_progress=self._note_progress,
        )
        self._engine: Engine | None = None
        self._ready: list[ReplyTo] = []
        self._queue: deque[Job] = deque()
        self._active: Job | None = None
        self._restoring = False
        self._work: CacheWork | None = None
        self._evictions: list[ReplyTo] = []
        self._step: int | None = None
        self._steps = 0

    async def init(self) -> None:
        spec = self._spec
        spec.starts += 1
        first = spec.starts == 1
        if not first:
            self._gauges.restarts += 1
            if not spec.crashes.allows(self.clock.now()):
                await self.goto("failed")
                return
        self._set_phase("loading")
        self.spawn_task(
            self._owner.open(spec.backend, spec.path, spec.model, spec.context), then="load"
        )

    async def terminate(self, reason: object) -> None:
        self._set_phase("stopping")
        if self._step is not None and self._engine is not None:
            self._engine.abort(self._step)
        try:
            if reason in ("shutdown", "normal") and self._work is not None:
                await self._work.hand_over()
                active = self._active
                if active is not None and active.generation is not None:
                    await self._work.save_last(active, active.generation)
        finally:  # also when there is no time left for that
            for job in self._jobs():
                self._settle(job, self._parting_error(reason))
            self._gauges.rest()
            freed = self._owner.close()
        await asyncio.wait([freed])

    # States

    async def in_loading(self, event: Event) -> Any:
        match event:
            case TaskDone("load", result, None):
                await self._loaded(*result)
            case TaskDone("load", _, error) if error is not None:
                self._load_failed(error)
            case Call(AwaitReady(), reply):
                self._ready.append(reply)
                return DEFERRED
            case Call(Tokenize() | Detokenize() | Evict() | CachedPrefix()):
                return POSTPONE
            case _:
                return await self._serve(event)
        return None

    async def in_idle(self, event: Event) -> Any:
        return await self._serve(event)

    async def in_running(self, event: Event) -> Any:
        return await self._serve(event)

    async def in_failed(self, event: Event) -> Any:
        if isinstance(event, Call):
            raise EngineCrashed(
                f"model {self._spec.id!r} crashed too often and was given up; see the log for "
                "the reasons, then unload it and load it again"
            )
        return None

    async def on_enter_idle(self) -> None:
        self._set_phase("idle")

    async def on_enter_running(self) -> None:
        self._set_phase("running")

    async def on_enter_failed(self) -> None:
        self._set_phase("failed")

    # Loading

    async def _loaded(self, engine: Engine, fingerprint: str) -> None:
        self._engine = engine
        self._gauges.load_progress = 1.0
        self._work = self._make_work(engine, fingerprint)
        info = model_info(self._spec.id, self._spec.path, fingerprint, engine)
        self._gauges.info = info
        for reply in self._ready:
            reply.send(info)
        self._ready.clear()
        await self.goto("idle")
        for job in list(self._queue):
            self._start_tokenizing(job)
        await self._advance()

    def _load_failed(self, error: BaseException) -> None:
        if self._spec.starts > 1:
            raise error
        for reply in self._ready:
            reply.fail(error)
        self._ready.clear()
        # The first load is the caller's to repeat: the supervisor must not.
        self.stop_self("normal")

    # Serving

    async def _serve(self, event: Event) -> Any:
        match event:
            case Call(Submit(job), reply):
                self._take(job, reply)
            case Urgent(StepDone(outcome, error)):
                self._step_done(outcome, error)
            case Urgent(Cancel(job)):
                job.cancelled = True
                self._end_early(job)
            case Urgent(Expire(job)):
                job.timed_out = True
                self._end_early(job)
            case TaskDone(Tokenized(job), tokens, error):
                self._tokenized(job, tokens, error)
            case TaskDone(RowsRead() as tag, frame, error):
                self._rows_read(tag, frame, error)
            case Urgent(RestoreDone(job, start, error)):
                self._restored(job, start, error)
            case Urgent(SaveDone(saving, saved, error)):
                self._cache_work.save_done(saving, saved, error)
            case TaskDone(Kept(number)):
                self._cache_work.kept(number)
            case Urgent(WaitedEnough(job)):
                job.waited = True
            case Call(Evict(), reply):
                self._evictions.append(reply)
            case Call(CachedPrefix(tokens)):
                hit = self._cache_work.cache.find(tokens, salt="", exact=False, resume=None)
                return hit.tokens if hit is not None else 0
            case Call(Tokenize(text, add_special, parse_special), reply):
                return self._beside(
                    reply,
                    len(text),
                    lambda: list(self._tokenize(text, add_special, parse_special)),
                )
            case Call(Detokenize(tokens), reply):
                return self._beside(
                    reply, len(tokens), lambda: self._loaded_engine.detokenize(tokens)
                )
            case Call(AwaitReady()):
                return self._gauges.info
            case TaskDone():
                return None
            case _:
                raise TypeError(f"a model actor does not understand {event!r}")
        await self._advance()
        return DEFERRED

    def _take(self, job: Job, reply: ReplyTo) -> None:
        """Queue a request, or refuse it."""
        job.reply = reply
        if job.ending:  # a cancellation overtakes the request that it is for
            self._settle(job, None)
            return
        if len(self._queue) >= self._spec.context.max_queue:
            raise QueueFull(
                f"model {self._spec.id!r}: {len(self._queue)} requests wait already; "
                "try again later, or raise max_queue",
                retry_after=round(self._gauges.request_s, 3),
            )
        reply.on_abandon(lambda: self.ref.urgent(Cancel(job)))
        if job.request.timeout is not None:
            left = max(job.asked + job.request.timeout - self.clock.now(), 0.0)
            job.timer = self.clock.call_later(left, lambda: self.ref.urgent(Expire(job)))
        self._queue.append(job)
        if self._engine is not None:
            self._start_tokenizing(job)

    def _start_tokenizing(self, job: Job) -> None:
        text = job.prompt
        if not isinstance(text, str):
            return
        if len(text) > SHORT_TEXT:
            work = self._spec.workers.run(lambda: self._tokenize(text, True, True))
            self.spawn_task(work, then=Tokenized(job))
            return
        try:
            job.tokens = self._tokenize(text, True, True)
        except ErllamaError as error:
            self._queue.remove(job)
            self._settle(job, error)

    def _tokenized(self, job: Job, tokens: array.array[int], error: BaseException | None) -> None:
        job.tokens = tokens
        if error is not None and job in self._queue:
            self._queue.remove(job)
            self._settle(job, error)

    def _tokenize(self, text: str, add_special: bool, parse_special: bool) -> array.array[int]:
        return self._loaded_engine.tokenize(
            text, add_special=add_special, parse_special=parse_special
        )

    def _beside(self, reply: ReplyTo, size: int, work: Callable[[], T]) -> Any:
        """Do a small piece of work now, a large one on a worker."""
        if size <= SHORT_TEXT:
            return work()

        async def answer() -> None:
            try:
                reply.send(await self._spec.workers.run(work))
            except Exception as error:  # whatever it is, somebody waits for an answer
                reply.fail(error)

        self.spawn_task(answer(), then="beside")
        return DEFERRED

    # The tick

    def _step_done(self, outcome: StepOutcome | None, error: BaseException | None) -> None:
        self._step = self._gauges.step_since = None
        job = self._active
        if outcome is None:
            if not isinstance(error, DecodeFailed):
                raise EngineCrashed(f"the engine failed: {error!r}") from error
            if job is not None:
                self._end(job, error)
            return
        if job is None or job.generation is None:
            return
        if job.ending:
            if outcome.status == "done":
                # also the token that was drawn: what the cells hold is then all but the last one
                self._take_in(job, job.generation, outcome)
            else:
                job.generation.position = outcome.positions.get(_SEQ, job.generation.position)
            self._end(job, None)
        elif outcome.status == "done":
            self._apply(job, job.generation, outcome)
        else:
            self._end(job, DecodeFailed(f"the step was {outcome.status}: {outcome.detail}"))

    def _apply(self, job: Job, generation: Generation, outcome: StepOutcome) -> None:
        before = generation.position
        prefilling = generation.prefilling
        self._take_in(job, generation, outcome)
        if prefilling:
            self._gauges.note_prefill(generation.position - before, outcome.elapsed_ns / 1e9)
        else:
            self._gauges.decode_rate = generation.decode_rate
        self._cache_work.after_step(job, generation, outcome.logits)
        if generation.finished is not None:
            self._end(job, None)

    def _take_in(self, job: Job, generation: Generation, outcome: StepOutcome) -> None:
        events = generation.apply(outcome, self.clock.now())
        if job.sink is not None:
            for event in events:
                job.sink.push(event)

    def _end(self, job: Job, error: BaseException | None) -> None:
        """The active request is over: as it was told, by itself, or by an error."""
        if job is self._active:
            self._active = None
            self._restoring = False
            if job.generation is not None:
                self._gauges.note_request(self.clock.now() - job.generation.admitted)
                if error is None:
                    self._cache_work.at_end(job, job.generation, "finish")
        self._settle(job, error)

    def _end_early(self, job: Job) -> None:
        """End a request on somebody's word: at once if it waits, else with the step it is in."""
        if job is self._active:
            if self._step is None:
                self._end(job, None)
            elif self._loaded_engine.capabilities.abort:
                self._loaded_engine.abort(self._step)
        elif job in self._queue:
            self._queue.remove(job)
            self._settle(job, None)

    async def _advance(self) -> None:
        """Start the next step unless one is on its way; with nothing to do, be idle."""
        if self._engine is not None and self._step is None:
            if self._active is None:
                self._admit_next()
            if self._active is not None and not self._restoring:
                self._start_step(self._active)
        if self._evictions and not self._cache_work.busy and self._active is None:
            for reply in self._evictions:
                reply.send(None)
            self._evictions.clear()
        self._gauges.active = int(self._active is not None)
        self._gauges.pending = len(self._queue)
        if self._engine is not None:
            state = "idle" if self._active is None else "running"
            if state != self.state:
                await self.goto(state)

    def _admit_next(self) -> None:
        """Make the first request in the queue the active one, if it is tokenized."""
        while self._queue and self._queue[0].tokens is not None:
            if self._cache_work.must_wait(self._queue[0]):
                return
            job = self._queue.popleft()
            try:
                self._admit(job)
            except ErllamaError as error:
                self._settle(job, error)
            else:
                self._active = job
                return

    def _admit(self, job: Job) -> None:
        engine = self._loaded_engine
        if not engine.capabilities.generate:
            raise NotSupported(
                f"model {self._spec.id!r} cannot generate text (an encoder, or loaded with "
                "vocab_only)"
            )
        tokens = job.tokens or array.array("i")
        check_tokens(tokens, n_vocab=engine.info.n_vocab, n_ctx=engine.capabilities.n_ctx)
        job.admitted = self.clock.now()
        self._restoring = self._cache_work.restore(job, self._gauges.prefill_rate)
        if not self._restoring:
            self._generate(job, NOTHING)

    def _rows_read(self, tag: RowsRead, frame: Frame | None, error: BaseException | None) -> None:
        wanted = tag.job is self._active
        if self._cache_work.rows_read(tag, frame, error, wanted=wanted) or not wanted:
            return
        self._restoring = False
        self._generate(tag.job, NOTHING)

    def _restored(self, job: Job, start: Restored, error: BaseException | None) -> None:
        if error is not None and not isinstance(error, DecodeFailed):
            raise EngineCrashed(f"the engine failed: {error!r}") from error
        if job is not self._active:
            return
        self._restoring = False
        self._generate(job, NOTHING if error is not None else start)

    def _generate(self, job: Job, start: Restored) -> None:
        """Begin to compute a request, from what was restored for it."""
        engine = self._loaded_engine
        job.generation = Generation(
            prompt=job.tokens or array.array("i"),
            request=job.request,
            seed=job.seed,
            seq=_SEQ,
            n_ctx=engine.capabilities.n_ctx,
            asked=job.asked,
            admitted=job.admitted,
            now=self.clock.now() if start.tokens else job.admitted,
            restored=start,
            prefill_only=job.prefill_only,
            keep_logits=self._cache_work.cache.enabled,
            stops=self._cache_work.stops(job, start),
        )

    def _start_step(self, job: Job) -> None:
        generation = job.generation
        if generation is None:
            return
        capabilities = self._loaded_engine.capabilities
        self._steps += 1
        plan = generation.plan(
            self._steps, slice_limit=self._slice_limit(), granule=capabilities.granule
        )
        try:
            self._owner.submit(
                plan, lambda outcome, error: self.ref.urgent(StepDone(outcome, error))
            )
        except EngineError as down:
            # not raised here: it would be the answer to whatever call happened to be served
            self.ref.urgent(StepDone(None, down))
        self._step = self._steps
        self._gauges.step_since = self.clock.now()

    def _slice_limit(self) -> int:
        """Rows of a prompt slice: all that fit, or what fits a time if other models compute."""
        capabilities = self._loaded_engine.capabilities
        if not self._owner.contended():
            return capabilities.n_batch
        rows = rows_within(CONTENDED_SLICE_S, self._gauges.prefill_rate, capabilities.granule)
        return min(rows, capabilities.n_batch)

    # Answers

    def _settle(self, job: Job, error: BaseException | None) -> None:
        """Answer a request, once."""
        if job.timer is not None:
            job.timer.cancel()
        if job.reply is None:
            return
        now = self.clock.now()
        if error is None and job.timed_out:
            error = job.timeout_error(now)
        if error is not None:
            job.reply.fail(error)
            return
        finished = job.generation.finished if job.generation is not None else None
        completion = job.completion(finished or "cancelled", now)
        if job.sink is not None:
            job.sink.push(Done(completion))
        job.reply.send(completion)

    def _parting_error(self, reason: object) -> ErllamaError:
        if isinstance(reason, str) and reason in ("shutdown", "normal"):
            return ModelNotFound(f"model {self._spec.id!r} was unloaded while the request waited")
        return EngineCrashed(
            f"model {self._spec.id!r} went down with this request: {reason!r}; "
            "it is being loaded again, try again"
        )

    def _make_work(self, engine: Engine, fingerprint: str) -> CacheWork:
        spec = self._spec
        cache = ModelCache(
            spec.board,
            spec.peers,
            spec.policy,
            engine=engine,
            context=spec.context,
            fingerprint=fingerprint,
        )
        return CacheWork(
            board=spec.board,
            peers=spec.peers,
            cache=cache,
            owner=self._owner,
            engine=engine,
            readers=spec.readers,
            clock=self.clock,
            urgent=self.ref.urgent,
            spawn=lambda work, tag: self.spawn_task(work, then=tag),
        )

    @property
    def _cache_work(self) -> CacheWork:
        if self._work is None:
            raise EngineCrashed(f"model {self._spec.id!r} is not loaded")
        return self._work

    def _jobs(self) -> list[Job]:
        active = [self._active] if self._active is not None else []
        return [*active, *self._queue]

    @property
    def _loaded_engine(self) -> Engine:
        if self._engine is None:
            raise EngineCrashed(f"model {self._spec.id!r} is not loaded")
        return self._engine

    def _set_phase(self, phase: Phase) -> None:
        self._gauges.phase = phase

    def _note_progress(self, share: float) -> None:
        self._gauges.load_progress = share
