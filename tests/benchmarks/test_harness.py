"""Children that take turns, and what is made of what they answer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.child import random_prompt
from benchmarks.harness import (
    ChildFailed,
    Figure,
    Options,
    Side,
    Target,
    in_turns,
    percentile,
    sides,
)
from benchmarks.plain_loop import batch_slices, exact_slices
from erllama.config import GRANULE
from erllama.model.slicing import slice_rows

ECHOING, FAILING, HANGING, LOOKING_AROUND = (
    f"tests.benchmarks.children:{name}"
    for name in ("echoing", "failing", "hanging", "looking_around")
)


@pytest.fixture
def echo() -> Iterator[Side]:
    with Side(ECHOING, {"a": 1}) as side:
        yield side


def test_a_child_gets_its_config_and_answers_each_order(echo: Side) -> None:
    assert echo.ready == {"config": {"a": 1}}
    assert echo.ask(x=2) == {"echo": {"x": 2}}
    assert echo.ask(y=[3]) == {"echo": {"y": [3]}}


def test_every_side_knows_its_name() -> None:
    with sides({"a": ECHOING, "b": ECHOING}, n=1) as children:
        assert {name: child.ready["config"] for name, child in children.items()} == {
            "a": {"n": 1, "side": "a"},
            "b": {"n": 1, "side": "b"},
        }


def test_a_child_that_fails_is_reported_with_what_it_said() -> None:
    with Side(FAILING, {}) as side, pytest.raises(ChildFailed, match="out of cheese"):
        side.ask()


def test_a_child_that_does_not_start_is_reported_with_what_it_said() -> None:
    with pytest.raises(ChildFailed, match="no_such_function"):
        Side("tests.benchmarks.children:no_such_function", {})


def test_a_child_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    with Side(HANGING, {}) as side:
        monkeypatch.setattr("benchmarks.harness.TURN_S", 0.05)
        with pytest.raises(ChildFailed, match="status -9"):
            side.ask()


def test_the_plain_loop_is_without_erllama() -> None:
    with Side(LOOKING_AROUND, {}) as side:
        assert side.ready == {"erllama": False}


def test_every_second_turn_goes_backwards() -> None:
    assert list(in_turns(("a", "b"), 3)) == [(0, ["a", "b"]), (1, ["b", "a"]), (2, ["a", "b"])]


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [float(value) for value in range(200, 0, -1)]
    assert percentile(values, 99) == 198
    assert percentile(values, 50) == 100
    assert percentile(values, 100) == 200
    assert percentile([7.0], 1) == 7


def test_a_figure_says_whether_its_target_was_met() -> None:
    def met(target: Target | None, value: float) -> object:
        return Figure("b", "n", value, "ms", target).as_json()["met"]

    assert met(Target("below", 5), 4.9) is True
    assert met(Target("below", 5), 5.0) is False
    assert met(Target("at least", 0.97), 0.97) is True
    assert met(Target("at least", 0.97), 0.96) is False
    assert met(None, 1.0) is None


def test_a_missed_target_shows_in_the_line_of_a_figure() -> None:
    assert "MISSED" in str(Figure("b", "n", 6.0, "ms", Target("below", 5)))
    assert "MISSED" not in str(Figure("b", "n", 4.0, "ms", Target("below", 5)))


def test_a_quick_run_does_everything_once() -> None:
    assert Options([], quick=True).times(40) == 1
    assert Options([], quick=True).times(40, 4) == 4
    assert Options([]).times(40, 4) == 40


def test_rounds_that_were_asked_for_count_in_a_quick_run_too() -> None:
    assert Options([], rounds=3, quick=True).rounds_or(9) == 3
    assert Options([], quick=True).rounds_or(9) == 1
    assert Options([]).rounds_or(9) == 9


def test_a_prompt_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    prompt = random_prompt(50, 1, 32_000)
    assert prompt == random_prompt(50, 1, 32_000)
    assert prompt != random_prompt(50, 2, 32_000)
    assert all(4_000 <= token < 28_000 for token in prompt)


@given(st.integers(1, 5_000))
def test_the_plain_loop_cuts_prompts_as_erllama_does(length: int) -> None:
    rows, pos = [], 0
    while pos < length:
        rows.append(slice_rows(pos, length, 512, GRANULE))
        pos += rows[-1]
    assert exact_slices(length) == rows
    assert sum(batch_slices(length)) == length
