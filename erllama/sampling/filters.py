"""The stages that narrow the choice. Pure.

Each says which run of the candidates, ranked from the likeliest down, it keeps: no filter keeps
two tokens and drops one between them. So ids need not be carried along, one sort serves the whole
chain, and what one stage adds up the next one may use. The results are those of llama.cpp's
samplers (src/llama-sampler.cpp), but for sums in double precision.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np

from erllama.sampling.candidates import Candidates
from erllama.sampling.running import Floats, Running

Run: TypeAlias = "tuple[int, int]"
"""First rank, and the one behind the last."""

_COLUMNS = 4_096
_EVERY = 64


def ranked(logits: Floats, k: int, out: Floats | None = None) -> Floats:
    """The `k` largest of `logits`, or all there are, from the largest down; -inf left out.

    Args:
        out: where to put them, if it is as long as `logits`.
    """
    if k < len(logits):
        logits, out = _largest(logits, k), None
    up = np.negative(logits, out=out)
    up.sort()
    down: Floats = np.negative(up, out=up)[:k]
    return down[: above(down, np.float32(-np.inf))] if len(down) and down[-1] == -np.inf else down


def token_at(logits: Floats, down: Floats, rank: int) -> int:
    """The id of the candidate at `rank`; of equal logits the lower id is ranked first.

    Args:
        logits: of the whole vocabulary.
        down: the largest of them, from the first on.
    """
    value = down[rank]
    return int((logits == value).nonzero()[0][rank - above(down, value)])


def above(down: Floats, value: np.float32) -> int:
    """How many of `down` are more than `value`; of another type it would cost a conversion."""
    return len(down) - int(down[::-1].searchsorted(value, side="right"))


def typical(candidates: Candidates, p: float) -> Run:
    down, running = candidates.down, candidates.running
    # a logit is as far from the mean one as its surprise from the expected one
    mean = np.float32(running.dot(down) / running.total)
    distance = np.subtract(down, mean, out=candidates.work.array("distance", len(down)))
    return _nearest(np.abs(distance, out=distance), running, p * running.total)


def top_p(candidates: Candidates, p: float) -> Run:
    return 0, candidates.running.reach(p * candidates.total) + 1


def min_p(candidates: Candidates, p: float) -> Run:
    down = candidates.down
    least = down[0] + np.float32(math.log(p))
    return 0, max(len(down) - int(down[::-1].searchsorted(least)), 1)


def xtc(candidates: Candidates, threshold: float) -> Run:
    reaching = candidates.reaching(threshold, lambda weights: weights.sum(dtype=np.float64))
    return max(reaching - 1, 0), len(candidates)


def pick(candidates: Candidates, uniform: float) -> int:
    """The rank that a random number from 0 to 1 falls on, walking from the likeliest down."""
    running = candidates.running
    return running.reach(running.total * uniform)


def _largest(logits: Floats, k: int) -> Floats:
    """At least the `k` largest, in any order, and as few others as is quickly done."""
    n = len(logits)
    if k * 8 < _COLUMNS < n:
        # at least k logits reach the k-th largest of the columns' maxima
        maxima = logits[: n - n % _COLUMNS].reshape(-1, _COLUMNS).max(axis=0)
        least = np.partition(maxima, _COLUMNS - k)[_COLUMNS - k]
        largest: Floats = logits[logits >= least]
        return largest
    split: Floats = np.partition(logits, n - k)
    return split[n - k :]


def _nearest(distance: Floats, running: Running, mass: float) -> Run:
    """The run of candidates of the least distance that together weigh more than `mass`.

    Distances fall up to the expected surprise and rise behind it, so all below a bound are a run.
    The bound is looked for among some distances, then among those between two of them.
    """
    lowest = int(distance.argmin()) + 1
    falling, rising = distance[:lowest][::-1], distance[lowest:]

    def run(bound: np.float32) -> Run:
        start = lowest - int(falling.searchsorted(bound, side="right"))
        return start, lowest + int(rising.searchsorted(bound, side="right"))

    def least(bounds: Floats, high: int) -> int:
        bounds.sort()
        low = 0
        while low < high:
            middle = (low + high) // 2
            enough = running.more(*run(bounds[middle]), mass)
            low, high = (low, middle) if enough else (middle + 1, high)
        return low

    some = distance[::_EVERY].copy()
    at = least(some, len(some))
    outer = run(some[at]) if at < len(some) else (0, len(distance))
    inner = run(some[at - 1]) if at else (lowest, lowest)
    between = np.concatenate((distance[outer[0] : inner[0]], distance[inner[1] : outer[1]]))
    return run(between[least(between, len(between) - 1)]) if len(between) else outer
