"""Plans from decisions, and the chain of decode steps that the lane goes on with by itself."""

from __future__ import annotations

import array
from typing import Any

import pytest

from erllama.backend.base import AdapterUse, Row, Sampled, StepOutcome
from erllama.model.gauges import Gauges
from erllama.model.generation import Generation
from erllama.model.request import make_request
from erllama.model.scheduler import Decode
from erllama.model.step import Chain, decode_plan, slice_plan
from erllama.model.stepper import Step, Stepper


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
    chain = Chain([generating(0), generating(1)])
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
    assert Chain([generating(0), generating(1)]).follow(after) is None


def test_nothing_follows_the_last_token_of_any() -> None:
    chain = Chain([generating(0, max_tokens=3), generating(1, max_tokens=4)])
    assert chain.follow(outcome(4, 11, sampled(0, 70), sampled(1, 71))) is not None
    assert chain.follow(outcome(5, 12, sampled(0, 72), sampled(1, 73))) is None


def test_nothing_follows_once_the_chain_was_stopped() -> None:
    chain = Chain([generating(0)])
    assert chain.follow(outcome(4, 11, sampled(0, 70))) is not None
    chain.stopped = True
    assert chain.follow(outcome(5, 12, sampled(0, 70))) is None


def test_a_step_that_follows_a_stuck_one_is_not_stuck_itself() -> None:
    nothing: Any = None
    stepper = Stepper(
        owner=nothing,
        engine=nothing,
        gauges=Gauges("x"),
        clock=StandingClock(),
        urgent=lambda _: True,
        bound_s=1.0,
    )
    stepper.current = Step(4, Decode((0,)), {}, Chain([generating(0)]), stuck=True)
    assert stepper.done(5).stuck
    assert stepper.current is not None
    assert (stepper.current.number, stepper.current.stuck) == (5, False)


class StandingClock:
    def now(self) -> float:
        return 0.0

    def call_later(self, delay: float, callback: Any) -> Any:
        return None
