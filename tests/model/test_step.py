"""Plans from decisions, and the chain of decode steps that the lane goes on with by itself."""

from __future__ import annotations

import array
from typing import Any

import pytest

from erllama.backend.base import AdapterUse, Row, Sampled, StepOutcome, StepPlan
from erllama.model.gauges import Gauges
from erllama.model.generation import Generation
from erllama.model.request import make_request
from erllama.model.scheduler import Decode
from erllama.model.step import LEAD, Chain, decode_plan, slice_plan
from erllama.model.stepper import NOTES, NOTES_S, Step, Stepper


def generation(seq: int, *, n_prompt: int = 10, fills: bool = False, **options: Any) -> Generation:
    return Generation(
        fills=fills,
        prompt=array.array("i", range(n_prompt)),
        request=make_request({"temperature": 0, **options}),
        seed=seq,
        seq=seq,
        n_ctx=4_000,
        asked=0.0,
        admitted=0.0,
        now=0.0,
    )


def generating(seq: int, **options: Any) -> Generation:
    """One whose prompt is computed, with one token drawn."""
    made = generation(seq, **options)
    made.apply(10, sampled(seq, 50 + seq), (), 0.0)
    return made


def sampled(seq: int, token: int, *, end: bool = False) -> Sampled:
    return Sampled(seq=seq, token=token, piece=b"x", end=end)


def outcome(number: int, position: int, *drawn: Sampled, **fields: Any) -> StepOutcome:
    return StepOutcome(
        number=number,
        positions={one.seq: position for one in drawn},
        sampled=drawn,
        **({"status": "done"} | fields),
    )


def test_a_decode_plan_has_a_row_and_a_draw_for_each() -> None:
    plan = decode_plan(7, [generating(0), generating(3)], end=(1,))
    assert plan.rows == (Row(0, 10, 50), Row(3, 10, 53))
    assert [draw.seq for draw in plan.draws] == [0, 3]
    assert (plan.number, plan.end, plan.prefill, plan.begin) == (7, (1,), None, ())


def test_a_sequence_is_begun_once_and_again_after_it_was_moved() -> None:
    fresh = generation(2)
    plan = slice_plan(1, [fresh], limit=64, granule=64)
    assert [(begin.seq, begin.keep) for begin in plan.begin] == [(2, 0)]
    fresh.apply(10, sampled(2, 9), (), 0.0)
    assert decode_plan(2, [fresh]).begin == ()
    fresh.moved(1)
    assert [(begin.seq, begin.keep) for begin in decode_plan(3, [fresh]).begin] == [(1, 10)]


def test_only_the_last_slice_of_a_prompt_is_drawn_from() -> None:
    long = generation(0, n_prompt=70)
    first = slice_plan(1, [long], limit=64, granule=64)
    assert (first.draws, first.keep_logits) == ((), False)
    long.apply(64, None, (), 0.0)
    assert len(slice_plan(2, [long], limit=64, granule=64).draws) == 1


@pytest.mark.parametrize(
    ("n_prompt", "fills", "filled"),
    [(1_080, True, 8), (1_080, False, 0), (1_071, True, 0), (1_088, True, 0), (2_090, True, 22)],
)
def test_the_tail_of_a_deep_prompt_is_filled_up_where_that_is_quicker(
    n_prompt: int, fills: bool, filled: int
) -> None:
    deep = generation(0, n_prompt=n_prompt, fills=fills)
    at = n_prompt - n_prompt % 64
    assert slice_plan(1, [deep], limit=512, granule=64).slices[0].fill == 0
    deep.apply(at if n_prompt % 64 else at - 64, None, (), 0.0)
    tail = slice_plan(2, [deep], limit=512, granule=64).slices[0]
    assert tail.fill == filled
    assert deep.joins(64) == (not filled), "a step with padding is for one prompt"


def test_what_shares_no_step_says_so() -> None:
    assert generation(0, n_prompt=64).joins(64)
    adapted = generation(0, n_prompt=64)
    adapted.adapters = (AdapterUse(1, "a" * 64, 1.0),)
    assert not adapted.joins(64), "an adapter's matrices may be of other types"
    halted = generation(0, n_prompt=640)
    halted.stops = [128]
    assert not halted.joins(64)
    begun = generation(0, n_prompt=200)
    begun.apply(70, None, (), 0.0)
    assert not begun.joins(64)


def test_the_step_that_follows_is_the_one_that_would_have_been_planned() -> None:
    chain = Chain(4, [generating(0), generating(1)])
    after = outcome(4, 11, sampled(0, 70), sampled(1, 71))
    following = chain.follow(after)
    told = [generating(0), generating(1)]
    for one, drawn in zip(told, after.sampled, strict=True):
        one.apply(11, drawn, (), 0.0)
    assert following == decode_plan(5, told)


@pytest.mark.parametrize(
    "after",
    [
        outcome(4, 11, sampled(0, 70), sampled(1, 71, end=True)),
        outcome(4, 11, sampled(0, 70), sampled(1, 71), status="aborted"),
        outcome(4, 11, sampled(0, 70), sampled(1, 71), status="no_slot"),
        outcome(4, 11, sampled(0, 70), sampled(1, 71), status="failed"),
        outcome(4, 11, sampled(0, 70), failures={1: "not finite"}),
    ],
    ids=["end", "aborted", "no_slot", "failed", "failure"],
)
def test_nothing_follows_where_there_is_something_to_decide(after: StepOutcome) -> None:
    assert Chain(4, [generating(0), generating(1)]).follow(after) is None


def test_nothing_follows_the_last_token_of_any() -> None:
    chain = Chain(4, [generating(0, max_tokens=3), generating(1, max_tokens=4)])
    assert chain.follow(outcome(4, 11, sampled(0, 70), sampled(1, 71))) is not None
    assert chain.follow(outcome(5, 12, sampled(0, 72), sampled(1, 73))) is None


def test_nothing_follows_once_the_chain_was_stopped() -> None:
    chain = Chain(4, [generating(0)])
    assert chain.follow(outcome(4, 11, sampled(0, 70))) is not None
    chain.stopped = True
    assert chain.follow(outcome(5, 12, sampled(0, 70))) is None


def test_a_chain_waits_for_an_event_loop_that_does_not_hear_of_it() -> None:
    chain = Chain(4, [generating(0)])
    last = 3 + LEAD
    for number in range(4, last):
        assert chain.follow(outcome(number, number + 7, sampled(0, 70))) is not None
    assert chain.follow(outcome(last, last + 7, sampled(0, 70))) is None
    chain.heard = 4
    assert chain.follow(outcome(last, last + 7, sampled(0, 70))) is not None


def test_a_step_that_follows_a_stuck_one_is_not_stuck_itself() -> None:
    stepper = Ahead().stepper
    stepper.current = Step(4, Decode((0,)), {}, Chain(4, [generating(0)]), stuck=True)
    assert stepper.done(5).stuck
    assert stepper.current is not None
    assert (stepper.current.number, stepper.current.stuck) == (5, False)


class Ahead:
    """A stepper whose lane has gone on by itself from step 4, on `seq` 0.

    Attributes:
        urgent, noted: the numbers of the steps that the actor was told of, and whether it has still
            to take them in.
    """

    def __init__(self) -> None:
        self.urgent: list[tuple[int, bool]] = []
        self.noted: list[tuple[int, bool]] = []
        self.took: list[int] = []
        self.error: BaseException | None = None
        self.at_ease = True
        self.clock = StandingClock()
        nothing: Any = None
        self.stepper = Stepper(
            owner=self,  # type: ignore[arg-type]
            engine=nothing,
            gauges=Gauges("x"),
            clock=self.clock,
            urgent=lambda done: self.tell(self.urgent, done),
            note=lambda done: self.tell(self.noted, done),
            bound_s=1.0,
        )
        self.generation = generating(0)
        self.chain = Chain(4, [self.generation])
        self.came: Any = None

    def tell(self, told: list[tuple[int, bool]], done: Any) -> bool:
        told.append((done.outcome.number, done.taken))
        self.error = done.error
        return True

    def submit(self, _plan: StepPlan, _follow: Any, came: Any) -> None:
        self.came = came

    def start(self, number: int = 4) -> None:
        plan = decode_plan(number, [self.generation])
        self.stepper.start(plan, Decode((0,)), [], self.chain, self.take_in)

    def take_in(self, _step: Step, done: StepOutcome) -> bool:
        self.took.append(done.number)
        return self.at_ease

    def comes(self, number: int, *, following: bool = True) -> None:
        done = outcome(number, number + 7, sampled(0, 70))
        self.came(done, None, number + 1 if following else None)


def test_tokens_of_a_chain_are_taken_in_as_they_come_and_the_actor_sleeps() -> None:
    ahead = Ahead()
    ahead.start()
    for number in range(4, 3 + NOTES):
        ahead.comes(number)
    assert ahead.took == list(range(4, 3 + NOTES))
    assert ahead.noted == [(number, True) for number in ahead.took]
    assert ahead.urgent == []
    assert ahead.chain.heard == 2 + NOTES
    ahead.comes(3 + NOTES)
    assert ahead.urgent == [(3 + NOTES, True)]
    ahead.comes(4 + NOTES)
    assert ahead.noted[-1] == (4 + NOTES, True)


def test_the_actor_of_a_slow_model_is_told_of_every_step() -> None:
    ahead = Ahead()
    ahead.start()
    for number in (4, 5, 6):
        ahead.clock.time += 2 * NOTES_S
        ahead.comes(number)
    assert ahead.urgent == [(4, True), (5, True), (6, True)]


def test_who_needs_the_actor_wakes_it_and_ends_the_chain() -> None:
    ahead = Ahead()
    ahead.start()
    ahead.comes(4)
    ahead.at_ease = False
    ahead.comes(5)
    assert (ahead.noted, ahead.urgent) == ([(4, True)], [(5, True)])
    assert ahead.chain.stopped
    ahead.comes(6)  # the lane had gone on by then
    assert ahead.took == [4, 5]
    assert ahead.urgent[-1] == (6, False)


def test_the_actor_takes_in_the_last_step_of_a_chain_itself() -> None:
    ahead = Ahead()
    ahead.start()
    ahead.comes(4)
    ahead.comes(5, following=False)
    assert (ahead.took, ahead.urgent) == ([4], [(5, False)])


def test_nothing_is_taken_in_before_what_the_actor_has_still_to_take_in() -> None:
    ahead = Ahead()
    ahead.start()
    ahead.chain.stopped = True
    ahead.comes(4)
    ahead.chain.stopped = False
    ahead.comes(5)
    assert (ahead.took, ahead.urgent) == ([], [(4, False), (5, False)])
    ahead.stepper.done(5)
    ahead.stepper.done(6)
    ahead.comes(6)
    assert (ahead.took, ahead.noted) == ([6], [(6, True)])


def test_nothing_is_taken_in_once_the_actor_ends() -> None:
    ahead = Ahead()
    ahead.start()
    ahead.stepper.rest()
    ahead.comes(4)
    assert (ahead.took, ahead.urgent) == ([], [(4, False)])


def test_it_is_the_actor_that_fails_where_a_step_cannot_be_taken_in() -> None:
    ahead = Ahead()

    def fail(_step: Step, _outcome: StepOutcome) -> bool:
        raise ZeroDivisionError

    plan = decode_plan(4, [ahead.generation])
    ahead.stepper.start(plan, Decode((0,)), [], ahead.chain, fail)
    ahead.comes(4)
    assert isinstance(ahead.error, ZeroDivisionError)
    assert ahead.urgent == [(4, False)]


class StandingClock:
    """Moves when it is told to."""

    time = 0.0

    def now(self) -> float:
        return self.time

    def call_later(self, delay: float, callback: Any) -> Any:
        return None
