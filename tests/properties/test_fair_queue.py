"""The fair queue against what it promises: order within an owner, turns by time among owners."""

from __future__ import annotations

from collections import defaultdict, deque
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from erllama.backend.fairness import FairQueue

OWNERS = st.sampled_from("abc")


class FairQueueMachine(RuleBasedStateMachine):
    """Put, get and charge in any order, against plain deques."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: FairQueue[int] = FairQueue()
        self.model: defaultdict[str, deque[int]] = defaultdict(deque)
        self.count = 0

    @rule(owner=OWNERS)
    def put(self, owner: str) -> None:
        self.count += 1
        self.queue.put(owner, self.count)
        self.model[owner].append(self.count)

    @precondition(lambda self: len(self.queue) > 0)
    @rule(seconds=st.integers(0, 5))
    def get_and_charge(self, seconds: int) -> None:
        owner, job = self.queue.get()
        assert isinstance(owner, str)
        assert self.model[owner].popleft() == job
        assert self.queue.charge(owner, seconds)

    @rule(seconds=st.integers(0, 5))
    @precondition(lambda self: len(self.queue) > 0)
    def get_and_go_on(self, seconds: int) -> None:
        owner, _ = self.queue.get()
        assert isinstance(owner, str)
        self.model[owner].popleft()
        self.queue.charge(owner, seconds)
        assert self.queue.goes_on(owner) == (not any(self.model.values()))

    @rule(owner=OWNERS)
    def forget(self, owner: str) -> None:
        self.queue.forget(owner)

    @rule()
    def drain(self) -> None:
        left: dict[object, list[int]] = defaultdict(list)
        for owner, job in self.queue.drain():
            left[owner].append(job)
        assert left == {owner: list(jobs) for owner, jobs in self.model.items() if jobs}
        self.model.clear()

    @invariant()
    def nothing_is_lost(self) -> None:
        assert len(self.queue) == sum(len(jobs) for jobs in self.model.values())
        assert set(self.queue.waiting()) == {owner for owner, jobs in self.model.items() if jobs}


TestFairQueue = FairQueueMachine.TestCase


@given(
    durations=st.lists(st.integers(1, 10), min_size=2, max_size=4),
    turns=st.integers(20, 200),
)
def test_busy_owners_use_the_same_time_up_to_one_job(durations: list[int], turns: int) -> None:
    """Each owner always has something waiting; its jobs all take its own duration."""
    queue: FairQueue[None] = FairQueue()
    used = [0] * len(durations)
    for owner in range(len(durations)):
        queue.put(owner, None)
    for _ in range(turns):
        turn, _ = queue.get()
        assert isinstance(turn, int)
        queue.put(turn, None)
        queue.charge(turn, durations[turn])
        used[turn] += durations[turn]
    assert max(used) - min(used) <= max(durations)


@given(idle_for=st.integers(1, 100), seconds=st.fractions(Fraction(1, 10), 10))
def test_an_idle_owner_saves_up_no_turns(idle_for: int, seconds: Fraction) -> None:
    queue: FairQueue[None] = FairQueue()
    for _ in range(idle_for):
        queue.put("busy", None)
        queue.get()
        queue.charge("busy", float(seconds))
    for _ in range(4):
        queue.put("busy", None)
        queue.put("new", None)
    order = []
    for _ in range(8):
        owner, _ = queue.get()
        queue.charge(owner, float(seconds))
        order.append(owner)
    # in turns from the beginning, but for the one turn by which the newcomer starts behind
    assert order[:4].count("new") <= 3
    assert order[:6].count("busy") >= 2


def test_nothing_waits_in_a_new_queue() -> None:
    with pytest.raises(IndexError):
        FairQueue[int]().get()


def test_a_forgotten_owner_has_no_account() -> None:
    queue: FairQueue[int] = FairQueue()
    queue.put("a", 1)
    queue.get()
    queue.forget("a")
    assert not queue.charge("a", 1.0)


def test_an_owner_with_waiting_jobs_is_not_forgotten() -> None:
    queue: FairQueue[int] = FairQueue()
    queue.put("a", 1)
    queue.forget("a")
    assert queue.get() == ("a", 1)
    assert queue.charge("a", 1.0)


def test_who_goes_on_at_once_saves_up_no_turns_for_those_that_come() -> None:
    """Else an owner that was idle meanwhile would have a whole account to use up."""
    queue: FairQueue[str] = FairQueue()
    queue.put("busy", "first")
    queue.get()
    for _ in range(100):
        queue.charge("busy", 1)
        assert queue.goes_on("busy")
    queue.charge("busy", 1)
    queue.put("new", "one")
    queue.put("new", "two")
    assert not queue.goes_on("busy")
    queue.put("busy", "next")
    assert queue.get() == ("new", "one")
    queue.charge("new", 2)
    assert queue.get() == ("busy", "next")


def test_who_was_forgotten_does_not_go_on_at_once() -> None:
    queue: FairQueue[None] = FairQueue()
    queue.put("gone", None)
    queue.get()
    queue.forget("gone")
    assert not queue.goes_on("gone")
