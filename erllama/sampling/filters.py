"""The stages that narrow the choice. Pure.

Each takes the logits of the candidates from the likeliest down and says which run of them it
keeps: no filter keeps two tokens and drops one between them. So ids need not be carried along,
and one sort serves the whole chain. The results are those of llama.cpp's samplers
(src/llama-sampler.cpp), but for sums in double precision.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np

from erllama.sampling.running import Floats, Running

Run: TypeAlias = "tuple[int, int]"
"""First rank, and the one behind the last."""

_COLUMNS = 4_096
_EVERY = 64


def ranked(logits: Floats, k: int) -> Floats:
    """The `k` largest of `logits`, or all there are, from the largest down; -inf left out."""
    if k < len(logits):
        logits = _largest(logits, k)
    down = np.ascontiguousarray(np.sort(logits)[::-1][:k])
    return down[: above(down, np.float32(-np.inf))] if len(down) and down[-1] == -np.inf else down


def token_at(logits: Floats, down: Floats, rank: int) -> int:
    """The id of the candidate at `rank`; of equal logits the lower id is ranked first.

    Args:
        logits: of the whole vocabulary.
        down: the largest of them, from the first on.
    """
    value = down[rank]
    return int(np.flatnonzero(logits == value)[rank - above(down, value)])


def above(down: Floats, value: np.float32) -> int:
    """How many of `down` are more than `value`; of another type it would cost a conversion."""
    return len(down) - int(np.searchsorted(down[::-1], value, side="right"))


def weights(down: Floats) -> Floats:
    """Probabilities, up to a factor: exp of how far each is below the first."""
    gaps: Floats = down - down[0]
    np.exp(gaps, out=gaps)  # in place: fresh pages cost more than the exponentials
    return gaps


def typical(down: Floats, p: float) -> Run:
    weight = weights(down)
    running = Running(weight)
    surprise = (down[0] + np.float32(math.log(running.total))) - down
    expected = float(np.einsum("i,i", weight, surprise)) / running.total
    np.subtract(surprise, np.float32(expected), out=surprise)
    return _nearest(np.abs(surprise, out=surprise), running, p * running.total)


def top_p(down: Floats, p: float) -> Run:
    running = Running(weights(down))
    return 0, running.reach(p * running.total) + 1


def min_p(down: Floats, p: float) -> Run:
    least = down[0] + np.float32(math.log(p))
    return 0, max(len(down) - int(np.searchsorted(down[::-1], least)), 1)


def xtc(down: Floats, threshold: float) -> Run:
    weight = weights(down)
    least = np.float32(threshold * weight.sum(dtype=np.float64))
    reaching = len(weight) - int(np.searchsorted(weight[::-1], least))
    return max(reaching - 1, 0), len(down)


def pick(down: Floats, uniform: float) -> int:
    """The rank that a random number from 0 to 1 falls on, walking from the likeliest down."""
    running = Running(weights(down))
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
    falling, rising = distance[:lowest][::-1].copy(), distance[lowest:]

    def run(bound: np.float32) -> Run:
        start = lowest - int(falling.searchsorted(bound, side="right"))
        return start, lowest + int(rising.searchsorted(bound, side="right"))

    def least(bounds: Floats) -> int:
        low, high = 0, len(bounds) - 1
        while low < high:
            middle = (low + high) // 2
            start, stop = run(bounds[middle])
            enough = running.before(stop) - running.before(start) > mass
            low, high = (low, middle) if enough else (middle + 1, high)
        return low

    some = np.sort(np.append(distance[::_EVERY], np.float32(np.inf)))
    at = least(some)
    outer = run(some[at])
    inner = run(some[at - 1]) if at else (lowest, lowest)
    between = np.sort(
        np.concatenate((distance[outer[0] : inner[0]], distance[inner[1] : outer[1]]))
    )
    return run(between[least(between)]) if len(between) else outer
