"""Structs that check their own values."""

from __future__ import annotations

import pathlib
from typing import Annotated, Any, ClassVar, Literal

import pytest
from msgspec import Meta

from erllama import ContextConfig
from erllama.checked import Checked, describe, unknown_keyword
from erllama.errors import ConfigError, RequestError


class Sample(Checked, frozen=True, kw_only=True):
    """One field of each kind."""

    count: Annotated[int, Meta(ge=1, lt=10_000, description="How many.")] = 1
    share: Annotated[float, Meta(gt=0, le=1, description="How much.")] = 0.5
    mode: Annotated[Literal["fast", "slow"] | None, Meta(description="How.")] = None
    choice: Annotated[Literal["a", "b"], Meta(description="Which.")] = "a"
    nested: Annotated[Annotated[int, Meta(ge=5)] | None, Meta(description="Perhaps a number.")] = (
        None
    )
    items: Annotated[
        Annotated[tuple[Annotated[int, Meta(ge=0)], ...], Meta(max_length=2)],
        Meta(description="A few."),
    ] = ()
    path: Annotated[str, Meta(min_length=1, description="Where.")] = "."
    bare: bool = False


class Request(Checked, frozen=True, kw_only=True):
    """With an error class of its own."""

    error: ClassVar[type[Exception]] = RequestError

    n: Annotated[int, Meta(ge=0)] = 0


def refusal(**fields: Any) -> str:
    with pytest.raises(ConfigError) as refused:
        Sample(**fields)
    return str(refused.value)


def test_good_values_are_kept() -> None:
    sample = Sample(count=9_999, share=1, mode="slow", nested=5, items=(0, 1), bare=True)
    assert (sample.count, sample.share, sample.mode, sample.nested) == (9_999, 1.0, "slow", 5)
    assert (sample.items, sample.bare) == ((0, 1), True)


def test_an_error_has_field_value_expectation_and_description() -> None:
    assert refusal(count=0) == (
        "Sample.count: expected `int` at least 1 and less than 10,000, got 0. How many."
    )
    assert refusal(share=0) == (
        "Sample.share: expected `float` more than 0 and at most 1, got 0. How much."
    )


def test_a_wrong_type_is_named() -> None:
    assert "expected `int`" in refusal(count="3")
    assert "got '3'" in refusal(count="3")
    assert "expected `int`" in refusal(count=True)
    assert "expected `bool`" in refusal(bare=1)


def test_choices_are_listed_also_of_optional_fields() -> None:
    assert "expected one of 'a', 'b', got 'c'. Which." in refusal(choice="c")
    assert "expected one of 'fast', 'slow', got 'c'. How." in refusal(mode="c")


def test_limits_inside_an_optional_hold() -> None:
    assert "at least 5, got 4. Perhaps a number." in refusal(nested=4)
    assert Sample(nested=None).nested is None


def test_limits_on_length_and_on_items_are_told_apart() -> None:
    assert "of length at most 2, got (1, 2, 3)" in refusal(items=(1, 2, 3))
    said = refusal(items=(1, -1))
    assert "at least 0" in said
    assert "length" not in said
    assert "of length at least 1, got ''. Where." in refusal(path="")


def test_a_list_given_for_a_tuple_becomes_one() -> None:
    sample = Sample(items=[1, 2])  # type: ignore[arg-type]
    assert sample.items == (1, 2)
    assert hash(sample) == hash(Sample(items=(1, 2)))


def test_a_path_is_as_good_as_its_text() -> None:
    path: Any = pathlib.Path("a") / "b"
    assert Sample(path=path).path == "a/b"


def test_a_long_value_is_shortened() -> None:
    said = refusal(choice="x" * 500)
    assert "…" in said
    assert len(said) < 200


def test_an_unknown_keyword_names_the_nearest() -> None:
    with pytest.raises(TypeError) as refused:
        Sample(cuont=1)  # type: ignore[call-arg]
    assert str(refused.value) == "Sample has no option 'cuont'; did you mean 'count'?"


def test_an_unknown_keyword_far_from_all_lists_them() -> None:
    assert unknown_keyword("X", "zzz", ["b", "a"]) == "X has no option 'zzz'; known options: a, b"


def test_a_class_may_have_its_own_error() -> None:
    with pytest.raises(RequestError, match=r"Request\.n"):
        Request(n=-1)


def test_values_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Sample().count = 2  # type: ignore[misc]


def test_every_field_is_described_once() -> None:
    assert describe(Sample) == {
        "count": "How many.",
        "share": "How much.",
        "mode": "How.",
        "choice": "Which.",
        "nested": "Perhaps a number.",
        "items": "A few.",
        "path": "Where.",
        "bare": "",
    }


def test_a_value_that_cannot_be_written_down_is_refused_all_the_same() -> None:
    deep: list[object] = []
    for _ in range(3_000):
        deep = [deep]
    for value in (deep, "\ud800"):
        with pytest.raises(ConfigError, match=r"ContextConfig\.n_ctx: "):
            ContextConfig(n_ctx=value)  # type: ignore[arg-type]
