"""Mirostat (Basu et al. 2020, arXiv:2007.14966). Pure.

Own code, because llama.cpp's keeps `mu` to itself, and draws with a generator that cannot be
keyed by position. The results are those of llama_sampler_mirostat and llama_sampler_mirostat_v2.
"""

from __future__ import annotations

import math

import numpy as np

from erllama.sampling import filters
from erllama.sampling.candidates import Candidates
from erllama.sampling.plan import Mirostat

_ESTIMATED_FROM = 100  # likeliest tokens; m in the paper


class MirostatState:
    """What mirostat has learned.

    Attributes:
        mu: the largest surprise that is allowed now, in bits. It depends on all draws before, so
            it is kept with the state of the sequence; set, it is what a resumed one goes on from.
    """

    def __init__(self, stage: Mirostat) -> None:
        self._stage = stage
        self.mu = 2.0 * stage.tau

    @property
    def bound(self) -> float | None:
        """The largest surprise, if it alone tells what may be drawn: version 2."""
        return self.mu if self._stage.version == 2 else None

    def pick(self, candidates: Candidates, uniform: float, n_vocab: int) -> int:
        """The rank that is drawn; changes `mu`."""
        version_1 = self._stage.version == 1
        kept = self._likeliest(candidates, n_vocab) if version_1 else self._unsurprising(candidates)
        candidates = candidates.kept(0, kept)
        rank = filters.pick(candidates, uniform)
        share = float(candidates.weights[rank]) / candidates.running.total
        self.mu -= self._stage.eta * (-math.log2(share) - self._stage.tau)
        return rank

    def _unsurprising(self, candidates: Candidates) -> int:
        """Version 2: how many have a surprise of at most `mu`."""
        if self.mu <= 0:
            return 1
        return max(candidates.reaching(2.0**-self.mu, np.sum), 1)

    def _likeliest(self, candidates: Candidates, n_vocab: int) -> int:
        """Version 1: how many to keep if their probabilities follow Zipf's law."""
        head = candidates.kept(0, _ESTIMATED_FROM).weights.astype(np.float64)
        head = head[head > 0]
        if len(head) < 2:
            return 1
        ranks = np.arange(1, len(head), dtype=np.float64)
        steps = np.log((ranks + 1) / ranks)
        slope = float((steps * np.log(head[:-1] / head[1:])).sum() / (steps * steps).sum())
        return _clamped(_zipf_rank(slope, self.mu, n_vocab), len(candidates))


def _zipf_rank(slope: float, mu: float, n_vocab: int) -> float:
    excess = slope - 1
    try:
        inner = excess * 2.0**mu / (1 - n_vocab**-excess)
        return float(inner ** (1 / slope))
    except (ZeroDivisionError, OverflowError):
        return math.inf


def _clamped(k: float, n: int) -> int:
    return n if math.isnan(k) or k >= n else max(int(k), 1)
