"""What goes with the key of a reply."""

from __future__ import annotations

import array
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama import RequestError
from erllama.cache import Named
from erllama.model.request import Request
from erllama.model.resume import KEY_PATTERN, Cut, cut_of, join_key, split_key
from erllama.sampling import SamplerPlan, SamplingParams, plan_sampler

ROW = "0a" * 32
NAMED = Named(bytes.fromhex(ROW), 70, b"lineages")
PURE = Named(bytes.fromhex(ROW), 70, b"")
PROMPT = array.array("i", [1, 2, 3, 4, 5])
MIROSTAT = plan_sampler(SamplingParams(mirostat=2))
RULED = plan_sampler(SamplingParams(grammar='root ::= "a"+'))
FREE = plan_sampler(SamplingParams(repeat_penalty=1.2))


def cut(plan: SamplerPlan = MIROSTAT, **changes: object) -> Cut | None:
    fields: dict[str, object] = {"began": 2, "end": 5, "last": 5, "mu": 3.25, "bare": False}
    return cut_of(plan, **{**fields, **changes})  # type: ignore[arg-type]


def sure(plan: SamplerPlan = MIROSTAT, **changes: object) -> Cut:
    made = cut(plan, **changes)
    assert made is not None
    return made


def test_a_reply_that_its_tokens_tell_all_of_has_the_key_of_its_row() -> None:
    assert cut(FREE, mu=None) is None
    key = join_key(NAMED, None)
    assert key.startswith(ROW)
    assert split_key(key) == (NAMED, None)
    assert split_key(join_key(PURE, None)) == (PURE, None)
    assert split_key(ROW) == (Named(bytes.fromhex(ROW)), None)


@given(mu=st.floats(allow_nan=False, allow_infinity=False), end=st.integers(5, 2**31 - 1))
def test_what_goes_with_a_key_comes_back_bit_for_bit(mu: float, end: int) -> None:
    made = sure(mu=mu, end=end)
    key = join_key(NAMED, made)
    assert re.fullmatch(KEY_PATTERN, key)
    assert split_key(key) == (NAMED, made)
    assert made.learned == mu


def test_a_key_is_good_for_the_same_rules_and_the_same_tokens_alone() -> None:
    made = sure()
    assert made.fits(plan_sampler(SamplingParams(mirostat=2, temperature=0.5)), PROMPT)
    assert not made.fits(plan_sampler(SamplingParams(mirostat=2, mirostat_tau=3)), PROMPT)
    assert not made.fits(RULED, PROMPT)
    assert not made.fits(MIROSTAT, array.array("i", [*PROMPT, 5]))
    assert not made.fits(MIROSTAT, array.array("i", [*PROMPT[:-1], 6]))


@pytest.mark.parametrize("began", [0, 5, 2**32 - 1])
def test_a_reply_that_began_nowhere_is_not_gone_on_in(began: int) -> None:
    assert not sure(began=began).fits(MIROSTAT, PROMPT)


@pytest.mark.parametrize("mu", [float("nan"), float("inf"), None])
def test_a_state_that_is_no_number_is_none(mu: float | None) -> None:
    assert sure(mu=mu).learned is None


def test_a_reply_of_which_nothing_was_computed_says_so() -> None:
    made = sure(FREE, mu=None, bare=True)
    assert made.bare
    assert not made.ruled
    assert sure(RULED, mu=None).ruled


@pytest.mark.parametrize(
    "key", ["", "00", ROW + "0", ROW + "00", "zz" * 32, ROW + "0" * 23, ROW + "g" * 24]
)
def test_a_key_of_another_shape_is_refused_by_the_name_of_its_field(key: str) -> None:
    with pytest.raises(RequestError, match="parent_key"):
        Request(parent_key=key)


def test_any_key_of_the_right_shape_is_taken() -> None:
    for filling in "0f":
        key = ROW + filling * 76
        assert Request(parent_key=key).parent_key == key
        _, found = split_key(key)
        assert found is not None
        assert not found.fits(MIROSTAT, PROMPT)
