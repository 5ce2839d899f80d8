"""From parameters to the stages of a chain."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama.errors import RequestError
from erllama.sampling import (
    Dry,
    Grammar,
    Greedy,
    IgnoreEnd,
    LogitBias,
    MinP,
    Mirostat,
    Penalties,
    SamplerPlan,
    SamplingParams,
    Temperature,
    TopK,
    TopP,
    Typical,
    Xtc,
    check_biases,
    plan_sampler,
)
from erllama.sampling.plan import COLDEST

PARAMS = st.builds(
    SamplingParams,
    temperature=st.floats(0, 100, allow_nan=False),
    top_k=st.integers(0, 2**31 - 1),
    top_p=st.floats(0, 1, exclude_min=True, allow_nan=False),
    min_p=st.floats(0, 1, allow_nan=False),
    typical_p=st.sampled_from([0.5, 1.0]),
    repeat_penalty=st.sampled_from([1.0, 1.5]),
    repeat_last_n=st.integers(-1, 100),
    dry_multiplier=st.sampled_from([0, 0.8]),
    dry_sequence_breakers=st.lists(st.text("ab", min_size=1, max_size=40), max_size=3),
    xtc_probability=st.sampled_from([0, 0.5]),
    mirostat=st.sampled_from([0, 1, 2]),
    logit_bias=st.dictionaries(
        st.integers(0, 2**31 - 1), st.sampled_from([1.0, -1.5, float("-inf")]), max_size=4
    ),
    ignore_eos=st.booleans(),
    logprobs=st.none() | st.integers(0, 100),
    grammar=st.none() | st.just('root ::= "a"'),
)

EVERYTHING: dict[str, Any] = {
    "logit_bias": {3: 1.5, 4: float("-inf")},
    "ignore_eos": True,
    "grammar": 'root ::= "a"',
    "repeat_penalty": 1.1,
    "frequency_penalty": 0.2,
    "presence_penalty": 0.3,
    "dry_multiplier": 0.8,
    "typical_p": 0.9,
    "xtc_probability": 0.5,
    "logprobs": 5,
}
EDITS = (
    LogitBias((3,), (1.5,), (4,)),
    IgnoreEnd(),
    Grammar('root ::= "a"'),
    Penalties(64, 1.1, 0.2, 0.3),
    Dry(0.8, 1.75, 2, -1, ("\n", ":", '"', "*")),
)


def test_the_stages_come_in_the_documented_order() -> None:
    assert plan_sampler(SamplingParams()).stages == (
        TopK(40),
        TopP(0.95),
        MinP(0.05),
        Temperature(0.8),
    )


def test_all_stages_come_in_the_documented_order() -> None:
    assert plan_sampler(SamplingParams(**EVERYTHING)) == SamplerPlan(
        (*EDITS, TopK(40), Typical(0.9), TopP(0.95), MinP(0.05), Xtc(0.5, 0.1), Temperature(0.8)), 5
    )


def test_temperature_zero_is_greedy_behind_what_changes_logits() -> None:
    plan = plan_sampler(SamplingParams(temperature=0, top_k=3, top_p=0.1, min_p=0.5, mirostat=2))
    assert plan == SamplerPlan((Greedy(),))
    assert not plan.draws
    plan = plan_sampler(SamplingParams(**EVERYTHING, temperature=0))
    assert plan.stages == (*EDITS, Greedy())
    assert not plan.draws


@pytest.mark.parametrize("version", [1, 2])
def test_mirostat_takes_the_place_of_the_filters(version: Any) -> None:
    plan = plan_sampler(SamplingParams(**EVERYTHING, mirostat=version, mirostat_tau=3))
    assert plan.stages == (*EDITS, Temperature(0.8), Mirostat(version, 3, 0.1))
    assert plan.draws


@pytest.mark.parametrize(
    "options",
    [
        {"repeat_last_n": 0, "repeat_penalty": 2.0},
        {"repeat_penalty": 1.0, "repeat_last_n": -1},
        {"dry_penalty_last_n": 0, "dry_multiplier": 1.0},
        {"dry_base": 3.0},
        {"xtc_threshold": 0.51, "xtc_probability": 1.0},
        {"xtc_threshold": 0.1},
        {"logit_bias": {}},
    ],
)
def test_settings_that_change_nothing_are_left_out(options: dict[str, Any]) -> None:
    assert plan_sampler(SamplingParams(**options)) == plan_sampler(SamplingParams())


def test_only_what_looks_at_the_tokens_before_needs_them() -> None:
    looking: list[dict[str, Any]] = [
        {"grammar": "x"},
        {"presence_penalty": 1.0},
        {"dry_multiplier": 1.0},
    ]
    assert all(plan_sampler(SamplingParams(**one)).needs_history for one in looking)
    others: dict[str, Any] = {"mirostat": 1, "logit_bias": {1: 1.0}, "ignore_eos": True}
    assert not plan_sampler(SamplingParams(**others)).needs_history


def test_only_what_asks_something_of_the_vocabulary_needs_preparing() -> None:
    asking: list[dict[str, Any]] = [
        {"grammar": "x"},
        {"logit_bias": {1: 1.0}},
        {"ignore_eos": True},
        {"dry_multiplier": 1.0},
    ]
    assert all(plan_sampler(SamplingParams(**one)).needs_preparing for one in asking)
    others: dict[str, Any] = {"mirostat": 1, "repeat_penalty": 2.0, "logprobs": 1}
    assert not plan_sampler(SamplingParams(**others)).needs_preparing


@pytest.mark.parametrize("bias", [1.0, float("-inf")])
def test_a_bias_for_a_token_that_there_is_not_is_refused(bias: float) -> None:
    plan = plan_sampler(SamplingParams(logit_bias={9: bias}))
    check_biases(plan, 10)
    with pytest.raises(RequestError, match="logit_bias: token id 9 is not in the vocabulary"):
        check_biases(plan, 9)


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
