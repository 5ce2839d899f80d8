"""The likeliest tokens, as many of them as have to be ranked. Pure.

Ranking 128,000 logits takes longer than all else that a draw does, and most of them are dropped by
the first filter. Which are, min_p and mirostat 2 tell from the largest logit and the sum of all
weights. For top_p, every 61st logit or so tells about where it cuts; whether what comes before
there is enough, is told by the sum of all weights. If it is not, or if few would be dropped, all
are ranked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from erllama.sampling import filters
from erllama.sampling.candidates import Candidates, Work
from erllama.sampling.plan import MinP, Stage, Temperature, TopK, TopP
from erllama.sampling.running import Floats, Running

_SAMPLE = 2_048
_FEWER = 8  # fewer samples tell whether more are worth while
_FLAT = 100.0  # times what the likeliest weighs: too many tokens share that
_MARGIN = 0.5  # of the weight that top_p drops: what a sample may miss
_WORTH = 4  # ranking more than one in so many takes as long as finding out which
_JUMPS = 25  # see _chosen


def ranked(
    logits: Floats, stages: Sequence[Stage], work: Work, mu: float | None = None
) -> Candidates:
    """The candidates that can pass the first of `stages`, or all; -inf is none.

    Args:
        stages: the filters.
        mu: where mirostat 2 comes behind them: what it has learned.
    """
    n = len(logits)
    match stages:
        case [TopK(k), *_] if k < n:
            return Candidates(filters.ranked(logits, k), work)
        case [MinP() | TopP(), *_]:
            found = _narrowed(logits, stages, work)
        case [] | [Temperature()] if mu is not None:
            found = _unsurprising(logits, stages, mu, work)
        case _:
            found = None
    if found is not None:
        return found
    return Candidates(filters.ranked(logits, n, work.array("ranked", n)), work)


def _narrowed(logits: Floats, stages: Sequence[Stage], work: Work) -> Candidates | None:
    top = np.float32(logits.max())
    if math.isfinite(top):
        match stages:
            case [MinP(p), *_]:
                return _all_of(_chosen(logits, logits >= _least(top, p)), work)
            case [TopP(p), MinP(least), *_]:
                return _nucleus(logits, top, p, _least(top, least), True, work)
            case [TopP(p), *_]:
                cut = _cut(logits, top, p)
                return None if cut is None else _nucleus(logits, top, p, cut, False, work)
    return None


def _least(top: np.float32, p: float) -> np.float32:
    """The least logit that min_p keeps."""
    return np.float32(top + np.float32(math.log(p)))


def _all_of(logits: Floats, work: Work, whole: float | None = None) -> Candidates:
    return Candidates(filters.ranked(logits, len(logits)), work, whole=whole)


def _nucleus(
    logits: Floats, top: np.float32, p: float, least: np.float32, sure: bool, work: Work
) -> Candidates | None:
    """Those from a logit on, with the sum of all; None: too many, or not all that top_p keeps.

    `sure`: those behind are dropped by what comes next.
    """
    there = logits >= least
    if int(np.count_nonzero(there)) * _WORTH > len(logits):
        return None
    weights = work.array("weights", len(logits))
    np.exp(np.subtract(logits, top, out=weights), out=weights)
    found = _all_of(_chosen(logits, there), work, Running(weights).total)
    return found if sure or found.running.total >= p * found.total else None


def _cut(logits: Floats, top: np.float32, p: float) -> np.float32 | None:
    """A logit behind which there is probably less than top_p drops; None: too far back."""
    every = len(logits) // _SAMPLE | 1
    some = logits[:: every * _FEWER]
    if float(np.add.reduce(np.exp(some - top))) * every * _FEWER > _FLAT:
        return None
    up = np.negative(logits[::every])
    up.sort()
    sums = np.exp(-top - up).cumsum(dtype=np.float64) * every
    missed = _MARGIN * (1 - p) * max(1.0, float(sums[-1]))  # the largest one weighs 1
    at = min(int(sums.searchsorted(sums[-1] - missed)), len(up) - 1)
    return np.float32(-float(up[at])) if at * _WORTH < len(up) else None


def _unsurprising(
    logits: Floats, stages: Sequence[Stage], mu: float, work: Work
) -> Candidates | None:
    """Those that have a surprise of at most `mu` bits; the likeliest one always."""
    top = np.float32(logits.max())
    if not math.isfinite(top):
        return None
    there = logits == top
    if mu > 0:
        weights, warm = work.array("weights", len(logits)), (logits, top)
        for stage in stages:
            if isinstance(stage, Temperature):
                by = np.float32(stage.t)
                warm = np.divide(logits, by, out=weights), top / by
        np.exp(np.subtract(*warm, out=weights), out=weights)
        there |= weights >= np.float32(2.0**-mu * Running(weights).total)
    return _all_of(_chosen(logits, there), work)


def _chosen(logits: Floats, there: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Floats:
    """The logits at which `there` holds.

    numpy jumps from one to the next where there are less than a tenth, which is slow unless they
    are far fewer; so there are made to be more.
    """
    n, count = len(there), int(np.count_nonzero(there))
    if not n // _JUMPS < count < n // 9:
        return logits.take(there.nonzero()[0])
    padded = np.ones(n + n // 8, np.bool_)
    padded[:n] = there
    return logits.take(padded.nonzero()[0][:count])
