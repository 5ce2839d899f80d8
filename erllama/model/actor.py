"""The model actor: one loaded model, whose requests are computed side by side.

Contract
    State     loading → idle ⇄ running; stuck, when the engine does not come back; failed, after
              too many crashes. `_waiting` holds the requests without a sequence, `_floor` those
              with one, `_stepper` the step on its way, `_embeddings` what is to be embedded.
    Writers   this actor's task alone. The lane reports through messages.
    Invariant a request waits, holds a sequence, or is answered. Between two steps the mailbox is
              served: cancel, status and new requests never wait longer than one step, and a step
              that computes for one request alone is cut short for its cancel.

A tick is one message: `StepDone` → apply the outcome → decide the next step → submit it.
"""

from __future__ import annotations

import array
import asyncio
import itertools
import logging
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
from erllama.backend.base import Backend, EmbedOutcome, Engine, FingerprintMemory, StepOutcome
from erllama.backend.compilers import Compilers
from erllama.backend.lane import Lane
from erllama.backend.workers import Workers
from erllama.cache.actor_refs import CacheActors
from erllama.cache.policy import CachePolicy
from erllama.cache.shared_view import CacheView
from erllama.config import ContextConfig, ModelConfig
from erllama.errors import (
    DecodeFailed,
    EngineCrashed,
    EngineStuck,
    ErllamaError,
    ModelNotFound,
    NotSupported,
    QueueFull,
    RequestError,
)
from erllama.model.adapters import ModelAdapters
from erllama.model.cache_work import CacheWork
from erllama.model.caching import ModelCache
from erllama.model.chat_memory import ChatMemory
from erllama.model.core_watch import CoreWatch
from erllama.model.embed_job import Vector
from erllama.model.embedding import Embeddings
from erllama.model.engine_owner import EngineOwner
from erllama.model.errands import Errands
from erllama.model.evictions import Evictions
from erllama.model.faults import concerns_all
from erllama.model.floor import Floor
from erllama.model.gauges import Gauges
from erllama.model.info import model_info, threads_waiting
from erllama.model.job import Job
from erllama.model.markers import THINKING, Markers, find_markers
from erllama.model.messages import (
    AwaitReady,
    CachedPrefix,
    Cancel,
    CompanyIsLate,
    Detokenize,
    Embed,
    EmbedCancel,
    EmbedDone,
    EmbedGiveUp,
    EmbedTokenized,
    EmbedTooLong,
    EndSession,
    ErrandGiveUp,
    Evict,
    Expire,
    Gathered,
    GiveUp,
    Kept,
    LaneBack,
    LoadAdapter,
    LookAtErrands,
    PutBack,
    QueuedTooLong,
    ReaderCaughtUp,
    ReaderStalls,
    Rebuilt,
    RestoreDone,
    RowsRead,
    SaveDone,
    SessionsIdle,
    SetAdapterScale,
    SpillDone,
    StepDone,
    StepTooLong,
    Submit,
    Tokenize,
    Tokenized,
    UnloadAdapter,
    Unspilled,
    WaitedEnough,
)
from erllama.model.prompt_tokens import tokenize_prompt
from erllama.model.request import check_stop_tokens, check_tokens, make_request
from erllama.model.scheduler import Decode, Scheduler, Slice, groups
from erllama.model.scope import Scope
from erllama.model.sessions import Sessions
from erllama.model.spilling import Spilling
from erllama.model.step import Chain, decode_plan, slice_plan, start_plan
from erllama.model.stepper import Step, Stepper
from erllama.model.waiting import Waiting
from erllama.sampling import SamplerPlan, plan_sampler
from erllama.sampling.effort import Pause
from erllama.sampling.schema_source import schema_warnings
from erllama.types import Done, Phase

T = TypeVar("T")

log = logging.getLogger("erllama.model")

SHORT_TEXT = 1_024
"""Characters that are tokenized on the event loop: less than half a millisecond."""


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
    compilers: Compilers
    memory: FingerprintMemory
    view: CacheView
    actors: CacheActors
    policy: CachePolicy
    gauges: Gauges
    crashes: Intensity
    signing_key: str | None = field(default=None, repr=False)
    starts: int = field(default=0)
    chats: ChatMemory = field(default_factory=ChatMemory)

    def build(self) -> ModelActor:
        """A new actor, as a supervisor's child."""
        return ModelActor(self)


@dataclass(slots=True)
class Loaded:
    """What there is once the model is loaded."""

    engine: Engine
    work: CacheWork
    floor: Floor
    stepper: Stepper
    errands: Errands
    spilling: Spilling
    scheduler: Scheduler
    embeddings: Embeddings
    markers: Markers


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
        self._adapters = ModelAdapters(
            owner=self._owner, gauges=spec.gauges, workers=spec.workers, memory=spec.memory
        )
        self._here: Loaded | None = None
        self._ready: list[ReplyTo] = []
        self._waiting = Waiting()
        self._sessions = Sessions()
        self._evictions = Evictions()
        self._orders = 0
        self._gathering = False
        self._next_turns: list[Job] = []  # of sessions whose last request is ending

    async def init(self) -> None:
        spec = self._spec
        self._cores = CoreWatch(gauges=spec.gauges, clock=self.clock)
        spec.starts += 1
        first = spec.starts == 1
        if not first:
            self._gauges.restarts += 1
            if not spec.crashes.allows(self.clock.now()):
                await self.goto("failed")
                return
        self._set_phase("loading")
        self._cores.begin()
        self.spawn_task(self._open(), then="load")

    async def _open(self) -> tuple[Engine, str]:
        spec = self._spec
        # the first request of a process would pay for this: how requests are checked is worked out
        await asyncio.to_thread(make_request, {})
        opened = await self._owner.open(spec.backend, spec.path, spec.model, spec.context)
        await self._adapters.load_again()
        return opened

    async def terminate(self, reason: object) -> None:
        lost = self.state == "stuck"
        self._set_phase("stopping")
        if self._here is not None:
            self._here.stepper.rest()
            self._here.errands.rest()
            self._here.stepper.abort()
        for job in self._waiting:
            job.answered = True  # by the end of this; nobody needs what is compiled for it
        try:
            if reason in ("shutdown", "normal") and self._here is not None and not lost:
                await self._save_last(self._here)
        finally:  # also when there is no time left for that
            for job in self._all_jobs():
                self._settle(job, self._parting_error(reason))
            if self._here is not None:
                self._here.embeddings.fail_all(self._parting_error(reason))
            self._gauges.rest()
            freed = self._owner.close()
        if not lost:  # else nothing is freed before the lane is back
            await asyncio.wait([freed])

    async def _save_last(self, here: Loaded) -> None:
        await here.work.hand_over()
        for job in here.floor.jobs():
            if job.generation is not None:
                await here.work.save_last(job, job.generation)

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
            case Call(
                Tokenize()
                | Detokenize()
                | Evict()
                | CachedPrefix()
                | EndSession()
                | Embed()
                | LoadAdapter()
                | UnloadAdapter()
                | SetAdapterScale()
            ):
                return POSTPONE
            case _:
                return await self._serve(event)
        return None

    async def in_idle(self, event: Event) -> Any:
        return await self._serve(event)

    async def in_running(self, event: Event) -> Any:
        return await self._serve(event)

    async def in_stuck(self, event: Event) -> Any:
        """A thread is inside the engine and does not come out; when it does, all begins anew."""
        match event:
            case Urgent(LaneBack()):
                raise EngineCrashed("the engine was stuck in a call for too long")
            case Urgent(SaveDone()) | TaskDone(Kept()):  # what was taken out before
                await self._hear(event)
            case Call():
                raise EngineStuck(
                    f"model {self._spec.id!r} is stuck in a native call; restart the process"
                )
        return None

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

    async def on_enter_stuck(self) -> None:
        self._set_phase("stuck")

    async def on_enter_failed(self) -> None:
        self._set_phase("failed")

    # Loading

    async def _loaded(self, engine: Engine, fingerprint: str) -> None:
        self._gauges.load_progress = 1.0
        self._here = self._make(engine, fingerprint)
        info = model_info(self._spec.id, self._spec.path, fingerprint, engine, self._here.markers)
        self._gauges.info = info
        self._cores.loaded(threads_waiting(engine, self._spec.context))
        for reply in self._ready:
            reply.send(info)
        self._ready.clear()
        await self.goto("idle")
        for job in list(self._waiting):
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

    def _make(self, engine: Engine, fingerprint: str) -> Loaded:
        spec = self._spec
        cache = ModelCache(
            spec.view,
            spec.actors,
            spec.policy,
            engine=engine,
            context=spec.context,
            fingerprint=fingerprint,
        )
        errands = Errands(
            owner=self._owner,
            gauges=self._gauges,
            clock=self.clock,
            urgent=self.ref.urgent,
            bound_s=spec.context.step_timeout_s,
        )
        work = CacheWork(
            view=spec.view,
            actors=spec.actors,
            cache=cache,
            errands=errands,
            engine=engine,
            readers=spec.readers,
            clock=self.clock,
            urgent=self.ref.urgent,
            spawn=lambda work, tag: self.spawn_task(work, then=tag),
        )
        stepper = Stepper(
            owner=self._owner,
            engine=engine,
            gauges=self._gauges,
            clock=self.clock,
            urgent=self.ref.urgent,
            note=self.ref.note,
            bound_s=spec.context.step_timeout_s,
        )
        spilling = Spilling(
            errands=errands,
            engine=engine,
            readers=spec.readers,
            urgent=self.ref.urgent,
            spawn=lambda work, tag: self.spawn_task(work, then=tag),
        )
        markers = find_markers(spec.model, engine, spec.signing_key)
        floor = Floor(
            context=spec.context,
            engine=engine,
            work=work,
            stepper=stepper,
            spilling=spilling,
            sessions=self._sessions,
            waiting=self._waiting,
            gauges=self._gauges,
            markers=markers,
            clock=self.clock,
            urgent=self.ref.urgent,
            settle=self._settle,
        )
        scheduler = Scheduler(
            n_batch=engine.capabilities.n_batch,
            n_joint=engine.capabilities.n_joint,
            granule=engine.capabilities.granule,
            stall_s=spec.context.decode_stall_ms / 1e3,
            pace=self._gauges.pace,
        )
        self.ref.watch(lambda _: work.rest())  # however it ends, also where it is given up
        embeddings = Embeddings(
            owner=self._owner,
            engine=engine,
            context=spec.context,
            workers=spec.workers,
            gauges=self._gauges,
            clock=self.clock,
            urgent=self.ref.urgent,
            spawn=lambda work, tag: self.spawn_task(work, then=tag),
        )
        return Loaded(
            engine, work, floor, stepper, errands, spilling, scheduler, embeddings, markers
        )

    # Serving

    async def _serve(self, event: Event) -> Any:
        self._cores.look()
        match event:
            case Urgent(StepDone() as done):  # first, for it comes most often
                here = self._loaded_here
                await self._step_done(here, done)
                if done.following is not None and self._goes_on(here):
                    return DEFERRED
            case Call(Submit(job), reply):
                self._arrived(job, reply)
                if self.backlog:
                    self._gather()
            case Urgent(Cancel(job)):
                job.cancelled = True
                self._end_early(job)
            case Urgent(Expire(job)):
                job.timed_out = True
                self._end_early(job)
            case Urgent(Gathered()):
                self._gathering = False
            case Urgent(QueuedTooLong(job)):
                if job in self._waiting:
                    job.queued_too_long = True
                    self._end_early(job)
            case TaskDone(Tokenized(job), tokens, error):
                self._tokenized(job, tokens, error)
            case Urgent(WaitedEnough(job)):
                job.waited = True
            case Urgent(CompanyIsLate(job)):
                job.hurries = True
            case Call(Evict(), reply):
                self._evictions.add(reply, self._loaded_here.floor.running())
            case Call(CachedPrefix() as asked, reply):
                self._cached_prefix(asked.tokens, reply)
            case Call(EndSession(session_id), reply):
                self._end_session(session_id)
                reply.send(None)
            case Call(Tokenize(text, add_special, parse_special), reply):
                return self._beside(
                    reply,
                    len(text),
                    lambda: list(self._tokenize(text, add_special, parse_special)),
                )
            case Call(Detokenize(tokens), reply):
                engine = self._loaded_here.engine
                return self._beside(reply, len(tokens), lambda: engine.detokenize(tokens))
            case Call(LoadAdapter(path, scale), reply):
                self.spawn_task(self._load_adapter(path, scale, reply), then="adapter")
            case Call(UnloadAdapter(number), reply):
                self._adapters.unload(number)
                reply.send(None)
            case Call(SetAdapterScale(number, scale), reply):
                self._adapters.set_scale(number, scale)
                reply.send(None)
            case Call(Embed(job), reply):
                job.adapters = self._adapters.in_force
                self._loaded_here.embeddings.take(job, reply)
            case Call(AwaitReady()):
                return self._gauges.info
            case _:
                await self._hear(event)
        await self._advance()
        return DEFERRED

    async def _hear(self, event: Event) -> None:
        """What the lane, the readers and the timers say; all of it after loading."""
        here = self._loaded_here
        match event:
            case TaskDone(RowsRead() as tag, frame, error):
                here.floor.rows_read(tag, frame, error)
            case Urgent(RestoreDone() | SpillDone() | PutBack() as it) if concerns_all(it.error):
                await self._all_lost(here, it.error)
            case Urgent(RestoreDone(job, entry, start, error)):
                here.floor.restored(job, entry, start, error)
            case Urgent(SpillDone(job, entry, saved, error)):
                here.floor.spilled(job, entry, saved, error)
            case TaskDone(Unspilled(job, entry), frame, error):
                here.floor.filled(job, entry, frame, error)
            case Urgent(PutBack(job, entry, error)):
                here.floor.put_back(job, entry, error)
            case Urgent(SaveDone(saving, saved, error)):
                here.work.save_done(saving, saved, error)
            case TaskDone(Kept(number)):
                here.work.kept(number)
            case Urgent(ReaderCaughtUp(job)):
                here.floor.caught_up(job)
            case Urgent(ReaderStalls(job)):
                here.floor.stalls(job)
            case Urgent(SessionsIdle(since)):
                here.floor.drop_idle_sessions(since)
            case Urgent(StepTooLong(number)):
                here.stepper.too_long(number)
            case Urgent(GiveUp(number)):
                await self._give_up(here, here.stepper.is_lost(number))
            case Urgent(LookAtErrands()):
                here.errands.look()
            case Urgent(ErrandGiveUp(number)):
                await self._give_up(here, here.errands.is_lost(number))
            case Urgent(Rebuilt(None)):
                here.floor.rebuilt()
            case Urgent(Rebuilt(error)):
                await self._all_lost(here, error, "a fresh context could not be made")
            case Urgent(EmbedDone(result, error)):
                await self._embedded(here, result, error)
            case TaskDone(EmbedTokenized(job), tokens, error):
                here.embeddings.tokenized(job, tokens, error)
            case Urgent(EmbedCancel(job)):
                here.embeddings.cancel(job)
            case Urgent(EmbedTooLong(number)):
                here.embeddings.too_long(number)
            case Urgent(EmbedGiveUp(number)):
                await self._give_up(here, here.embeddings.is_lost(number))
            case TaskDone("saved", _, Exception() as error):
                raise error
            case TaskDone():
                return
            case _:
                raise TypeError(f"a model actor does not understand {event!r}")

    def _arrived(self, job: Job, reply: ReplyTo) -> None:
        """A request has come, and its caller may give it up from now on."""
        job.reply = reply
        reply.on_abandon(lambda: self.ref.urgent(Cancel(job)))
        self._take(job)

    def _take(self, job: Job) -> None:
        """Queue a request, or refuse it."""
        if job.ending:  # a cancellation overtakes the request that it is for
            self._settle(job, None)
            return
        if len(self._waiting) >= self._spec.context.max_queue:
            raise QueueFull(
                f"model {self._spec.id!r}: {len(self._waiting)} requests wait already; "
                "try again later, or raise max_queue",
                retry_after=max(round(self._gauges.request_s, 3), 0.001),
            )
        session_id = job.request.session_id
        if session_id is not None:
            if self._is_ending(session_id):
                self._next_turns.append(job)
                return
            self._sessions.claim(session_id)
            job.join_session(self._sessions.key(session_id))
        job.scope = Scope(job.request.cache_salt, self._adapters.in_force)
        self._orders += 1
        job.order = self._orders
        self._set_timers(job)
        self._waiting.add(job)
        if self._here is not None:
            self._start_tokenizing(job)

    def _is_ending(self, session_id: str) -> bool:
        """Whether the request that uses a session was told to end, and will with its step."""
        if not self._sessions.busy(session_id):
            return False
        users = (one for one in self._jobs() if one.in_session)
        return any(one.ending and one.request.session_id == session_id for one in users)

    def _take_next_turn(self, session_id: str) -> None:
        """A session is free: who came first while its last request was ending has it now."""
        came = [job for job in self._next_turns if job.request.session_id == session_id]
        self._next_turns = [job for job in self._next_turns if job not in came]
        for job in came:
            try:
                self._take(job)
            except ErllamaError as error:
                self._answer(job, error)

    def _gather(self) -> None:
        """Take in the requests that came with this one before a step begins: it is for all."""
        if not self._gathering:
            self._gathering = True
            asyncio.get_running_loop().call_soon(self.ref.urgent, Gathered())

    def _set_timers(self, job: Job) -> None:
        now = self.clock.now()
        if job.deadline is not None:
            job.timers["timeout"] = self.clock.call_later(
                max(job.deadline - now, 0.0), lambda: self.ref.urgent(Expire(job))
            )
        if self._spec.context.queue_timeout_s is not None:
            job.timers["queue"] = self.clock.call_later(
                self._spec.context.queue_timeout_s, lambda: self.ref.urgent(QueuedTooLong(job))
            )

    def _start_tokenizing(self, job: Job) -> None:
        text = job.prompt
        plan = plan_sampler(job.request.sampling)
        if plan.needs_preparing and not job.prefill_only:
            job.tokens = None  # it waits for that
            if plan.grammar is None:
                prepared = self._spec.workers.run(lambda: self._prepared(job, plan))
            else:
                job.compiling = True
                prepared = self._spec.compilers.run(
                    plan.grammar,
                    lambda pause: self._prepared(job, plan, pause),
                    lambda: job.answered,
                )
            self.spawn_task(prepared, then=Tokenized(job))
            return
        if not isinstance(text, str):
            return
        if len(text) > SHORT_TEXT:
            work = self._spec.workers.run(lambda: self._tokenize(text, True, True))
            self.spawn_task(work, then=Tokenized(job))
            return
        try:
            job.tokens = self._tokenize(text, True, True)
        except ErllamaError as error:
            self._waiting.remove(job)
            self._settle(job, error)

    def _tokenized(self, job: Job, tokens: array.array[int], error: BaseException | None) -> None:
        job.tokens = tokens
        job.compiling = False
        if error is not None and job in self._waiting:
            self._waiting.remove(job)
            self._settle(job, error)

    def _prepared(
        self, job: Job, plan: SamplerPlan, pause: Pause | None = None
    ) -> array.array[int]:
        self._loaded_here.engine.prepare(plan, pause)
        if plan.grammar is not None and plan.grammar.kind == "json_schema":
            job.warnings = schema_warnings(plan.grammar.text)
        if isinstance(job.prompt, str):
            return self._tokenize(job.prompt, True, True)
        return job.prompt

    def _tokenize(self, text: str, add_special: bool, parse_special: bool) -> array.array[int]:
        return tokenize_prompt(
            self._loaded_here.engine, text, add_special=add_special, parse_special=parse_special
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

    async def _load_adapter(self, path: str, scale: float, reply: ReplyTo) -> None:
        try:
            adapter = await self._adapters.load(self._loaded_here.engine, path, scale)
        except Exception as error:  # whatever it is, somebody waits for an answer
            reply.fail(error)
            return
        if reply.abandoned:
            self._adapters.unload(adapter.id)
        else:
            reply.send(adapter)

    def _cached_prefix(self, tokens: array.array[int], reply: ReplyTo) -> None:
        work, scope = self._loaded_here.work, Scope("", self._adapters.in_force)
        known = work.warm(tokens, scope)
        work.once_saved(tokens, scope, lambda: reply.send(work.warm(tokens, scope)), behind=known)

    def _end_session(self, session_id: str) -> None:
        live = self._sessions.end(session_id)
        if live is not None:
            self._loaded_here.floor.give_back(live.seq)

    # The tick

    async def _advance(self) -> None:
        """Admit, then start the next step unless one is on its way; with nothing to do, be idle."""
        here = self._here
        if here is None:
            self._gauges.pending = len(self._waiting)
            return
        if self.state == "stuck":
            return
        here.floor.admit(self._check)
        if self._evictions:
            here.floor.move_off_paused()
        here.floor.spill_what_must()  # before the next step, which would compute it again
        here.floor.hold_back()
        if here.stepper.current is not None or not self._gathering:
            self._next_step(here)
        if here.stepper.current is None:
            embedding = (job.adapters for job in here.embeddings.jobs)
            computing = (job.scope.adapters for job in self._jobs())
            self._adapters.free_unused(itertools.chain(embedding, computing))
        if self._evictions:
            self._evict(here)
        self._gauges.active = len(here.floor)
        self._gauges.pending = len(self._waiting) + here.floor.parked + len(here.embeddings)
        self._gauges.sessions = self._sessions.held
        state = "running" if here.floor.busy or here.embeddings.busy else "idle"
        if state != self.state:
            await self.goto(state)

    def _evict(self, here: Loaded) -> None:
        """Answer those who wait until what was computed is in the cache."""
        for reply in self._evictions.done(here.floor.running(), here.work.saving):
            here.floor.drop_all_sessions()
            reply.send(None)

    def _next_step(self, here: Loaded) -> None:
        """Start a step; or see that the lane stops decoding by itself where there is another."""
        stepper, floor, embeddings = here.stepper, here.floor, here.embeddings
        if floor.rebuilding or embeddings.on_the_lane:
            return
        if stepper.current is not None and stepper.chain is None:
            return  # it ends without being told, and what comes then is decided then
        starting, entries = floor.starting(), floor.entries()
        prefilling = floor.prefilling
        # whether other models compute too makes a difference to slices only
        contended = prefilling and self._owner.contended()
        decision = here.scheduler.plan(entries, now=self.clock.now(), contended=contended)
        others_wait = prefilling or floor.wants_the_lane or embeddings.ready
        if stepper.current is not None:
            chained = isinstance(decision, Decode) and stepper.goes_on_with(decision.seqs)
            if starting or others_wait or not chained:
                stepper.stop_chain()
            return
        nothing = not starting and decision is None and not floor.must_end_some
        if embeddings.ready and (embeddings.turn or nothing):
            embeddings.start(shared=not nothing or self._owner.contended())
            return
        if nothing:
            return
        embeddings.turn = True
        number, end = stepper.next_number, floor.take_ended()
        if starting or decision is None:
            plan = start_plan(number, [floor.generation(job) for job in starting], end=end)
            stepper.start(plan, None, starting)
        elif isinstance(decision, Decode):
            jobs = [floor.on(seq) for seq in decision.seqs]
            generations = [floor.generation(job) for job in jobs]
            plan = decode_plan(number, generations, end=end)
            chains = (
                floor.may_chain
                and not others_wait
                and groups(entries) == 1
                and not any(one.steered for one in generations)
            )
            chain = Chain(number, generations) if chains else None
            stepper.start(plan, decision, jobs, chain, floor.take_in)
        elif isinstance(decision, Slice):
            jobs = [floor.on(seq) for seq in decision.seqs]
            plan = slice_plan(
                number,
                [floor.generation(job) for job in jobs],
                limit=decision.limit,
                granule=here.engine.capabilities.granule,
                end=end,
            )
            stepper.start(plan, decision, jobs)

    async def _step_done(self, here: Loaded, done: StepDone) -> None:
        outcome, error = done.outcome, done.error
        step = here.stepper.done(done.following)
        if outcome is None:
            if isinstance(error, DecodeFailed):
                here.floor.step_failed(step, str(error))
            elif concerns_all(error) or not self._may_lose(here, step):
                await self._all_lost(here, error)
            else:
                self._lose(here, step, error)
            return
        if error is not None:
            raise error
        self._account(here, step, outcome)
        if outcome.status == "done":
            if not done.taken:
                here.floor.take_in(step, outcome)
            here.floor.after(step, outcome)
        elif outcome.status == "no_slot":
            here.floor.no_slot(step, outcome.detail)
        elif outcome.status == "aborted":
            here.floor.aborted(step, outcome)
        else:
            here.floor.step_failed(step, outcome.detail)
        if step.stuck:
            self._rebuild(here, step, self._too_long())

    def _goes_on(self, here: Loaded) -> bool:
        """Whether the lane decodes on as it did, and nobody waits: there is nothing to decide."""
        nobody = not len(self._waiting) and not self._evictions
        return nobody and here.stepper.chain is not None and here.floor.all_in(here.stepper.current)

    def _may_lose(self, here: Loaded, step: Step) -> bool:
        """Whether others go on without this step; with no others, or too often, all begins anew."""
        return here.floor.has_others(step) and self._spec.crashes.allows(self.clock.now())

    def _lose(self, here: Loaded, step: Step, error: BaseException | None) -> None:
        """An exception came out of the engine: its step is lost, the other requests go on."""
        log.error("model %r: a step was lost: %r", self._spec.id, error, exc_info=error)
        self._rebuild(here, step, EngineCrashed(f"the engine failed: {error!r}"))

    async def _all_lost(
        self, here: Loaded, error: BaseException | None, what: str = "the engine failed"
    ) -> None:
        """No request can go on: this model begins anew, or waits for the lane to be back."""
        if isinstance(error, EngineStuck):  # another model holds the lane for good
            await self._stop_serving(here, error)
        else:
            raise EngineCrashed(f"{what}: {error!r}") from error

    def _account(self, here: Loaded, step: Step, outcome: StepOutcome) -> None:
        if step.decision is None or outcome.status != "done":
            return
        seconds = outcome.elapsed_ns / 1e9
        here.scheduler.took(step.decision, here.floor.entries(), seconds)
        if isinstance(step.decision, Slice):
            generations = [here.floor.generation(job) for job in step.jobs.values()]
            rows = sum(outcome.positions[one.seq] - one.position for one in generations)
            here.scheduler.pace.note_prefill(rows, seconds)

    async def _embedded(
        self,
        here: Loaded,
        result: tuple[EmbedOutcome, list[Vector | None]] | None,
        error: BaseException | None,
    ) -> None:
        """The lane is through with a call of `embed`."""
        if result is not None:
            here.embeddings.done(*result)
        elif isinstance(error, DecodeFailed):
            here.embeddings.failed(error)
        else:
            await self._all_lost(here, error)

    def _end_early(self, job: Job) -> None:
        """End a request on somebody's word: at once if it waits, else with the step it is in."""
        if job in self._waiting:
            self._waiting.remove(job)
            self._settle(job, None)
        elif job in self._next_turns:
            self._next_turns.remove(job)
            self._answer(job, None)
        elif self._here is not None:
            self._here.floor.end_early(job)

    # When the engine does not come back

    def _too_long(self) -> EngineStuck:
        return EngineStuck(
            f"model {self._spec.id!r}: a step took longer than step_timeout_s "
            f"({self._spec.context.step_timeout_s:g} s) and was aborted; raise it, or lower n_batch"
        )

    def _rebuild(self, here: Loaded, step: Step, error: ErllamaError) -> None:
        """A step was given up: its requests fail, the others go on in a fresh context."""
        here.floor.evacuate(step, error)
        here.errands.run(
            "making a context anew",
            lambda engine: engine.rebuild(),
            lambda _, wrong: self.ref.urgent(Rebuilt(wrong)),
        )

    async def _give_up(self, here: Loaded, lost: bool) -> None:
        if not lost:
            return
        self._owner.give_up()
        await self._stop_serving(
            here,
            EngineStuck(
                f"model {self._spec.id!r} does not come back from a native call and does not obey "
                "its abort flag; restart the process"
            ),
        )

    async def _stop_serving(self, here: Loaded, error: EngineStuck) -> None:
        for job in self._all_jobs():
            self._settle(job, error)
        here.embeddings.fail_all(error)
        here.work.give_up()
        here.floor.forget_all()
        for job in list(self._waiting):
            self._waiting.remove(job)
        for reply in self._evictions.take_all():
            reply.fail(error)
        self._gauges.active = self._gauges.pending = 0
        self._owner.when_back(lambda: self.ref.urgent(LaneBack()))
        await self.goto("stuck")

    # Answers

    def _check(self, job: Job) -> None:
        """Refuse what this model cannot compute."""
        engine = self._loaded_here.engine
        if not engine.capabilities.generate:
            raise NotSupported(
                f"model {self._spec.id!r} cannot generate text (an encoder, or loaded with "
                "vocab_only)"
            )
        budget = job.request.thinking_budget_tokens
        if budget is not None and THINKING not in self._loaded_here.markers.sections:
            raise RequestError(
                f"thinking_budget_tokens: model {self._spec.id!r} has no markers of thinking; load "
                "it with thinking_markers, or leave the budget out"
            )
        check_stop_tokens(job.request.stop_token_ids, engine.info.n_vocab)
        check_tokens(
            job.tokens or array.array("i"),
            n_vocab=engine.info.n_vocab,
            n_ctx=engine.capabilities.n_ctx,
        )

    def _settle(self, job: Job, error: BaseException | None) -> None:
        """Answer a request, once; its session is free."""
        job.stop_timers()
        job.answered = True
        session_id = job.request.session_id
        if job.in_session and session_id is not None:
            job.in_session = False
            key = job.generation.finish_key if job.generation is not None else None
            self._sessions.release(session_id, job.left, key)
        self._answer(job, error)
        if session_id is not None and not self._sessions.busy(session_id):
            self._take_next_turn(session_id)

    def _answer(self, job: Job, error: BaseException | None) -> None:
        """Give a request's caller the completion, or the error."""
        if job.reply is None:
            return
        now = self.clock.now()
        if error is None and (job.timed_out or job.queued_too_long):
            error = job.timeout_error(now)
        if error is not None:
            job.reply.fail(error)
            return
        finished = job.generation.finished if job.generation is not None else None
        completion = job.completion(finished or "cancelled", now)
        if job.sink is not None:
            job.sink.push(Done(completion))
        reply = job.reply
        if job.prefill_only and job.tokens is not None and self._here is not None:
            self._here.work.once_saved(job.tokens, job.scope, lambda: reply.send(completion))
        else:
            reply.send(completion)

    def _parting_error(self, reason: object) -> ErllamaError:
        if isinstance(reason, str) and reason in ("shutdown", "normal"):
            return ModelNotFound(f"model {self._spec.id!r} was unloaded while the request waited")
        return EngineCrashed(
            f"model {self._spec.id!r} went down with this request: {reason!r}; "
            "it is being loaded again, try again"
        )

    @property
    def _loaded_here(self) -> Loaded:
        if self._here is None:
            raise EngineCrashed(f"model {self._spec.id!r} is not loaded")
        return self._here

    def _jobs(self) -> list[Job]:
        begun = self._here.floor.all_jobs() if self._here is not None else []
        return [*begun, *(job for job in self._waiting if job not in begun)]

    def _all_jobs(self) -> list[Job]:
        """Those, and the next turns of sessions, of which none is taken any more."""
        next_turns, self._next_turns = self._next_turns, []
        return [*self._jobs(), *next_turns]

    def _set_phase(self, phase: Phase) -> None:
        self._gauges.phase = phase

    def _note_progress(self, share: float) -> None:
        self._gauges.load_progress = share
