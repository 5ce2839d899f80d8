"""The requests that hold sequences: how they come, what becomes of their steps, how they go.

Contract
    State     a sequence is free, or a request's, or an idle session's. A request on the floor is
              being restored, ready for steps, paused for its reader, or being moved off.
    Writer    the model's actor, whose messages end up in the methods here.
    Order     everything is queued on the lane in the order in which it is decided, so a sequence
              can be handed on while the lane is still busy with what its last holder left.
"""

from __future__ import annotations

import array
from collections.abc import Callable

from erllama.backend.base import Engine, Frame, SavedState, StepOutcome
from erllama.cache.lineage import Lineage
from erllama.cache.query import Hit
from erllama.clock import Clock
from erllama.config import ContextConfig
from erllama.errors import DecodeFailed, ErllamaError
from erllama.model.cache_work import CacheWork
from erllama.model.faults import note, told
from erllama.model.gauges import Gauges
from erllama.model.generation import NOTHING, Generation, Restored
from erllama.model.job import Job
from erllama.model.markers import Markers
from erllama.model.messages import (
    CompanyIsLate,
    ReaderCaughtUp,
    ReaderStalls,
    RowsRead,
    SessionsIdle,
)
from erllama.model.resume import split_key
from erllama.model.scheduler import WEIGHTS, Entry, Slice
from erllama.model.sequences import Sequences
from erllama.model.sessions import Live, Sessions, reusable
from erllama.model.spilling import Spilling
from erllama.model.stepper import Step, Stepper
from erllama.model.waiting import Waiting, lent_classes

_TURN = 8
"""Tokens that a request has computed on its sequence before it gives way to a higher class: else
those of a low class would be moved off and back and never get anywhere."""

_COMPANY = 2.0
"""How long the end of a prompt waits for others, in times of what it takes alone."""

_COMPANY_S = 0.5
"""And in seconds, at most."""


class Floor:
    """See the module.

    Args:
        waiting: the requests without a sequence.
        markers: what the model writes around its thoughts and calls.
        settle: answers a request.
        urgent: sends a message to the actor itself.
    """

    def __init__(
        self,
        *,
        context: ContextConfig,
        engine: Engine,
        work: CacheWork,
        stepper: Stepper,
        spilling: Spilling,
        sessions: Sessions,
        waiting: Waiting,
        gauges: Gauges,
        markers: Markers,
        clock: Clock,
        urgent: Callable[[object], bool],
        settle: Callable[[Job, BaseException | None], None],
    ) -> None:
        self._context = context
        self._engine = engine
        self._work = work
        self._stepper = stepper
        self._spilling = spilling
        self._sessions = sessions
        self._waiting = waiting
        self._gauges = gauges
        self._markers = markers
        self._clock = clock
        self._urgent = urgent
        self._settle = settle
        self._pool = Sequences(engine.capabilities.n_seq_max)
        self._jobs: dict[int, Job] = {}
        self._parked: list[Job] = []
        self._starting: list[Job] = []
        self._ended: list[int] = []
        self.rebuilding = False

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def busy(self) -> bool:
        """Whether any request has begun and is not over."""
        return bool(self._jobs or self._parked or self.rebuilding)

    @property
    def parked(self) -> int:
        """How many requests wait for their readers without a sequence."""
        return len(self._parked)

    @property
    def may_chain(self) -> bool:
        """Whether the lane may decode by itself: a row too many must be possible to drop."""
        return self._engine.capabilities.truncate

    @property
    def wants_the_lane(self) -> bool:
        """Whether something is to be done between two steps."""
        return any(job.to_spill for job in self._jobs.values())

    @property
    def prefilling(self) -> bool:
        """Whether a prompt is ready to be computed."""
        return any(entry.ready and entry.left for entry in self.entries())

    @property
    def _windowed(self) -> bool:
        return self._engine.capabilities.family == "sliding_window"

    def jobs(self) -> list[Job]:
        """The requests that hold sequences."""
        return list(self._jobs.values())

    def all_jobs(self) -> list[Job]:
        """Those, and those that are parked."""
        return [*self._jobs.values(), *self._parked]

    def running(self) -> list[Job]:
        """Those that have begun and need nobody to go on; those that wait for a reader do.

        Before they count as waiting they are moved off their sequences, where that is possible.
        """
        interrupted = [job for job in self._waiting if job.generation is not None]
        return [
            *(job for job in self._parked if not job.paused),
            *(job for job in self._jobs.values() if not job.paused or self._can_leave(job)),
            *interrupted,
        ]

    def _can_leave(self, job: Job) -> bool:
        return self._spilling.possible and not job.stays

    def entries(self) -> list[Entry]:
        """What the scheduler sees."""
        return [job.entry for job in self._jobs.values() if job.entry is not None]

    def has_others(self, step: Step) -> bool:
        """Whether there are requests that a step does not compute, and that can be moved off."""
        jobs = step.jobs.values()
        return self._spilling.possible and any(job not in jobs for job in self.all_jobs())

    def all_in(self, step: Step | None) -> bool:
        """Whether a step computes just those that can take part in one."""
        return step is not None and all(
            job.entry is not None and job.entry.ready == (seq in step.jobs)
            for seq, job in self._jobs.items()
        )

    def on(self, seq: int) -> Job:
        """The request on a sequence."""
        return self._jobs[seq]

    @staticmethod
    def generation(job: Job) -> Generation:
        """The computation of a request that was admitted.

        Raises:
            LookupError: it has not begun.
        """
        if job.generation is None:
            raise LookupError("this request has not begun")
        return job.generation

    def starting(self) -> list[Job]:
        """Those whose first token can be drawn with nothing computed."""
        starting = [job for job in self._starting if self._holds(job)]
        alone = [job for job in starting if job.entry is not None and job.entry.alone]
        return alone[:1] or starting

    @property
    def must_end_some(self) -> bool:
        """Whether a state is on its way to a sequence and may need the cells of others."""
        return bool(self._ended) and any(
            job.generation is None or job.spilled is not None for job in self._jobs.values()
        )

    def take_ended(self) -> list[int]:
        """The sequences whose cells nobody needs any more."""
        ended, self._ended = self._ended, []
        return ended

    # Coming

    def admit(self, check: Callable[[Job], None]) -> None:
        """Give sequences to requests that wait, as far as there are any.

        Args:
            check: raises if the model cannot compute a request.
        """
        if not self.rebuilding and len(self._waiting):
            self._admit(check)
        lent = lent_classes(self._waiting)
        for job in self._jobs.values():
            if job.entry is not None:
                job.entry.priority = lent.get(job, job.request.priority)

    def _admit(self, check: Callable[[Job], None]) -> None:
        kept = 0  # sequences for those that came earlier and are still tokenized
        owed = max((WEIGHTS[one.request.priority] for one in self._parked if one.short), default=0)
        for job in list(self._waiting):
            if job.tokens is None:
                kept += not job.compiling  # which may take long: others go first meanwhile
                continue
            try:
                if not job.checked:
                    check(job)
                    job.checked = True
            except ErllamaError as error:
                self._waiting.remove(job)
                self._settle(job, error)
                continue
            job.waits_for = None
            if job.generation is None and WEIGHTS[job.request.priority] <= owed:
                continue  # else small newcomers could take the cells of a large one for ever
            if self._has_room(job, kept) and not self._work.must_wait(job, self._jobs.values()):
                self._waiting.admit(job)
                self._begin(job)

    def hold_back(self) -> None:
        """Let the ends of prompts wait for those of the same length that come with them.

        Requests that share a prefix are at its end together, but for the milliseconds that its rows
        take through the cache. Ends of one length then take one step. None waits for a lower class.
        """
        if not self._engine.capabilities.n_joint:
            return
        for job in self._jobs.values():
            if job.entry is not None:
                job.entry.held = self._awaits_company(job, job.entry)

    def _awaits_company(self, job: Job, entry: Entry) -> bool:
        if job.hurries or not (entry.ready and entry.joins):
            return False
        if not 0 < entry.left < self._engine.capabilities.granule:
            return False
        coming = any(
            other.scope == job.scope
            and len(other.tokens or ()) == len(job.tokens or ())
            and WEIGHTS[other.request.priority] >= WEIGHTS[job.request.priority]
            for other in self._coming(job)
        )
        if coming and "company" not in job.timers:
            rate = self._gauges.pace.prefill_rate
            limit = min(_COMPANY * entry.left / rate, _COMPANY_S) if rate else _COMPANY_S
            job.timers["company"] = self._clock.call_later(
                limit, lambda: self._urgent(CompanyIsLate(job))
            )
        return coming

    def _coming(self, job: Job) -> list[Job]:
        """Those that wait for what a request has computed, and those whose rows are restored."""
        waiting = [one for one in self._waiting if one.waits_for is job or "saved" in one.timers]
        return [*waiting, *(one for one in self._jobs.values() if one.generation is None)]

    def _has_room(self, job: Job, kept: int) -> bool:
        """Whether there is a sequence for a request; if not, one may be on its way."""
        if self._pool.free + self._sessions.held > kept:
            return True
        if not kept and not self.wants_the_lane and not self._spilling.moving:
            self._make_room(job)
        return False

    def _make_room(self, job: Job) -> None:
        """Take a sequence from one whose reader sleeps, or from one of a lower class."""
        weight = WEIGHTS[job.request.priority]
        lower = [
            other
            for other in self._jobs.values()
            if other.generation is not None
            and self._can_leave(other)
            and (other.paused or (_weight(other) < weight and _had_turn(other)))
        ]
        if lower:
            lower.sort(key=lambda one: (one.paused, -_weight(one), one.order))
            lower[-1].to_spill = True

    def _begin(self, job: Job) -> None:
        session = job.request.session_id
        live = self._sessions.take(session) if session is not None else None
        seq = live.seq if live is not None else self._take_sequence()
        if seq in self._ended:
            self._ended.remove(seq)
        job.entry = Entry(
            seq,
            job.order,
            job.request.priority,
            left=1,
            ready=False,
            deadline=job.deadline,
            group=job.scope.adapters,
        )
        self._jobs[seq] = job
        job.stop_timer("queue")
        if job.spilled is not None:
            job.turn_from = self.generation(job).position
            self._spilling.put_back(job, job.spilled)
            return
        job.admitted = self._clock.now()
        if job.sink is not None:
            job.sink.on_space = lambda: self._urgent(ReaderCaughtUp(job))
        self._find_state(job, live)

    def _take_sequence(self) -> int:
        if self._pool.free:
            return self._pool.take()
        idle = self._sessions.idle_longest()
        if idle is None:
            raise LookupError("all sequences are taken")
        return idle.seq

    def _find_state(self, job: Job, live: Live | None) -> None:
        """Begin with what is in place, or in the cache, or with nothing."""
        if job.parent_key is not None:
            named, cut = split_key(job.parent_key)
            if cut is not None and self._work.goes_on(job, named, cut):
                job.cut = cut
        hit = self._work.find(job, bare=job.cut is not None and job.cut.bare)
        start = NOTHING if live is None else self._left_in_place(job, live)
        if start.tokens and _reaches_as_far(start, hit):
            self._generate(job, start)
        elif not self._work.restore(job, hit, self._gauges.pace.prefill_rate):
            self._generate(job, NOTHING)

    def _left_in_place(self, job: Job, live: Live) -> Restored:
        """What of a session's state a prompt can go on from."""
        prompt, capabilities = job.tokens or array.array("i"), self._engine.capabilities
        if live.scope != job.scope:
            return NOTHING
        goes_on = live.cut is not None and job.goes_on_in(live.cut)
        n, resumes = reusable(
            live,
            prompt,
            truncate=capabilities.truncate,
            resume=not self._work.exact(job) and (goes_on or not live.bare),
            exact=self._work.exact(job) or self._work.cache.exact,
            granule=capabilities.granule,
        )
        if resumes and goes_on:
            job.cut = live.cut
        lineage = live.lineage
        if not resumes:  # what lies behind was computed as the end of another prompt
            pure_end = min(lineage.pure_end, n)
            lineage = Lineage(pure_end=pure_end - pure_end % capabilities.granule)
        return Restored(
            tokens=n,
            lineage=lineage,
            resumed=resumes,
            tier="live",
            stored=min(live.stored, n),
        )

    def rows_read(self, tag: RowsRead, frame: Frame | None, error: BaseException | None) -> None:
        """The rows of a hit were read, or not."""
        wanted = self._holds(tag.job) and tag.job.entry is tag.entry
        if self._work.rows_read(tag, frame, error, wanted=wanted) or not wanted:
            return
        self._generate(tag.job, NOTHING)

    def restored(
        self, job: Job, entry: Entry, start: Restored, error: BaseException | None
    ) -> None:
        """The lane has put rows on a request's sequence, or not."""
        if error is not None:
            note("a state could not be restored, the prompt is computed instead", error)
        if self._holds(job) and job.entry is entry:
            self._generate(job, NOTHING if error is not None else start)

    def _generate(self, job: Job, start: Restored) -> None:
        """Begin to compute a request, from what is in place for it."""
        engine = self._engine
        markers = self._markers_for(job)
        job.generation = Generation(
            prompt=job.tokens or array.array("i"),
            request=job.request,
            seed=job.seed,
            seq=job.seq,
            n_ctx=engine.capabilities.n_ctx,
            asked=job.asked,
            admitted=job.admitted,
            now=self._clock.now() if start.tokens else job.admitted,
            restored=start,
            prefill_only=job.prefill_only,
            keep_logits=self._work.cache.enabled,
            stops=self._work.stops(job, start),
            verify_from=job.verify_from,
            adapters=job.scope.adapters,
            markers=markers,
            opening=None if markers is None else markers.opening(job.ending_text),
            cut=job.cut,
            fills=engine.capabilities.fills,
        )
        job.turn_from = start.tokens
        self._set_ready(job)

    def _markers_for(self, job: Job) -> Markers | None:
        """What is told apart in its reply."""
        if not job.marked:
            return None
        return self._markers if job.calls_bare else self._markers.without_bare

    def _set_ready(self, job: Job) -> None:
        """A request's state is in place: it takes part in steps, unless it waits for its reader."""
        entry, generation = job.entry, job.generation
        if entry is None or generation is None:
            return
        self._show(entry, generation)
        entry.ready = not job.paused
        if generation.starting:
            entry.ready = False
            self._starting.append(job)

    def _show(self, entry: Entry, generation: Generation) -> None:
        """Tell the scheduler how far a prompt is."""
        entry.left = generation.prompt_left
        entry.joins = generation.joins(self._engine.capabilities.granule)

    # Steps

    def take_in(self, step: Step, outcome: StepOutcome) -> bool:
        """Give each request of a step its token, and its reader the events.

        Returns:
            Whether none of them has come to its end, or too far ahead of its reader.
        """
        sampled = {one.seq: one for one in outcome.sampled}
        now, at_ease = self._clock.now(), True
        for seq, job in step.jobs.items():
            generation = job.generation
            if not self._holds(job) or generation is None or seq in outcome.failures:
                continue  # it ended while the lane went on by itself, or will
            events = generation.apply(outcome.positions[seq], sampled.get(seq), outcome.greedy, now)
            at_ease = at_ease and generation.finished is None
            if job.sink is not None:
                for event in events:
                    job.sink.push(event)
                at_ease = at_ease and not job.sink.full
        return at_ease

    def after(self, step: Step, outcome: StepOutcome) -> None:
        """What a step that was taken in leads to."""
        for seq, job in step.jobs.items():
            generation = job.generation
            if not self._holds(job) or generation is None:
                continue
            failure = outcome.failures.get(seq)
            if failure is not None:
                self._end(job, DecodeFailed(failure))
                continue
            if not isinstance(step.decision, Slice):
                self._gauges.decode_rate = generation.decode_rate
            self._after(job, generation, outcome)

    def _after(self, job: Job, generation: Generation, outcome: StepOutcome) -> None:
        entry = job.entry
        if job in self._starting:
            self._starting.remove(job)
        if job.ending:
            if self._stepper.computes(job):  # the lane was faster than the word
                self._stepper.hasten(job)
            else:
                self._end(job, None)
            return
        self._work.after_step(job, generation, outcome.logits.get(job.seq))
        if generation.finished is not None:
            self._end(job, None)
            return
        if entry is not None:
            if entry.left:
                self._show(entry, generation)
            entry.alone, entry.ready = False, not job.paused
        if job.sink is not None and job.sink.full:
            self._pause(job)

    def aborted(self, step: Step, outcome: StepOutcome) -> None:
        """A step was cut short."""
        for seq, job in step.jobs.items():
            generation = job.generation
            if not self._holds(job) or generation is None:
                continue
            self._put_back_to(generation, outcome.positions.get(seq, generation.position))
            if job.ending:
                self._end(job, None)
            elif job.entry is not None:
                self._show(job.entry, generation)

    def _put_back_to(self, generation: Generation, held: int) -> None:
        """An interrupted step has left `held` cells; go on from a place that the rule allows."""
        if not generation.prefilling:
            generation.position = min(held, generation.position)  # a recurrent state is lost
            generation.moved(generation.seq)
            return
        granule = self._engine.capabilities.granule
        if held < len(generation.prompt) and held != generation.position:
            held = max(held - held % granule, min(held, generation.restored.tokens))
        generation.position = min(held, len(generation.prompt))
        generation.moved(generation.seq)

    def step_failed(self, step: Step, why: str) -> None:
        """The engine refused a step: of several requests, each is tried alone to find whose."""
        for job in self._going_on(step):
            if len(step.jobs) == 1 or job.generation is None or job.entry is None:
                self._end(job, DecodeFailed(f"the engine refused a step: {why}"))
                continue
            job.generation.moved(job.seq)
            job.entry.alone = True

    def _going_on(self, step: Step) -> list[Job]:
        """The requests of a step that came to nothing; those that were told to end do so."""
        for job in list(step.jobs.values()):
            if self._holds(job) and job.ending:
                self._end(job, None)
        return [job for job in step.jobs.values() if self._holds(job)]

    def no_slot(self, step: Step, why: str) -> None:
        """The cells did not suffice: free some, take less, or wait; then it is tried again."""
        jobs = self._going_on(step)
        if self._ended:  # the cells of requests that ended are free with the next step
            return
        idle = self._sessions.idle_longest()
        if idle is not None:
            self.give_back(idle.seq)
            return
        if not jobs:
            return
        last = max(jobs, key=_by_order)
        granule = self._engine.capabilities.granule
        if isinstance(step.decision, Slice) and step.decision.limit > granule and last.entry:
            half = step.decision.limit // 2
            last.entry.most = max(half - half % granule, granule)
        elif not self._wait_for_cells(last):
            self._end(last, DecodeFailed(f"the cells of the context do not suffice: {why}"))

    def _wait_for_cells(self, job: Job) -> bool:
        """Let a request rest until others have left, or leave to them; False: there are none.

        A request that leaves for want of cells comes back when one ends, not when another one
        leaves for the same reason: else the two would take turns for ever.
        """
        others = [other for other in self._jobs.values() if other is not job]
        leaving = any(other.to_spill or self._spilling.is_moving(other) for other in others)
        if not leaving and all(other.short for other in others):
            return False
        if job.entry is not None:
            job.entry.ready = False
        job.short = True
        job.to_spill = self._spilling.possible and not leaving
        return True

    # Readers

    def _pause(self, job: Job) -> None:
        """Its reader lags too far behind: nothing is made for it until it has caught up."""
        if job.entry is None or job.paused:
            return
        job.paused = True
        job.entry.ready = False
        job.timers["reader"] = self._clock.call_later(
            self._context.reader_stall_s, lambda: self._urgent(ReaderStalls(job))
        )

    def caught_up(self, job: Job) -> None:
        """The reader of a paused request has made room."""
        if not job.paused:
            return
        job.paused = False
        job.stop_timer("reader")
        if job in self._parked:
            if not job.short:
                self._parked.remove(job)
                self._waiting.put_back(job)
        elif self._in_place(job) and not job.short:
            self._set_ready(job)

    def stalls(self, job: Job) -> None:
        """It has not made room for long: its sequence is for somebody else."""
        if job.paused and self._holds(job) and self._can_leave(job):
            job.to_spill = True

    def move_off_paused(self) -> None:
        """Those that wait for their readers give up their sequences now."""
        for job in self._jobs.values():
            self.stalls(job)

    # Moving off and back

    def spill_what_must(self) -> None:
        """Begin to move off whoever is to go and is not in the step on its way."""
        for job in self.jobs():
            job.to_spill = job.to_spill and not job.stays
            if job.to_spill and not self._stepper.computes(job):
                self._move_off(job)

    def _move_off(self, job: Job) -> None:
        generation = job.generation
        job.to_spill = False
        if generation is None or self._spilling.is_moving(job) or job.spilled is not None:
            return
        if job.entry is not None:
            job.entry.ready = False
        if job in self._starting:
            self._starting.remove(job)
        self._work.at_end(job, generation, "evict")
        self._spilling.take_off(job, generation)

    def spilled(
        self, job: Job, entry: Entry, saved: SavedState | None, error: BaseException | None
    ) -> None:
        """The lane has taken a request's state off its sequence, or not."""
        self._spilling.moved(job)
        if not self._holds(job) or job.entry is not entry or job.generation is None:
            return
        if saved is None:
            self._not_spilled(job, error or DecodeFailed("the state could not be saved"))
            return
        job.spilled = saved
        self._leave_for_a_while(job)

    def _not_spilled(self, job: Job, error: BaseException) -> None:
        """Its state cannot be taken off: it stays where it is, unless its context goes."""
        note("the state of a request could not be moved off its sequence", error)
        if self.rebuilding:
            self._end(job, told(error))
            return
        job.stays = True
        if not job.short or all(other.short for other in self._jobs.values()):
            job.short = False
            self._set_ready(job)

    def _leave_for_a_while(self, job: Job) -> None:
        """A request whose state was moved off waits for its reader, for cells, or for its turn."""
        self._leave(job)
        self._parked.append(job)
        if not job.short or not self._jobs:
            self._call_back()

    def filled(
        self, job: Job, entry: Entry, frame: Frame | None, error: BaseException | None
    ) -> None:
        """A spilled state is ready to be put on a sequence, or not."""
        if self._holds(job) and job.entry is entry:  # else that sequence may be another one's
            # what the lane ended before, it ended before it comes to this
            job.has_all_cells = not (len(self._jobs) > 1 or self._ended or self._sessions.held)
            self._spilling.filled(job, entry, frame, error)

    def put_back(self, job: Job, entry: Entry, error: BaseException | None) -> None:
        """The lane has put a spilled state on a request's sequence, or not."""
        if not self._holds(job) or job.entry is not entry or job.generation is None:
            return
        if isinstance(error, DecodeFailed):
            self._not_put_back(job, error)
            return
        if error is not None:  # what it had is gone: computed again it would not be bit-equal
            note("the state of a request could not be put back", error)
            self._end(job, told(error))
            return
        job.spilled = None
        job.generation.moved(job.seq)
        self._set_ready(job)

    def _not_put_back(self, job: Job, error: DecodeFailed) -> None:
        """There were no cells for its state: there are once others end, or sessions."""
        idle = self._sessions.idle_longest()
        if idle is not None:
            self.give_back(idle.seq)
        elif len(self._jobs) > 1:
            job.short = True
        elif job.has_all_cells:
            self._end(job, error)
            return
        job.to_spill = False
        self._leave_for_a_while(job)

    # Going

    def end_early(self, job: Job) -> None:
        """End a request on somebody's word: at once, or with the step it is in."""
        if job in self._parked:
            self._parked.remove(job)
            self._settle(job, None)
        elif not self._holds(job):
            return
        elif self._stepper.computes(job):
            self._stepper.hasten(job)
        else:
            self._end(job, None)

    def _end(self, job: Job, error: BaseException | None) -> None:
        """A request is over: as it was told, by itself, or by an error."""
        generation = job.generation
        if job in self._starting:
            self._starting.remove(job)
        if generation is not None:
            self._gauges.note_request(self._clock.now() - generation.admitted)
            if error is None and job.spilled is None:
                self._work.at_end(job, generation, "finish")
                self._leave_to_session(job, generation)
        self._leave(job)
        self._call_back()
        self._settle(job, error)

    def _leave_to_session(self, job: Job, generation: Generation) -> None:
        """The session keeps the sequence, with what is on it."""
        if not job.in_session or not generation.position:
            return
        total = len(generation.prompt) + len(generation.tokens)
        last = generation.tokens[-1] if generation.tokens else None
        job.left = Live(
            seq=job.seq,
            tokens=array.array("i", generation.computed_tokens),
            sampled=last if generation.position == total - 1 else None,
            lineage=generation.lineage,
            stored=generation.stored,
            scope=job.scope,
            since=self._clock.now(),
            least=generation.restored.tokens if self._windowed else 0,
            cut=generation.cut,
        )
        since = job.left.since
        self._clock.call_later(
            self._context.session_idle_s, lambda: self._urgent(SessionsIdle(since))
        )

    def _leave(self, job: Job) -> None:
        """It holds its sequence no more."""
        entry, job.entry = job.entry, None
        if entry is None or self._jobs.get(entry.seq) is not job:
            return
        del self._jobs[entry.seq]
        if job.left is None:
            self.give_back(entry.seq)
        for other in self._jobs.values():  # there are cells that were not there before
            if other.short and self._in_place(other) and not other.to_spill:
                other.short = False
                self._set_ready(other)

    def give_back(self, seq: int) -> None:
        """A sequence is free, and its cells are."""
        self._pool.give_back(seq)
        self._ended.append(seq)

    def _call_back(self) -> None:
        """Those that were moved off may come back, the oldest first."""
        for job in sorted(self._parked, key=_by_order, reverse=True):  # each is put before the last
            job.short = False
            if not job.paused:
                self._parked.remove(job)
                self._waiting.put_back(job)

    def drop_idle_sessions(self, since: float) -> None:
        """Take back the sequences of sessions that are idle since then, or longer."""
        for live in self._sessions.idle_since(since):
            self.give_back(live.seq)

    def drop_all_sessions(self) -> None:
        """Take back the sequences of all idle sessions; what they hold is in the cache."""
        self.drop_idle_sessions(float("inf"))

    # When the context goes

    def evacuate(self, step: Step, error: ErllamaError) -> None:
        """A step is lost with its requests; the others are moved off to a fresh context."""
        self.rebuilding = True
        for job in step.jobs.values():
            if self._holds(job):
                self._end(job, error)
        self.drop_all_sessions()
        for job in sorted(self.jobs(), key=_by_order, reverse=True):  # each is put before the last
            if job.generation is not None and job.spilled is None:
                if not self._spilling.possible:
                    self._end(job, error)
                else:
                    self._move_off(job)
            else:  # its state was just being put in place, and is still where it came from
                self._leave(job)
                self._waiting.put_back(job)

    def rebuilt(self) -> None:
        """There is a fresh context."""
        self.rebuilding = False
        self._ended.clear()

    def forget_all(self) -> None:
        """The actor has answered all of them."""
        self._jobs.clear()
        self._parked.clear()
        self._starting.clear()

    def check_integrity(self) -> None:
        """Each sequence is free, a request's or a session's.

        Raises:
            RuntimeError: it is not so.
        """
        self._pool.check_integrity()
        taken = self._context.n_seq_max - self._pool.free
        if taken != len(self._jobs) + self._sessions.held:
            raise RuntimeError(
                f"{taken} sequences are taken, by {len(self._jobs)} requests and "
                f"{self._sessions.held} sessions"
            )

    def _in_place(self, job: Job) -> bool:
        """Whether a request's state is on its sequence, and stays there."""
        return (
            self._holds(job)
            and job.generation is not None
            and job.spilled is None
            and not self._spilling.is_moving(job)
        )

    def _holds(self, job: Job) -> bool:
        return job.entry is not None and self._jobs.get(job.entry.seq) is job


def _reaches_as_far(start: Restored, hit: Hit | None) -> bool:
    """Whether what is in place serves as well as the rows that were found.

    Nothing but the rows of the reply that a request names go on as its stream did.
    """
    if hit is None or (start.resumed and not hit.resumed):
        return True
    return start.tokens >= hit.tokens and start.resumed >= hit.resumed


def _had_turn(job: Job) -> bool:
    return job.generation is not None and job.generation.position - job.turn_from >= _TURN


def _weight(job: Job) -> int:
    """Of the class that it is computed in."""
    return WEIGHTS[job.request.priority if job.entry is None else job.entry.priority]


def _by_order(job: Job) -> int:
    return job.order
