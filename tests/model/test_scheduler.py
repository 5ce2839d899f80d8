"""What is computed next: turns of decode steps and slices, whose slice, and how long it is."""

from __future__ import annotations

import copy
import itertools
import random
from collections import Counter
from typing import Any

import pytest

from erllama.model.request import Priority
from erllama.model.scheduler import (
    CONTENDED_S,
    PATIENCE,
    SLICE_S,
    TURN,
    WEIGHTS,
    ClassShares,
    Decision,
    Decode,
    Entry,
    Pace,
    Scheduler,
    Slice,
    groups,
)
from erllama.model.slicing import slice_rows

FAST = Pace(prefill_rate=1_000.0, decode_s=0.02)


def scheduler(**options: Any) -> Scheduler:
    defaults: dict[str, Any] = {
        "n_batch": 512,
        "granule": 64,
        "stall_s": 0.1,
        "pace": copy.copy(FAST),
    }
    return Scheduler(**(defaults | options))


def entry(seq: int, left: int = 0, **fields: Any) -> Entry:
    return Entry(seq, fields.pop("order", seq), left=left, **fields)


def run(
    planner: Scheduler, entries: list[Entry], n: int, *, now: float = 0.0
) -> list[Decision | None]:
    """`n` steps, each of which takes as long as the pace says."""
    made = []
    for _ in range(n):
        decision = planner.plan(entries, now=now)
        made.append(decision)
        if decision is None:
            break
        seconds = planner.pace.decode_s
        if isinstance(decision, Slice):
            chosen = next(one for one in entries if one.seq == decision.seq)
            rows = min(decision.limit, chosen.left)
            seconds = rows / FAST.prefill_rate
            planner.took(decision, entries, seconds)
            chosen.left -= rows
        else:
            planner.took(decision, entries, seconds)
    return made


def test_nothing_is_planned_for_nobody() -> None:
    planner = scheduler()
    assert planner.plan([], now=0.0) is None
    assert planner.plan([entry(0, ready=False), entry(1, 10, ready=False)], now=0.0) is None


def test_all_that_generate_are_in_one_step_in_rising_order() -> None:
    entries = [entry(5), entry(0), entry(3), entry(1, 100, ready=False)]
    assert scheduler().plan(entries, now=0.0) == Decode((0, 3, 5))


def test_a_prompt_alone_takes_the_whole_batch() -> None:
    assert scheduler().plan([entry(2, 3_000)], now=0.0) == Slice(2, 512)


@pytest.mark.parametrize(("rate", "limit"), [(300.0, 128), (900.0, 512), (10.0, 64), (0.0, 512)])
def test_but_no_longer_than_a_cancel_may_wait(rate: float, limit: int) -> None:
    planner = scheduler(pace=Pace(prefill_rate=rate))
    assert rate * SLICE_S < limit + 64 or limit == 512
    assert planner.plan([entry(2, 3_000)], now=0.0) == Slice(2, limit)


def test_decode_steps_and_slices_take_turns_while_both_wait() -> None:
    made = run(scheduler(), [entry(0), entry(1, 1_000), entry(2)], 9)
    assert [isinstance(one, Decode) for one in made] == [True, False] * 4 + [True]
    assert all(one == Decode((0, 2)) for one in made[::2])


@pytest.mark.parametrize(
    ("rate", "decode_s", "limit"),
    [
        (1_000.0, 0.02, 64),
        (2_000.0, 0.02, 128),
        (10_000.0, 0.02, 512),
        (100.0, 0.02, 64),
        (0.0, 0.0, 64),
        (10_000.0, 5.0, 64),
    ],
)
def test_beside_streams_a_slice_is_as_long_as_fits_between_two_tokens(
    rate: float, decode_s: float, limit: int
) -> None:
    planner = scheduler(pace=Pace(prefill_rate=rate, decode_s=decode_s))
    planner.took(Decode((0,)), [], decode_s)
    planner.pace.decode_s = decode_s
    assert planner.plan([entry(0), entry(1, 5_000)], now=0.0) == Slice(1, limit)


def test_beside_other_models_a_slice_is_bounded_too() -> None:
    planner = scheduler(pace=Pace(prefill_rate=2_000.0))
    rows = int(CONTENDED_S * 2_000)
    assert planner.plan([entry(0, 5_000)], now=0.0, contended=True) == Slice(0, rows - rows % 64)


def test_where_cells_ran_short_slices_stay_short() -> None:
    assert scheduler().plan([entry(0, 5_000, most=128)], now=0.0) == Slice(0, 128)
    assert scheduler(n_batch=64).plan([entry(0, 5_000, most=128)], now=0.0) == Slice(0, 64)


def test_the_shortest_rest_goes_first_and_of_equal_ones_the_earliest() -> None:
    entries = [entry(0, 900), entry(1, 80), entry(2, 80, order=0), entry(3, 500)]
    assert scheduler().plan(entries, now=0.0) == Slice(2, 512)


def test_one_that_would_miss_its_deadline_goes_first() -> None:
    entries = [entry(0, 100), entry(1, 2_000, deadline=3.0), entry(2, 2_000, deadline=9.0)]
    planner = scheduler()
    assert planner.plan(entries, now=0.0) == Slice(1, 512)
    assert planner.plan([entries[0], entries[2]], now=0.0) == Slice(0, 512)
    assert planner.plan([entries[0], entries[2]], now=6.0) == Slice(2, 512)


def test_deadlines_wait_until_the_rate_is_known() -> None:
    entries = [entry(0, 100), entry(1, 2_000, deadline=0.1)]
    assert scheduler(pace=Pace()).plan(entries, now=0.0) == Slice(0, 512)


def joint(seq: int, left: int, **fields: Any) -> Entry:
    return entry(seq, left, **({"joins": True} | fields))


@pytest.mark.parametrize(
    ("entries", "planned"),
    [
        ([joint(n, 64) for n in range(8)], Slice(0, 64, (1, 2, 3, 4, 5, 6, 7))),
        ([joint(n, 64) for n in range(9)], Slice(0, 64, (1, 2, 3, 4, 5, 6, 7))),
        ([joint(n, 130) for n in range(8)], Slice(0, 128, (1, 2, 3))),
        ([joint(0, 200), joint(1, 256), joint(2, 384)], Slice(0, 192, (1,))),
        ([joint(0, 64), joint(1, 128), joint(2, 129)], Slice(0, 64, (1,))),
        ([joint(0, 64), joint(2, 64), joint(3, 64)], Slice(0, 512)),
        (
            [joint(2, 64, order=9), joint(3, 64, order=1), joint(1, 64, order=0)],
            Slice(1, 64, (2, 3)),
        ),
        ([joint(5, 64, order=2), joint(6, 64, order=1), joint(4, 64)], Slice(6, 64, (4, 5))),
        ([joint(0, 40), joint(1, 40), joint(2, 41)], Slice(0, 40, (1,))),
        ([joint(0, 40), joint(1, 104)], Slice(0, 512)),
        ([joint(0, 1), joint(1, 1)], Slice(0, 512)),
        ([joint(0, 300), joint(1, 300)], Slice(0, 256, (1,))),
        ([joint(0, 600), joint(1, 600)], Slice(0, 512)),
        ([joint(0, 64), entry(1, 64)], Slice(0, 512)),
        ([entry(0, 64), joint(1, 64)], Slice(0, 512)),
        ([joint(0, 64), joint(1, 64, ready=False)], Slice(0, 512)),
        ([joint(0, 64), joint(1, 64, most=64)], Slice(0, 512)),
        ([joint(0, 64), joint(1, 64, alone=True)], Slice(0, 512)),
        ([joint(0, 64, alone=True), joint(1, 64)], Slice(0, 512)),
        ([joint(0, 64), joint(1, 64, priority="low")], Slice(0, 512)),
        ([joint(0, 64), joint(1, 64, group=1)], Slice(0, 512)),
    ],
)
def test_prompts_of_like_length_are_read_together(entries: list[Entry], planned: Slice) -> None:
    assert scheduler(n_joint=512).plan(entries, now=0.0) == planned
    assert scheduler().plan(entries, now=0.0) == Slice(planned.seq, 512)


def test_they_are_read_together_within_a_bound_of_time() -> None:
    eight = [joint(n, 64) for n in range(8)]
    slow = Pace(prefill_rate=4.5 * 64 / SLICE_S)
    assert scheduler(n_joint=512, pace=slow).plan(eight, now=0.0) == Slice(0, 64, (1, 2, 3))
    unknown = scheduler(n_joint=512, pace=Pace()).plan(eight, now=0.0)
    assert unknown == Slice(0, 64, (1, 2, 3, 4, 5, 6, 7))


def test_beside_streams_they_share_what_fits_between_two_tokens() -> None:
    planner = scheduler(n_joint=512, pace=Pace(prefill_rate=2_000.0, decode_s=0.02))
    planner.took(Decode((9,)), [], 0.02)
    entries = [entry(9), *(joint(n, 32) for n in range(8))]
    assert planner.plan(entries, now=0.0) == Slice(0, 32, (1, 2, 3))
    entries = [entry(9), *(joint(n, 100) for n in range(8))]
    assert planner.plan(entries, now=0.0) == Slice(0, 64, (1,))


def test_a_shared_step_counts_for_each_prompt_in_it() -> None:
    entries = [joint(n, 64) for n in range(3)]
    entries[2].joins = False
    planner = scheduler(n_joint=512)
    decision = planner.plan(entries, now=0.0)
    assert isinstance(decision, Slice)
    entries[0].passed = entries[1].passed = 3
    planner.took(decision, entries, 0.1)
    assert [one.passed for one in entries] == [0, 0, 1]
    assert decision.seqs == (0, 1)


def test_a_long_prompt_beside_many_short_ones_gets_its_turns() -> None:
    planner = scheduler(n_batch=64)
    long = entry(0, 640)
    n = 0
    while long.left:
        short = entry(1, 64, order=n + 1)
        n += len(run(planner, [long, short], 1))
        assert n <= 10 * (PATIENCE + 1)
    assert n == 9 * (PATIENCE + 1) + 1, "at its last granule it is as short as the others"


def test_a_low_class_gets_its_turns_beside_a_high_one() -> None:
    planner = scheduler(n_batch=64)
    low = entry(0, 640, priority="low")
    n = 0
    while low.left:
        n += len(run(planner, [low, entry(1, 64, priority="high", order=n + 1)], 1))
        assert n <= 10 * (WEIGHTS["high"] + 2)


def test_classes_share_the_time_of_prompts_by_weight() -> None:
    planner = scheduler(n_batch=64)
    entries = [entry(n, 10**6, priority=name) for n, name in enumerate(("low", "normal", "high"))]
    made = run(planner, entries, 21 * 20)
    slices = Counter(one.seq for one in made if isinstance(one, Slice))
    assert [slices[n] for n in range(3)] == pytest.approx([20, 80, 320], abs=2)


def test_a_class_that_was_away_has_saved_up_no_turns() -> None:
    planner = scheduler(n_batch=64)
    normal = entry(0, 10**6)
    run(planner, [normal], 500)
    made = run(planner, [normal, entry(1, 10**6, priority="high")], 100)
    slices = Counter(one.seq for one in made if isinstance(one, Slice))
    assert slices[0] == pytest.approx(20, abs=2)


def test_one_that_is_suspected_of_failing_is_computed_alone() -> None:
    planner = scheduler()
    entries = [entry(0), entry(1, alone=True), entry(2, alone=True), entry(3)]
    assert planner.plan(entries, now=0.0) == Decode((1,))
    entries[1].alone = False
    assert planner.plan(entries, now=0.0) == Decode((2,))
    entries[2].ready = False
    assert planner.plan(entries, now=0.0) == Decode((0, 1, 3))


def test_short_prompts_are_completed_before_the_next_decode_step_as_far_as_the_pause_allows() -> (
    None
):
    planner = scheduler(stall_s=0.1)
    planner.pace.note_prefill(64, 0.03)
    entries = [entry(0), *(entry(seq, 32) for seq in range(1, 6)), entry(6, 640)]
    planner.took(Decode((0,)), entries, 0.01)
    sliced = 0
    while isinstance(planned := planner.plan(entries, now=0.0), Slice):
        planner.took(planned, entries, 0.02)
        entries[planned.seq].left = 0
        sliced += 1
    assert sliced == 4  # of 20 ms each, and 10 for the decode step
    assert isinstance(planned, Decode)
    planner.took(planned, entries, 0.01)
    entries[5].left = 0
    long = planner.plan(entries, now=0.0)
    assert isinstance(long, Slice)
    assert long.seq == 6
    planner.took(long, entries, 0.02)
    assert isinstance(planner.plan(entries, now=0.0), Decode)  # a long one waits its turn


def test_a_plan_changes_nothing() -> None:
    planner = scheduler()
    entries = [entry(0), entry(1, 900, priority="low"), entry(2, 100, passed=3)]
    run(planner, entries, 3)
    before = copy.deepcopy((planner.__dict__, entries_as_data(entries), vars(planner._shares)))
    plans = {planner.plan(entries, now=1.0) for _ in range(5)}
    assert len(plans) == 1
    after = (planner.__dict__, entries_as_data(entries), vars(planner._shares))
    assert before[1:] == after[1:]
    assert before[0]["_since_decode"] == after[0]["_since_decode"]
    assert before[0]["pace"] == after[0]["pace"]


def entries_as_data(entries: list[Entry]) -> list[tuple[Any, ...]]:
    return [tuple(getattr(one, name) for name in Entry.__slots__) for one in entries]


def test_a_cancelled_request_is_not_in_the_next_plan() -> None:
    planner = scheduler()
    entries = [entry(n) for n in range(4)]
    run(planner, entries, 2)
    del entries[1]
    assert planner.plan(entries, now=0.0) == Decode((0, 2, 3))


@pytest.mark.parametrize("seed", range(20))
def test_every_mix_of_requests_finishes(seed: int) -> None:
    chance = random.Random(seed)
    names: list[Priority] = ["low", "normal", "high"]
    lengths = {n: chance.randint(1, 3_000) for n in range(12)}
    entries = [entry(n, left, priority=chance.choice(names)) for n, left in lengths.items()]
    planner = scheduler(n_batch=chance.choice([64, 200, 512]))
    for _ in range(5_000):
        decision = planner.plan(entries, now=0.0)
        if not isinstance(decision, Slice):
            if not any(one.left for one in entries):
                break
        else:
            chosen = entries[decision.seq]
            done = lengths[decision.seq] - chosen.left
            rows = slice_rows(done, lengths[decision.seq], decision.limit, 64)
            assert 0 < rows <= decision.limit
            assert (done + rows) % 64 == 0 or done + rows == lengths[decision.seq]
            chosen.left -= rows
        assert decision is not None
        planner.took(decision, entries, 0.01)
    assert not any(one.left for one in entries)


def test_shares_go_to_whoever_has_used_least_for_its_weight() -> None:
    shares = ClassShares()
    assert shares.first(["low", "normal", "high"]) == "high"
    shares.charge("high", 1.0)
    assert shares.first(["high", "low"]) == "low"
    shares.charge("low", 1.0)
    assert [shares.first(["high", "low"])] == ["high"]


def test_the_pace_follows_what_is_measured() -> None:
    pace = Pace()
    pace.note_decode(0.1)
    assert pace.decode_s == 0.1
    pace.note_decode(0.2)
    assert 0.1 < pace.decode_s < 0.2
    pace.note_prefill(64, 0.5)
    assert pace.prefill_rate == 128.0
    pace.note_prefill(64, 0.0)
    assert pace.prefill_rate == 128.0


# Groups: requests with different adapters


def decoded(planner: Scheduler, entries: list[Entry], n: int) -> list[tuple[int, ...]]:
    """The sequences of the next `n` decode steps."""
    found = []
    for _ in range(n):
        decision = planner.plan(entries, now=0.0)
        assert isinstance(decision, Decode)
        found.append(decision.seqs)
        planner.took(decision, entries, 0.01)
    return found


def test_requests_of_different_groups_never_share_a_step_and_take_turns() -> None:
    entries = [entry(seq, group=group) for seq, group in enumerate(("a", "b", "a", "c"))]
    found = decoded(scheduler(), entries, 6 * TURN)
    assert set(found) == {(0, 2), (1,), (3,)}
    turns = [seqs for seqs, _ in itertools.groupby(found)]
    assert len(turns) == 6
    assert turns[:3] == turns[3:]
    assert all(found.count(seqs) == 2 * TURN for seqs in set(found))


def test_a_group_alone_decodes_on_and_gives_way_to_one_that_comes() -> None:
    planner = scheduler()
    entries = [entry(0, group="a")]
    assert set(decoded(planner, entries, 3 * TURN)) == {(0,)}
    entries.append(entry(1, group="b"))
    found = decoded(planner, entries, 2 * TURN)
    assert found == [(1,)] * TURN + [(0,)] * TURN
    assert groups(entries) == 2
    entries[1].ready = False
    assert groups(entries) == 1
