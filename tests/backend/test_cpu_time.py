"""What the system says of the time of this process's cores, in files that are made here."""

from __future__ import annotations

import os
import pathlib

import pytest

from erllama.backend.cpu_time import CpuTime, read_cpu_time

TICK = os.sysconf("SC_CLK_TCK")
STAT = """cpu  999 999 999 999 999 999 999 999 999 999
cpu0 {user} 200 300 40000 500 60 70 80 100 0
cpu1 1000 0 0 40000 0 0 0 0 0 0
cpu10 7 0 0 40000 0 0 0 0 0 0
intr 12345 1 2 3
btime 1700000000
"""


def write(root: pathlib.Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    write(tmp_path, "proc/stat", STAT.format(user=100))
    write(tmp_path, "proc/self/cgroup", "0::/\n")
    return tmp_path


def reading(root: pathlib.Path, *cores: int) -> CpuTime:
    found = read_cpu_time(root, cores)
    assert found is not None
    return found


def test_all_but_idle_time_and_waiting_for_disks_is_work(root: pathlib.Path) -> None:
    found = reading(root, 0)
    assert found.busy == (100 + 200 + 300 + 60 + 70 + 80) / TICK  # stolen time, a guest's only once
    assert found.cores == 1
    assert (found.periods, found.throttled) == (0, 0)


def test_only_cores_that_the_process_may_use_count(root: pathlib.Path) -> None:
    assert reading(root, 1).busy == 1_000 / TICK
    assert reading(root, 1, 10).busy == 1_007 / TICK
    assert reading(root, 1, 10, 77).cores == 2


def test_own_time_and_the_clock_go_on(root: pathlib.Path) -> None:
    before = reading(root, 0)
    sum(range(10_000))
    after = reading(root, 0)
    assert after.at > before.at
    assert after.own > before.own


@pytest.mark.parametrize(
    ("groups", "folder"),
    [
        ("0::/\n", "sys/fs/cgroup"),
        ("0::/app/model\n", "sys/fs/cgroup/app/model"),
        ("0::/app/model\n", "sys/fs/cgroup/app"),
        ("4:memory:/other\n2:cpu,cpuacct:/app\n0::/\n", "sys/fs/cgroup/cpu,cpuacct/app"),
        ("1:cpu:/app\n", "sys/fs/cgroup/cpu"),
    ],
)
def test_a_quota_is_found_on_each_group_of_the_process(
    root: pathlib.Path, groups: str, folder: str
) -> None:
    write(root, "proc/self/cgroup", groups)
    write(root, f"{folder}/cpu.stat", "usage_usec 5\nnr_periods 80\nnr_throttled 20\n")
    assert (reading(root, 0).periods, reading(root, 0).throttled) == (80, 20)


def test_of_several_quotas_the_one_that_holds_back_most_counts(root: pathlib.Path) -> None:
    write(root, "proc/self/cgroup", "0::/app\n")
    write(root, "sys/fs/cgroup/cpu.stat", "nr_periods 900\nnr_throttled 3\n")
    write(root, "sys/fs/cgroup/app/cpu.stat", "nr_periods 80\nnr_throttled 20\n")
    assert (reading(root, 0).periods, reading(root, 0).throttled) == (80, 20)


@pytest.mark.parametrize("stat", ["", "cpu0 a b c\n", "cpu0 1 2\n", "\0\n\n", None])
def test_what_cannot_be_read_is_not_known(tmp_path: pathlib.Path, stat: str | None) -> None:
    write(tmp_path, "proc/self/cgroup", "0::/\n")
    if stat is not None:
        write(tmp_path, "proc/stat", stat)
    found = read_cpu_time(tmp_path, {0})
    assert found is None or found.cores == 0


@pytest.mark.parametrize("counts", ["nr_periods many\n", "one two three\n", ""])
def test_an_odd_quota_is_none(root: pathlib.Path, counts: str) -> None:
    write(root, "sys/fs/cgroup/cpu.stat", counts)
    assert (reading(root, 0).periods, reading(root, 0).throttled) == (0, 0)


def test_this_machine_tells_or_does_not() -> None:
    found = read_cpu_time()
    if pathlib.Path("/proc/stat").exists():
        assert found is not None
        assert found.cores == len(os.sched_getaffinity(0))
        assert found.busy > 0
