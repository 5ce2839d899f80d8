"""How long the cores of this process have worked, for it and for others (Linux).

From `/proc/stat` and `cpu.stat` of the control groups (proc(5), the kernel's
admin-guide/cgroup-v2.rst). Elsewhere nothing is known.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import msgspec

from erllama.backend.cgroups import ROOT, group_folders

_IDLE, _IOWAIT, _GUEST = 3, 4, 8  # columns of /proc/stat; a guest's time is in the user's already


class CpuTime(msgspec.Struct, frozen=True, kw_only=True):
    """A reading; two of them tell what happened in between.

    Attributes:
        at: seconds on the system's monotonic clock.
        cores: cores that this process may use.
        busy: seconds that these cores were at work, for whomever; a hypervisor's theft counts.
        own: seconds that this process computed, on all of its threads.
        periods: periods of a CPU quota on this process's control groups; 0 without one.
        throttled: those of them at whose end the quota was used up, and the process held back.
    """

    at: float
    cores: int
    busy: float
    own: float
    periods: int = 0
    throttled: int = 0


def read_cpu_time(root: Path = ROOT, cores: Collection[int] | None = None) -> CpuTime | None:
    """A reading of now; None where the system does not tell. Never raises.

    Args:
        root: folder that has `proc` and `sys`.
        cores: numbers of the cores that count; None: those that this process may use.
    """
    try:
        usable = os.sched_getaffinity(0) if cores is None else set(cores)
        times = list(_core_times((root / "proc/stat").read_text(), usable))
        periods, throttled = _quota(root)
        return CpuTime(
            at=time.monotonic(),
            cores=len(times),
            busy=sum(times) / os.sysconf("SC_CLK_TCK"),
            own=time.process_time(),
            periods=periods,
            throttled=throttled,
        )
    except (OSError, ValueError, AttributeError, IndexError):
        return None


def _core_times(stat: str, usable: Collection[int]) -> Iterator[int]:
    """Ticks that each usable core has worked."""
    for line in stat.splitlines():
        name, *columns = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in usable:
            ticks = [int(column) for column in columns[:_GUEST]]
            yield sum(ticks) - ticks[_IDLE] - ticks[_IOWAIT]


def _quota(root: Path) -> tuple[int, int]:
    """Periods of the quotas on this process, and how many of them were used up."""
    found = [_counts(folder / "cpu.stat") for folder in group_folders("cpu", root)]
    return max(found, key=lambda counts: counts[1], default=(0, 0))


def _counts(stat: Path) -> tuple[int, int]:
    try:
        numbers = dict(line.split() for line in stat.read_text().splitlines())
        return int(numbers.get("nr_periods", 0)), int(numbers.get("nr_throttled", 0))
    except (OSError, ValueError):
        return 0, 0
