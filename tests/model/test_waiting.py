"""The queue for sequences: classes share by weight, each is first come, first served."""

from __future__ import annotations

from collections import Counter

import pytest

from erllama.model.job import Job
from erllama.model.request import Priority, check_prompt, make_request
from erllama.model.waiting import Waiting, lent_classes


def job(priority: Priority = "normal") -> Job:
    return Job(
        prompt=check_prompt([1]),
        request=make_request({"priority": priority}),
        seed=0,
        asked=0.0,
        sink=None,
    )


def admitted(waiting: Waiting, n: int) -> list[Job]:
    """The next `n` to get a sequence, one at a time."""
    jobs = []
    for _ in range(n):
        first = next(iter(waiting))
        waiting.admit(first)
        jobs.append(first)
    return jobs


def test_one_class_is_first_come_first_served() -> None:
    waiting = Waiting()
    jobs = [job() for _ in range(5)]
    for one in jobs:
        waiting.add(one)
    assert list(waiting) == jobs
    assert admitted(waiting, 5) == jobs
    assert len(waiting) == 0


def test_one_that_was_interrupted_goes_first_of_its_class() -> None:
    waiting = Waiting()
    first, second = job(), job()
    waiting.add(first)
    waiting.put_back(second)
    assert list(waiting) == [second, first]


def test_one_that_ended_is_gone() -> None:
    waiting = Waiting()
    first, second = job(), job("high")
    waiting.add(first)
    waiting.add(second)
    assert second in waiting
    waiting.remove(second)
    assert second not in waiting
    assert list(waiting) == [first]
    with pytest.raises(ValueError, match="not in"):
        waiting.remove(second)


def test_classes_share_admissions_by_weight() -> None:
    waiting = Waiting()
    for _ in range(200):
        for name in ("low", "normal", "high"):
            waiting.add(job(name))
    shares = Counter(one.request.priority for one in admitted(waiting, 210))
    assert shares == {"low": 10, "normal": 40, "high": 160}


def test_a_class_that_was_away_has_saved_up_no_turns() -> None:
    waiting = Waiting()
    for _ in range(300):
        waiting.add(job("normal"))
    admitted(waiting, 100)
    for _ in range(100):
        waiting.add(job("high"))
    shares = Counter(one.request.priority for one in admitted(waiting, 50))
    assert 8 <= shares["normal"] <= 12


def test_all_are_given_out_whatever_the_class() -> None:
    waiting = Waiting()
    jobs = [job(name) for name in ("low", "high", "normal", "low", "high")]
    for one in jobs:
        waiting.add(one)
    assert sorted(map(id, waiting)) == sorted(map(id, jobs))


# Whose prompt others wait for


def waiting_for(other: Job, *classes: Priority) -> list[Job]:
    jobs = [job(priority) for priority in classes]
    for one in jobs:
        one.waits_for = other
    return jobs


def test_one_that_a_higher_class_waits_for_is_lent_it() -> None:
    low = job("low")
    assert lent_classes(waiting_for(low, "normal")) == {low: "normal"}
    assert lent_classes(waiting_for(low, "normal", "high", "normal")) == {low: "high"}


def test_nothing_is_lent_by_the_same_class_or_a_lower_one_nor_by_who_waits_for_nobody() -> None:
    assert lent_classes([*waiting_for(job("high"), "high", "low"), job("high")]) == {}


def test_each_is_lent_the_class_of_those_who_wait_for_it() -> None:
    one, two = job("low"), job("low")
    assert lent_classes([*waiting_for(one, "high"), *waiting_for(two, "normal")]) == {
        one: "high",
        two: "normal",
    }
