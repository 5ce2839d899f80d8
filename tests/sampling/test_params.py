"""Sampling parameters say what is wrong with them."""

from __future__ import annotations

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


def test_a_misspelt_parameter_names_the_nearest() -> None:
    with pytest.raises(TypeError, match="did you mean 'temperature'"):
        SamplingParams(temprature=1)  # type: ignore[call-arg]


def test_the_limits_themselves_are_accepted() -> None:
    assert SamplingParams(temperature=0, top_k=0, top_p=1, min_p=0, seed=0)
    assert SamplingParams(temperature=100, top_k=2**31 - 1, top_p=5e-324, min_p=1, seed=2**63 - 1)
