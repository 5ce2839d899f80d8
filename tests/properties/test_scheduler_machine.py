"""Hypothesis drives a scheduler through requests that come, pause, are cancelled and finish.

Checked of every plan: it has rows of live, ready requests only, each once; it keeps `n_batch`; it
is a decode step or a slice; slices are cut at multiples of the granule. Checked over time: whoever
waits gets a turn within a bound that depends on who else is there, and at the end all finish.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from erllama.model.request import Priority
from erllama.model.scheduler import (
    PATIENCE,
    WEIGHTS,
    Decision,
    Decode,
    Entry,
    Pace,
    Scheduler,
    Slice,
)
from erllama.model.sequences import Sequences
from erllama.model.slicing import slice_rows

GRANULE = 64
CLASSES: tuple[Priority, ...] = get_args(Priority)
SLICE_S = 0.05
"""What each slice takes here; equal, so that fairness can be counted in slices."""


@dataclass(eq=False)
class Live:
    """A request as the machine knows it."""

    entry: Entry
    prompt: int
    to_generate: int
    done: int = 0
    waited: int = 0  # slices of others while this one was ready for one


def wants(entry: Entry) -> bool:
    """Whether a step may compute something for it."""
    return entry.ready and not (entry.left and entry.held)


class SchedulerMachine(RuleBasedStateMachine):
    """Some sequences, many requests."""

    @initialize(
        n_seq_max=st.integers(1, 6),
        n_batch=st.sampled_from([64, 100, 192, 512]),
        n_joint=st.sampled_from([0, 64, 512]),
    )
    def begin(self, n_seq_max: int, n_batch: int, n_joint: int) -> None:
        self.n_seq_max, self.n_batch = n_seq_max, n_batch
        self.pool = Sequences(n_seq_max)
        self.live: list[Live] = []
        self.now = 0.0
        self.orders = 0
        self.n_joint = n_joint
        self.scheduler = Scheduler(
            n_batch=n_batch, n_joint=n_joint, granule=GRANULE, stall_s=0.1, pace=Pace()
        )
        self.since_slice = 0

    @property
    def entries(self) -> list[Entry]:
        return [one.entry for one in self.live]

    @precondition(lambda self: self.pool.free)
    @rule(
        prompt=st.integers(1, 1_500),
        to_generate=st.integers(1, 20),
        priority=st.sampled_from(CLASSES),
        deadline=st.none() | st.floats(0, 5),
        joins=st.booleans(),
    )
    def come(
        self,
        prompt: int,
        to_generate: int,
        priority: Priority,
        deadline: float | None,
        *,
        joins: bool,
    ) -> None:
        self.orders += 1
        entry = Entry(self.pool.take(), self.orders, priority, left=prompt, joins=joins)
        entry.deadline = None if deadline is None else self.now + deadline
        self.live.append(Live(entry, prompt, to_generate))

    @precondition(lambda self: self.live)
    @rule(which=st.integers(0, 50))
    def cancel(self, which: int) -> None:
        self.leave(self.live[which % len(self.live)])
        decision = self.scheduler.plan(self.entries, now=self.now)
        assert self.seqs(decision) <= {one.seq for one in self.entries}

    @precondition(lambda self: self.live)
    @rule(which=st.integers(0, 50))
    def pause_or_wake(self, which: int) -> None:
        entry = self.live[which % len(self.live)].entry
        entry.ready = not entry.ready

    @precondition(lambda self: self.live)
    @rule(which=st.integers(0, 50))
    def hold_or_let_go(self, which: int) -> None:
        entry = self.live[which % len(self.live)].entry
        entry.held = not entry.held

    @precondition(lambda self: self.live)
    @rule(which=st.integers(0, 50))
    def suspect(self, which: int) -> None:
        self.live[which % len(self.live)].entry.alone = True

    @rule(contended=st.booleans(), seconds=st.floats(0.001, 0.5))
    def step(self, *, contended: bool, seconds: float) -> None:
        decision = self.scheduler.plan(self.entries, now=self.now, contended=contended)
        assert decision == self.scheduler.plan(self.entries, now=self.now, contended=contended)
        self.now += seconds
        if decision is None:
            assert not any(wants(one) for one in self.entries)
        elif isinstance(decision, Decode):
            self.decode(decision, seconds)
        else:
            self.slice(decision)

    def decode(self, decision: Decode, seconds: float) -> None:
        chosen = [one for one in self.live if one.entry.seq in decision.seqs]
        assert len(chosen) == len(decision.seqs) <= min(self.n_batch, self.n_seq_max)
        assert list(decision.seqs) == sorted(set(decision.seqs))
        assert all(one.entry.ready and not one.entry.left for one in chosen)
        ready = [one for one in self.entries if one.ready and not one.left]
        suspects = any(one.alone for one in ready)
        assert len(chosen) == 1 if suspects else len(chosen) == len(ready)
        prompts = [one for one in self.live if wants(one.entry) and one.entry.left]
        self.since_slice = self.since_slice + 1 if prompts else 0
        assert self.since_slice <= 1, "decode steps and slices take turns"
        self.scheduler.took(decision, self.entries, seconds)
        for one in chosen:
            one.entry.alone = False
            one.to_generate -= 1
            if not one.to_generate:
                self.leave(one)

    def slice(self, decision: Slice) -> None:
        chosen = [one for one in self.live if one.entry.seq in decision.seqs]
        assert len(chosen) == len(decision.seqs)
        rows = [self.rows(one, decision) for one in chosen]
        assert sum(rows) <= self.n_batch
        if decision.beside:
            self.check_shared(decision, chosen, rows)
        self.since_slice = 0
        self.scheduler.took(decision, self.entries, SLICE_S)
        for one in self.live:
            waits = one not in chosen and wants(one.entry) and one.entry.left
            one.waited = one.waited + 1 if waits else 0
        for one, n in zip(chosen, rows, strict=True):
            self.read(one, n)

    def check_shared(self, decision: Slice, chosen: list[Live], rows: list[int]) -> None:
        seqs = decision.seqs
        assert seqs == tuple(range(seqs[0], seqs[-1] + 1))
        assert rows == [decision.limit] * len(rows)
        assert sum(rows) <= self.n_joint
        assert rows[0] % GRANULE == 0 or 1 < rows[0] < GRANULE
        assert all(one.entry.joins and not one.entry.alone for one in chosen)
        assert len({one.entry.priority for one in chosen}) == 1

    @staticmethod
    def rows(one: Live, decision: Slice) -> int:
        assert wants(one.entry)
        assert one.entry.left
        rows = slice_rows(one.done, one.prompt, decision.limit, GRANULE)
        assert rows > 0
        assert (one.done + rows) % GRANULE == 0 or one.done + rows == one.prompt
        tail = one.prompt - one.prompt % GRANULE
        assert one.done >= tail or one.done + rows <= tail, "the tail runs by itself"
        return rows

    def read(self, one: Live, rows: int) -> None:
        one.done += rows
        one.entry.left -= rows
        if not one.entry.left:
            one.to_generate -= 1
            if not one.to_generate:
                self.leave(one)

    def leave(self, one: Live) -> None:
        self.live.remove(one)
        self.pool.give_back(one.entry.seq)

    @staticmethod
    def seqs(decision: Decision | None) -> set[int]:
        if decision is None:
            return set()
        return set(decision.seqs)

    @invariant()
    def nobody_starves(self) -> None:
        """A class gets its share; in it one is passed over so often, and by those before it."""
        share = math.ceil(sum(WEIGHTS.values()) / min(WEIGHTS.values())) + len(WEIGHTS)
        bound = share * (PATIENCE + self.n_seq_max + 1)
        assert all(one.waited <= bound for one in self.live)

    @invariant()
    def sequences_are_free_or_taken(self) -> None:
        self.pool.check_integrity()
        assert self.pool.free + len(self.live) == self.n_seq_max

    def teardown(self) -> None:
        """Once nothing pauses any more, all finish."""
        for entry in self.entries:
            entry.ready, entry.held = True, False
        for _ in range(10_000):
            if not self.live:
                break
            self.step(contended=False, seconds=0.01)
        assert not self.live


CALM = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.large_base_example]


def test_a_scheduler_keeps_its_rules_whatever_comes() -> None:
    run_state_machine_as_test(
        SchedulerMachine,
        settings=settings(
            max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=CALM
        ),
    )


@pytest.mark.long
@pytest.mark.timeout(1_800)
def test_a_scheduler_keeps_its_rules_whatever_comes_at_length() -> None:
    run_state_machine_as_test(
        SchedulerMachine,
        settings=settings(
            max_examples=2_000, stateful_step_count=200, deadline=None, suppress_health_check=CALM
        ),
    )
