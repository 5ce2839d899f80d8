"""The step that is on its way to the lane and back, and the watch over it.

Contract
    State     at most one step is on its way (`current`). While nothing else is to be done, the
              lane goes on with the next decode step by itself (`Chain`), and says so.
    Writer    the model's actor. While the lane goes on by itself, tokens are taken in as they
              come, before the actor hears of them, which it does at its leisure: waking it takes
              longer than all else that is done for a token. What it does hear it hears in order,
              so it never acts upon less than its requests have been given.
    Watch     a step that takes longer than its bound is aborted by flag and marked `stuck`. One
              that does not obey within a grace is given up: nothing of the engine is touched
              again, for a thread is inside it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from erllama.backend.base import Engine, StepOutcome, StepPlan
from erllama.clock import Clock, Timer
from erllama.model.engine_owner import EngineOwner
from erllama.model.gauges import Gauges
from erllama.model.job import Job
from erllama.model.messages import GiveUp, StepDone, StepTooLong
from erllama.model.scheduler import Decision, Slice
from erllama.model.stacks import stacks
from erllama.model.step import Chain

log = logging.getLogger("erllama.model")

GRACE_S = 10.0
"""How long what has exceeded its bound may still take to come back."""

NOTES = 16
"""Most steps that the actor does not know of while it sleeps."""

NOTES_S = 0.05
"""How long it may not know of one."""


@dataclass(slots=True)
class Step:
    """A step on its way.

    Attributes:
        decision: what it computes; None: it only draws.
        jobs: whose, by sequence.
        stuck: it has exceeded its bound.
    """

    number: int
    decision: Decision | None
    jobs: dict[int, Job]
    chain: Chain | None = None
    stuck: bool = False


TakeIn = Callable[[Step, StepOutcome], bool]


class Stepper:
    """See the module.

    Args:
        urgent: sends a message to the actor itself.
        note: the same, but lets it sleep.
        bound_s: longest time of a step.
    """

    def __init__(
        self,
        *,
        owner: EngineOwner,
        engine: Engine,
        gauges: Gauges,
        clock: Clock,
        urgent: Callable[[object], bool],
        note: Callable[[object], bool],
        bound_s: float,
    ) -> None:
        self._owner = owner
        self._engine = engine
        self._gauges = gauges
        self._clock = clock
        self._urgent = urgent
        self._note = note
        self._bound_s = bound_s
        self._numbers = 0
        self._watch: Timer | None = None
        self._since = 0.0
        self._taken = 0  # the latest step whose tokens were taken in
        self._noted = 0
        self._told_at = 0.0
        self._resting = False
        self.current: Step | None = None

    @property
    def next_number(self) -> int:
        """The number that the next step has to have."""
        return self._numbers + 1

    def start(
        self,
        plan: StepPlan,
        decision: Decision | None,
        jobs: Iterable[Job],
        chain: Chain | None = None,
        take_in: TakeIn | None = None,
    ) -> None:
        """Queue a step on the lane. Its outcome comes as `StepDone`.

        Args:
            chain: by which the lane may go on after it.
            take_in: gives tokens to their requests while it does; says whether these need nothing
                of the actor.
        """
        self._numbers = plan.number
        self._taken, self._noted, self._told_at = plan.number - 1, 0, self._clock.now()
        step = self.current = Step(plan.number, decision, {job.seq: job for job in jobs}, chain)
        follow = None if chain is None else chain.follow

        def came(
            outcome: StepOutcome | None, error: BaseException | None, following: int | None
        ) -> None:
            if outcome is None or following is None or chain is None or take_in is None:
                self._urgent(StepDone(outcome, error, following))
            else:
                chain.heard = outcome.number
                self._came(step, chain, outcome, following, take_in)

        self._owner.submit(plan, follow, came)
        self._beat()

    def done(self, following: int | None) -> Step:
        """The lane is through with the current step, and went on with another one, or not.

        Raises:
            RuntimeError: none was on its way.
        """
        step = self.current
        if step is None:
            raise RuntimeError("a step came back that was not on its way")
        self._taken, self._noted = max(self._taken, step.number), 0
        if following is None:
            self.current = self._gauges.step_since = None
        else:
            self._numbers = following
            self.current = Step(following, step.decision, step.jobs, step.chain)
            self._beat()
        return step

    def computes(self, job: Job) -> bool:
        """Whether the step on its way is of this request, among others."""
        return self.current is not None and job in self.current.jobs.values()

    def hasten(self, job: Job) -> None:
        """A request is to end: see that the step it is in comes back soon.

        A step of several is not one request's to lose, unless all of them are to end. Where a state
        cannot be cut, it is lost with a step that is aborted, so that a step of one token is waited
        for.
        """
        step = self.current
        if step is None or not self.computes(job):
            return
        self.stop_chain()
        long = isinstance(step.decision, Slice)
        wanted = any(not one.ending for one in step.jobs.values())
        if not wanted and (long or self._engine.capabilities.truncate):
            self._abort(step)

    def abort(self) -> None:
        """End the step on its way, whatever it is."""
        if self.current is not None:
            self.stop_chain()
            self._abort(self.current)

    def stop_chain(self) -> None:
        """There is something to decide: no step follows by itself any more."""
        if self.current is not None and self.current.chain is not None:
            self.current.chain.stopped = True

    @property
    def chain(self) -> Chain | None:
        """By which the lane decodes on by itself; None: it does not."""
        chain = None if self.current is None else self.current.chain
        return None if chain is None or chain.stopped else chain

    def goes_on_with(self, seqs: Sequence[int]) -> bool:
        """Whether the lane is decoding just these sequences by itself."""
        chain = self.chain
        return chain is not None and chain.seqs == tuple(seqs)

    # The watch

    def too_long(self, number: int) -> None:
        """A bound has passed: abort the step if it is still the same one."""
        step = self.current
        self._watch = None
        if step is None:
            return
        age = self._clock.now() - self._since
        if step.number != number or age < self._bound_s:
            self._watch_for(self._bound_s - age)
            return
        if self._owner.at != "step":  # it waits for the lane; what is there has a watch
            self._since = self._clock.now()
            self._watch_for(self._bound_s)
            return
        log.error(
            "a step of the engine has taken %.3g s, over step_timeout_s; it is aborted\n%s",
            age,
            stacks(),
        )
        step.stuck = True
        self.abort()
        self._clock.call_later(GRACE_S, lambda: self._urgent(GiveUp(number)))

    def is_lost(self, number: int) -> bool:
        """Whether an aborted step has not come back."""
        return self.current is not None and self.current.number == number

    def rest(self) -> None:
        """Watch no more, and take in no more."""
        self._resting = True
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _came(
        self, step: Step, chain: Chain, outcome: StepOutcome, following: int, take_in: TakeIn
    ) -> None:
        """The lane is through with a step and goes on. On the event loop, between two messages."""
        number = outcome.number
        if chain.stopped or self._resting or self._taken != number - 1:
            self._urgent(StepDone(outcome, None, following))  # it has something to see to first
            return
        try:
            at_ease = take_in(step, outcome)
        except Exception as error:  # it is the actor that has to fail
            self._urgent(StepDone(outcome, error, following))
            return
        now = self._clock.now()
        self._taken, self._noted = number, self._noted + 1
        self._since = self._gauges.step_since = now
        done = StepDone(outcome, None, following, True)
        if at_ease and self._noted < NOTES and now - self._told_at < NOTES_S:
            self._note(done)
        else:
            if not at_ease:
                chain.stopped = True
            self._noted, self._told_at = 0, now
            self._urgent(done)

    def _abort(self, step: Step) -> None:
        if self._engine.capabilities.abort:
            self._engine.abort(step.number)

    def _beat(self) -> None:
        self._since = self._gauges.step_since = self._clock.now()
        if self._watch is None:  # one timer for many steps: it looks at the clock when it fires
            self._watch_for(self._bound_s)

    def _watch_for(self, seconds: float) -> None:
        step = self.current
        number = 0 if step is None else step.number
        self._watch = self._clock.call_later(
            max(seconds, 0.001), lambda: self._urgent(StepTooLong(number))
        )
