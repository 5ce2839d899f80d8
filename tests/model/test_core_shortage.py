"""What two readings of the cores' time say of a model's threads."""

from __future__ import annotations

from typing import Any

import pytest

from erllama.backend.cpu_time import CpuTime
from erllama.model.core_shortage import CoreShortage, find_shortage


def after(
    seconds: float = 5.0,
    *,
    own: float = 0.0,
    others: float = 0.0,
    cores: int = 4,
    periods: int = 0,
    throttled: int = 0,
) -> tuple[CpuTime, CpuTime]:
    """Readings so many seconds apart, with the seconds of work in between."""
    before = CpuTime(at=100.0, cores=cores, busy=1_000.0, own=50.0, periods=10, throttled=5)
    return before, CpuTime(
        at=100.0 + seconds,
        cores=cores,
        busy=1_000.0 + own + others,
        own=50.0 + own,
        periods=10 + periods,
        throttled=5 + throttled,
    )


def found(n_threads: int = 4, **what: Any) -> CoreShortage | None:
    return find_shortage(*after(**what), n_threads)


def test_a_process_that_has_its_cores_to_itself_lacks_none() -> None:
    assert found() is None
    assert found(own=20.0) is None
    assert found(own=20.0, others=1.0) is None  # a fifth of a core: daemons that wake


def test_others_that_take_a_core_that_a_thread_needs_are_a_shortage() -> None:
    shortage = found(own=15.0, others=5.0)
    assert shortage is not None
    assert (shortage.cores, shortage.taken, shortage.n_threads) == (4, 1.0, 4)
    assert "other processes take 1.0 of the 4 cores that the model's 4 threads need" in str(
        shortage
    )
    assert "lower n_threads" in str(shortage)


def test_others_that_keep_to_cores_that_no_thread_needs_are_none() -> None:
    assert found(n_threads=3, own=15.0, others=5.0) is None
    assert found(n_threads=2, others=14.0) is not None


def test_a_thread_that_waits_for_no_other_lacks_nothing() -> None:
    assert found(n_threads=1, others=20.0, periods=50, throttled=25) is None


def test_own_work_of_whatever_kind_is_not_that_of_others() -> None:
    assert found(own=19.9, others=0.1) is None


def test_more_threads_than_cores_are_a_shortage_though_nobody_else_computes() -> None:
    shortage = found(n_threads=6, own=20.0)
    assert shortage is not None
    assert "the model's 6 threads have 4 cores, so set n_threads to 4 or less" in str(shortage)


def test_a_quota_that_holds_the_process_back_is_a_shortage() -> None:
    assert found(n_threads=2, periods=50, throttled=4) is None
    shortage = found(n_threads=2, periods=50, throttled=25)
    assert shortage is not None
    assert "a CPU quota holds the process back 50% of the time" in str(shortage)


@pytest.mark.parametrize("seconds", [0.0, 0.49, -3.0])
def test_readings_that_lie_too_near_say_nothing(seconds: float) -> None:
    assert found(seconds=seconds, others=50.0) is None


def test_numbers_that_cannot_be_are_taken_for_the_nearest_that_can() -> None:
    assert found(own=20.0, others=-5.0) is None  # the kernel counts in ticks, the process finer
    shortage = found(others=500.0)
    assert shortage is not None
    assert shortage.taken == 4.0
    assert found(cores=0, others=5.0) is None
