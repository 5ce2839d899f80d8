"""From parameters to the stages of a chain."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama.sampling import (
    Greedy,
    MinP,
    SamplerPlan,
    SamplingParams,
    Temperature,
    TopK,
    TopP,
    plan_sampler,
)
from erllama.sampling.plan import COLDEST

PARAMS = st.builds(
    SamplingParams,
    temperature=st.floats(0, 100, allow_nan=False),
    top_k=st.integers(0, 2**31 - 1),
    top_p=st.floats(0, 1, exclude_min=True, allow_nan=False),
    min_p=st.floats(0, 1, allow_nan=False),
)


def test_the_stages_come_in_the_documented_order() -> None:
    assert plan_sampler(SamplingParams()).stages == (
        TopK(40),
        TopP(0.95),
        MinP(0.05),
        Temperature(0.8),
    )


def test_temperature_zero_is_greedy_whatever_else_is_set() -> None:
    plan = plan_sampler(SamplingParams(temperature=0, top_k=3, top_p=0.1, min_p=0.5))
    assert plan == SamplerPlan((Greedy(),))
    assert not plan.draws


@pytest.mark.parametrize(
    ("option", "stage"),
    [
        ({"top_k": 0}, TopK),
        ({"top_p": 1}, TopP),
        ({"min_p": 0}, MinP),
        ({"temperature": 1}, Temperature),
    ],
)
def test_a_stage_that_changes_nothing_is_left_out(
    option: dict[str, Any], stage: type[object]
) -> None:
    stages = plan_sampler(SamplingParams(**option)).stages
    assert len(stages) == 3
    assert not any(isinstance(left, stage) for left in stages)


def test_a_chain_of_no_stages_still_draws() -> None:
    plan = plan_sampler(SamplingParams(temperature=1, top_k=0, top_p=1, min_p=0))
    assert plan == SamplerPlan(())
    assert plan.draws


@given(params=PARAMS)
def test_any_plan_survives_a_journey_to_another_process(params: SamplingParams) -> None:
    plan = plan_sampler(params)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(plan), type=SamplerPlan) == plan


@given(params=PARAMS)
def test_only_greedy_plans_need_no_draw(params: SamplingParams) -> None:
    assert plan_sampler(params).draws == (params.temperature >= COLDEST)
