"""Sampling parameters say what is wrong with them."""

from __future__ import annotations

from typing import Any

import pytest

from erllama.errors import RequestError
from erllama.sampling import SamplingParams


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("temperature", -0.1, "at least 0 and at most 100"),
        ("temperature", float("nan"), "at least 0"),
        ("temperature", "hot", "expected `float`"),
        ("top_k", -1, "at least 0 and at most 2,147,483,647"),
        ("top_k", 1.5, "expected `int`"),
        ("top_p", 0, "more than 0 and at most 1"),
        ("top_p", 1.01, "at most 1"),
        ("min_p", float("inf"), "at most 1"),
        ("seed", -1, "at least 0"),
        ("seed", 2**63, "9,223,372,036,854,775,807"),
        ("seed", True, "expected `int"),
        ("typical_p", 0, "more than 0 and at most 1"),
        ("repeat_penalty", 0, "more than 0 and at most 100"),
        ("repeat_last_n", -2, "at least -1"),
        ("frequency_penalty", float("nan"), "at least -100 and at most 100"),
        ("presence_penalty", 101, "at most 100"),
        ("dry_multiplier", -1, "at least 0"),
        ("dry_base", 0.5, "at least 1"),
        ("dry_allowed_length", 0, "at least 1"),
        ("dry_penalty_last_n", -2, "at least -1"),
        ("dry_sequence_breakers", "abc", "expected `array`"),
        ("dry_sequence_breakers", [""], "of length at most 64 and at least 1"),
        ("xtc_probability", 1.1, "at most 1"),
        ("xtc_threshold", -0.1, "at least 0"),
        ("mirostat", 3, "one of 0, 1, 2"),
        ("mirostat_tau", 0, "more than 0"),
        ("mirostat_eta", -1, "at least 0"),
        ("logit_bias", [1], "expected `object`"),
        ("ignore_eos", 1, "expected `bool`"),
        ("logprobs", -1, "at least 0 and at most 100"),
        ("logprobs", 101, "at most 100"),
        ("grammar", "", "at least 1 and at most 200,000"),
    ],
)
def test_a_bad_value_is_a_request_error_with_field_value_and_expectation(
    field: str, value: object, expected: str
) -> None:
    with pytest.raises(RequestError) as refused:
        SamplingParams(**{field: value})  # type: ignore[arg-type]
    said = str(refused.value)
    assert said.startswith(f"SamplingParams.{field}: expected ")
    assert expected in said
    assert f"got {value!r}" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"logit_bias": {-1: 1.0}}, "logit_bias: -1 is no token id; ids begin at 0"),
        ({"logit_bias": {2**31: 1.0}}, "logit_bias: 2147483648 is no token id"),
        ({"logit_bias": {5: float("nan")}}, "logit_bias: nan for token 5; give -10,000 to 10,000"),
        ({"logit_bias": {5: float("inf")}}, "logit_bias: inf for token 5"),
        ({"logit_bias": dict.fromkeys(range(10_001), 0.0)}, "logit_bias: has 10,001 tokens"),
        ({"logit_bias": {"5": 1.0}}, "SamplingParams: Expected `int`, got `str` - at `key` in"),
        ({"dry_sequence_breakers": ["é" * 21]}, "dry_sequence_breakers: 'ééé"),
        ({"dry_sequence_breakers": ["\ud800"]}, "dry_sequence_breakers: has half of a surrogate"),
        ({"grammar": 'root ::= "\udfff"'}, "grammar: has half of a surrogate pair; remove it"),
    ],
)
def test_what_limits_cannot_say_is_refused_by_name(options: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError) as refused:
        SamplingParams(**options)
    assert str(refused.value).startswith(said)


def test_a_ban_is_a_bias_of_minus_infinity() -> None:
    bias = {0: float("-inf"), 7: 1}
    assert SamplingParams(logit_bias=bias).logit_bias == bias


def test_a_misspelt_parameter_names_the_nearest() -> None:
    with pytest.raises(TypeError, match="did you mean 'temperature'"):
        SamplingParams(temprature=1)  # type: ignore[call-arg]


def test_the_limits_themselves_are_accepted() -> None:
    assert SamplingParams(temperature=0, top_k=0, top_p=1, min_p=0, seed=0)
    assert SamplingParams(temperature=100, top_k=2**31 - 1, top_p=5e-324, min_p=1, seed=2**63 - 1)


@pytest.mark.parametrize(
    "given",
    [
        {"grammar": "root ::= .*", "json_schema": {}},
        {"grammar": "root ::= .*", "regex": "a"},
        {"json_schema": "true", "regex": "a"},
    ],
)
def test_two_that_rule_the_whole_text_are_refused_by_name(given: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=f"^{' and '.join(given)}: each rules the whole text"):
        SamplingParams(**given)
