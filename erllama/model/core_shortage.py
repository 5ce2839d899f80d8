"""Whether a model's threads find a core each. Pure.

They wait for each other at every operation of the graph, so the slowest one is the speed of all:
a thread that shares its core with another process, or that a CPU quota holds back, slows the model
down many times over (docs/busy-machine.md).
"""

from __future__ import annotations

import msgspec

from erllama.backend.cpu_time import CpuTime

LEAST_WINDOW_S = 0.5
"""Readings that lie nearer tell nothing: the kernel counts in hundredths of a second."""

LEAST_TAKEN = 0.25
"""Cores that others may take, and that may be missing, before it is called a shortage."""

LEAST_THROTTLED = 0.1
"""Share of a quota's periods that may end with the process held back."""


class CoreShortage(msgspec.Struct, frozen=True, kw_only=True):
    """Threads that had no core of their own, on average over some seconds.

    Attributes:
        n_threads: of the model.
        cores: that the process may use.
        taken: cores that other processes took.
        throttled: share of the periods of a CPU quota in which it held the process back.
    """

    n_threads: int
    cores: int
    taken: float
    throttled: float

    def __str__(self) -> str:
        """What is wrong, how bad it is, and what to do."""
        threads = f"the model's {self.n_threads} threads"
        if self.throttled >= LEAST_THROTTLED:
            cause = (
                f"a CPU quota holds the process back {self.throttled:.0%} of the time, so set "
                "n_threads to the whole cores that it grants, or raise it"
            )
        elif self.taken >= LEAST_TAKEN:
            cause = (
                f"other processes take {self.taken:.1f} of the {self.cores} cores that {threads} "
                "need, so keep cores free of them, or lower n_threads"
            )
        else:
            cause = f"{threads} have {self.cores} cores, so set n_threads to {self.cores} or less"
        return f"{cause}: threads wait for each other, and the model may run many times slower"


def find_shortage(before: CpuTime, after: CpuTime, n_threads: int) -> CoreShortage | None:
    """What two readings say of a model that computes with `n_threads`; None: nothing is amiss.

    One thread waits for no other: a core that it shares costs it no more than the share.
    """
    window = after.at - before.at
    if window < LEAST_WINDOW_S or after.cores < 1 or n_threads < 2:
        return None
    others = (after.busy - before.busy) - (after.own - before.own)
    taken = min(max(others / window, 0.0), float(after.cores))
    periods = after.periods - before.periods
    throttled = (after.throttled - before.throttled) / periods if periods > 0 else 0.0
    missing = n_threads - (after.cores - taken)
    crowded = missing >= LEAST_TAKEN and (taken >= LEAST_TAKEN or n_threads > after.cores)
    if not crowded and throttled < LEAST_THROTTLED:
        return None
    return CoreShortage(n_threads=n_threads, cores=after.cores, taken=taken, throttled=throttled)
