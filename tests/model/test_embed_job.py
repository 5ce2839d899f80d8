"""What is to be embedded, and what of it is computed together."""

from __future__ import annotations

import array
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama.backend.base import AdapterUse, EmbedCapabilities
from erllama.errors import PromptTooLong, RequestError
from erllama.model.embed_job import (
    EmbedJob,
    Portion,
    check_embeddable,
    check_inputs,
    pack,
    vector_of,
)

GRANULE = 64


def can(**options: Any) -> EmbedCapabilities:
    defaults: dict[str, Any] = {
        "pooling": "mean",
        "n_out": 4,
        "n_inputs": 4,
        "n_rows": 256,
        "n_input": 1_024,
        "whole": False,
        "abort": True,
    }
    return EmbedCapabilities(**(defaults | options))


def job(*lengths: int) -> EmbedJob:
    made = EmbedJob([], True)
    made.tokens = [array.array("i", [1] * length) for length in lengths]
    return made


def sizes(portion: Portion) -> list[int]:
    return [len(share.tokens) for share in portion.shares]


def take_in(portion: Portion) -> None:
    """What the actor does with a portion that was computed."""
    for share in portion.shares:
        if portion.more:
            share.job.position += len(share.tokens)
        else:
            share.job.vectors.append([0.0])
            share.job.position = 0


def test_inputs_of_several_callers_are_computed_together_each_in_turn() -> None:
    first, second = job(10, 11, 12), job(20)
    portion = pack([first, second], can(), 256, GRANULE)
    assert [(share.job, len(share.tokens)) for share in portion.shares] == [
        (first, 10),
        (second, 20),
        (first, 11),
        (first, 12),
    ]


def test_inputs_with_other_adapters_wait_for_a_call_of_their_own() -> None:
    jobs = [job(10), job(11), job(12)]
    jobs[1].adapters = (AdapterUse(1, "a" * 64, 0.5),)
    portion = pack(jobs, can(), 256, GRANULE)
    assert sizes(portion) == [10, 12]
    take_in(portion)
    assert sizes(pack([one for one in jobs if one.left], can(), 256, GRANULE)) == [11]


def test_a_call_has_no_more_inputs_than_it_can_have() -> None:
    assert sizes(pack([job(1, 2, 3, 4, 5)], can(n_inputs=3), 256, GRANULE)) == [1, 2, 3]


def test_a_call_has_no_more_rows_than_the_limit() -> None:
    assert sizes(pack([job(60, 60, 60)], can(), 128, GRANULE)) == [60, 60]


def test_a_long_input_is_cut_and_goes_alone() -> None:
    portion = pack([job(300, 5)], can(), 128, GRANULE)
    assert (sizes(portion), portion.pos, portion.more) == ([128], 0, True)


def test_an_input_that_was_begun_goes_on_before_all_others() -> None:
    begun, other = job(300), job(5)
    begun.position = 256
    portion = pack([other, begun], can(), 128, GRANULE)
    assert (sizes(portion), portion.pos, portion.more) == ([44], 256, False)
    assert portion.shares[0].job is begun


def test_an_input_that_cannot_be_cut_goes_alone_over_the_limit() -> None:
    portion = pack([job(200, 5)], can(whole=True), 64, GRANULE)
    assert (sizes(portion), portion.more) == ([200], False)


@given(
    st.integers(1, 1_024), st.lists(st.sampled_from([64, 128, 192, 256]), min_size=16, max_size=16)
)
def test_where_inputs_go_alone_the_cuts_follow_the_exact_slicing_rule(
    length: int, limits: list[int]
) -> None:
    one = job(length)
    ends = []
    for limit in limits:
        portion = pack([one], can(n_inputs=1), limit, GRANULE)
        ends.append(portion.pos + sizes(portion)[0])
        take_in(portion)
        if not portion.more:
            break
    assert (ends[-1], not one.left) in ((length, True), (ends[-1], False))
    cuts = [end for end in ends if end != length]
    assert all(cut % GRANULE == 0 for cut in cuts)
    if not one.left and length > length % GRANULE > 0:
        assert length - length % GRANULE in cuts


@given(
    st.lists(st.lists(st.integers(1, 400), min_size=1, max_size=5), min_size=1, max_size=4),
    st.integers(1, 5),
    st.booleans(),
)
def test_everything_is_embedded_once(lengths: list[list[int]], n: int, whole: bool) -> None:
    limit = 128
    jobs = [job(*some) for some in lengths]
    able = can(n_inputs=n, whole=whole, n_rows=400)
    done = 0
    while any(one.left for one in jobs):
        portion = pack([one for one in jobs if one.left], able, limit, GRANULE)
        assert len(portion.shares) <= n
        assert sum(sizes(portion)) <= (limit if len(portion.shares) > 1 else 400)
        done += sum(sizes(portion))
        take_in(portion)
    assert done == sum(map(sum, lengths))
    assert [len(one.vectors) for one in jobs] == [len(some) for some in lengths]


# Vectors


def floats(*values: float) -> bytes:
    return array.array("f", values).tobytes()


def test_a_vector_is_normalised_to_length_one() -> None:
    assert vector_of(floats(3, 0, -4), normalize=True) == pytest.approx([0.6, 0, -0.8])
    assert vector_of(floats(3, 0, -4), normalize=False) == [3, 0, -4]


def test_a_vector_of_zeros_stays_as_it_is() -> None:
    assert vector_of(floats(0, 0), normalize=True) == [0, 0]


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_a_vector_that_is_not_finite_is_none(wrong: float) -> None:
    assert vector_of(floats(1, wrong), normalize=True) is None
    assert vector_of(floats(1, wrong), normalize=False) is None


# Inputs


def test_one_prompt_is_told_from_several() -> None:
    assert check_inputs("text") == (["text"], False)
    assert check_inputs([1, 2]) == ([array.array("i", [1, 2])], False)
    assert check_inputs(["a", "b"]) == (["a", "b"], True)
    assert check_inputs(["a"]) == (["a"], True)
    assert check_inputs([[1], [2, 3]]) == (
        [array.array("i", [1]), array.array("i", [2, 3])],
        True,
    )


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("", "prompt: is empty"),
        ([], "prompt: is empty"),
        (None, "prompt: expected"),
        (5, "prompt: expected"),
        (b"bytes", "prompt: expected"),
        ([1.5], "prompt"),
        ([2**40], "prompt"),
        (["a", ""], r"prompt\[1\]: is empty"),
        (["a", 5], r"prompt\[1\]: expected"),
        ([[1], []], r"prompt\[1\]: is empty"),
        (["a"] * 10_001, "10,001 inputs"),
    ],
)
def test_what_is_no_prompt_is_refused(prompt: Any, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        check_inputs(prompt)


def test_tokens_that_the_model_cannot_take_are_refused() -> None:
    long, short, bad = (array.array("i", tokens) for tokens in ([1] * 9, [1], [7]))
    check_embeddable([short], n_vocab=7, n_input=8)
    with pytest.raises(PromptTooLong, match=r"prompt: has 9 tokens, at most 8"):
        check_embeddable([long], n_vocab=7, n_input=8)
    with pytest.raises(PromptTooLong, match=r"prompt\[1\]: has 9 tokens"):
        check_embeddable([short, long], n_vocab=7, n_input=8)
    with pytest.raises(RequestError, match="id 7 is not in the vocabulary"):
        check_embeddable([bad], n_vocab=7, n_input=8)
