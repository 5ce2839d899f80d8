"""Filters and draws as they are defined: plain, in double precision, every logit ranked."""

from __future__ import annotations

from typing import Any

import numpy as np

from erllama.sampling import SamplingParams
from erllama.sampling.running import Floats

HAIR = 3e-6
"""What sums of floats may be off by, of all."""


def drawn(logits: Floats, params: SamplingParams, uniform: float, mu: float = 0.0) -> set[int]:
    """The token that a random number falls on, of those that typical_p, top_p, min_p or mirostat 2
    leave; and those that it would fall on if a sum were a hair larger or smaller."""
    found = set()
    ids = np.lexsort((np.arange(len(logits)), -logits))
    ids = ids[logits[ids] > -np.inf]
    values = logits[ids].astype(np.float64)
    for more in (-HAIR, 0.0, HAIR):
        if params.mirostat:
            kept = _mirostat(values, params, mu + more)
        else:
            kept = _kept(values, params, more)
        sums = np.cumsum(_shares(values[kept] / params.temperature))
        for at in np.searchsorted(sums, [uniform - HAIR, uniform, uniform + HAIR]).tolist():
            found.add(int(ids[kept][min(at, len(sums) - 1)]))
    return found


def _shares(values: Any) -> Any:
    powers = np.exp(values - values.max())
    return powers / powers.sum()


def _kept(values: Any, params: SamplingParams, more: float) -> Any:
    kept = np.arange(len(values))
    if params.typical_p < 1:
        kept = kept[_typical(values[kept], params.typical_p + more)]
    if params.top_p < 1:
        sums = np.cumsum(_shares(values[kept]))
        kept = kept[: int(np.searchsorted(sums, params.top_p + more)) + 1]
    if params.min_p > 0:
        kept = kept[values[kept] >= values[kept][0] + np.log(params.min_p) + more]
    return kept


def _typical(values: Any, p: float) -> Any:
    """Meister et al. 2022; of tokens that are equally typical none is dropped alone."""
    shares = _shares(values)
    surprise = -np.log(shares)
    apart = np.abs(surprise - (shares * surprise).sum())
    order = np.argsort(apart)
    last = int(np.searchsorted(np.cumsum(shares[order]), p, side="right"))
    bound = apart[order[min(last, len(order) - 1)]]
    return np.flatnonzero(apart <= bound + 1e-9)


def _mirostat(values: Any, params: SamplingParams, mu: float) -> Any:
    surprise = -np.log2(_shares(values / params.temperature))
    return np.arange(max(int((surprise <= mu).sum()), 1))
