from typing import get_args

import pytest

from erllama.actor.childspec import Restart
from erllama.actor.strategy import (
    ChildView,
    Phase,
    Step,
    Strategy,
    is_abnormal,
    next_step,
    siblings_to_restart,
    wants_restart,
)

ORDERED: tuple[Strategy, ...] = ("one_for_all", "rest_for_one")


def view(text: str) -> ChildView:
    """ "a:running" or "a:running,doomed,unwanted"."""
    child_id, _, rest = text.partition(":")
    phase, *marks = rest.split(",")
    (known,) = (p for p in get_args(Phase) if p == phase)
    return ChildView(child_id, known, "doomed" in marks, "unwanted" not in marks)


def step(strategy: Strategy, *children: str) -> Step | None:
    return next_step(strategy, [view(child) for child in children])


@pytest.mark.parametrize("reason", ["normal", "shutdown"])
def test_normal_and_shutdown_are_no_failures(reason: str) -> None:
    assert not is_abnormal(reason)


@pytest.mark.parametrize("reason", ["killed", "other", ValueError("normal"), None, 3])
def test_any_other_reason_is_a_failure(reason: object) -> None:
    assert is_abnormal(reason)


@pytest.mark.parametrize(
    ("restart", "after_normal", "after_crash"),
    [("permanent", True, True), ("transient", False, True), ("temporary", False, False)],
)
def test_the_restart_type_decides(restart: Restart, after_normal: bool, after_crash: bool) -> None:
    assert wants_restart(restart, "normal") is after_normal
    assert wants_restart(restart, "shutdown") is after_normal
    assert wants_restart(restart, "killed") is after_crash
    assert wants_restart(restart, ValueError()) is after_crash


@pytest.mark.parametrize(
    ("strategy", "siblings"),
    [("one_for_one", ()), ("one_for_all", ("a", "c", "d")), ("rest_for_one", ("c", "d"))],
)
def test_the_strategy_decides_which_siblings_restart(
    strategy: Strategy, siblings: tuple[str, ...]
) -> None:
    assert siblings_to_restart(strategy, ["a", "b", "c", "d"], "b") == siblings


@pytest.mark.parametrize("strategy", get_args(Strategy))
def test_there_is_nothing_to_do_when_all_run(strategy: Strategy) -> None:
    assert step(strategy, "a:running", "b:running") is None
    assert step(strategy) is None


@pytest.mark.parametrize("strategy", get_args(Strategy))
def test_the_last_doomed_child_stops_first(strategy: Strategy) -> None:
    assert step(strategy, "a:running,doomed", "b:running,doomed", "c:running") == Step("stop", "b")


@pytest.mark.parametrize("strategy", get_args(Strategy))
def test_the_first_absent_child_starts_first(strategy: Strategy) -> None:
    assert step(strategy, "a:running", "b:down", "c:down") == Step("start", "b")


@pytest.mark.parametrize("strategy", get_args(Strategy))
def test_a_child_that_starts_can_be_stopped(strategy: Strategy) -> None:
    assert step(strategy, "a:starting,doomed") == Step("stop", "a")


@pytest.mark.parametrize("strategy", get_args(Strategy))
def test_an_unwanted_child_is_not_started(strategy: Strategy) -> None:
    assert step(strategy, "a:down,unwanted") is None


@pytest.mark.parametrize("strategy", ORDERED)
def test_in_order_nothing_happens_while_a_child_stops(strategy: Strategy) -> None:
    assert step(strategy, "a:running,doomed", "b:stopping,doomed", "c:down") is None


@pytest.mark.parametrize("strategy", ORDERED)
def test_in_order_nothing_starts_while_a_child_starts(strategy: Strategy) -> None:
    assert step(strategy, "a:starting", "b:down") is None


@pytest.mark.parametrize("strategy", ORDERED)
def test_in_order_a_stop_does_not_wait_for_a_start(strategy: Strategy) -> None:
    assert step(strategy, "a:starting", "b:running,doomed") == Step("stop", "b")


@pytest.mark.parametrize("strategy", ORDERED)
def test_in_order_all_stops_come_before_the_first_start(strategy: Strategy) -> None:
    assert step(strategy, "a:down", "b:running,doomed") == Step("stop", "b")


def test_one_for_one_starts_and_stops_children_independently() -> None:
    assert step("one_for_one", "a:stopping,doomed", "b:starting", "c:down") == Step("start", "c")
    assert step("one_for_one", "a:stopping,doomed", "b:running,doomed") == Step("stop", "b")
