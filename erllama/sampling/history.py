"""The tokens before a draw, and what the penalties make of them. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from erllama.sampling.plan import Dry, Penalties
from erllama.sampling.running import Floats

Ids: TypeAlias = "np.ndarray[Any, np.dtype[np.int32]]"

_LOG_LARGEST = 88.7228391  # of a float, as in llama.cpp's DRY
_HEAVIEST = 1e30  # a penalty of about a ban; more would leave the range of a float
LONGEST_TAIL = 20  # tokens of a breaker behind its first; llama.cpp's MAX_SEQ_LEN


class History:
    """The ids of a context, growing at its end."""

    def __init__(self, tokens: Sequence[int] = ()) -> None:
        self._n = len(tokens)
        self._ids: Ids = np.empty(self._n + 256, np.int32)
        self._ids[: self._n] = tokens

    def __len__(self) -> int:
        return self._n

    @property
    def ids(self) -> Ids:
        return self._ids[: self._n]

    def append(self, token: int) -> None:
        if self._n == len(self._ids):
            self._ids = np.concatenate((self._ids, np.empty_like(self._ids)))
        self._ids[self._n] = token
        self._n += 1

    def last(self, n: int) -> Ids:
        """The last `n` ids, or all there are; -1: all."""
        return self.ids if n < 0 else self._ids[max(self._n - n, 0) : self._n]


class Repetition:
    """Repeat, frequency and presence penalties over the end of a history.

    Only tokens in the window are touched: going through all candidates for them, as llama.cpp
    does, costs milliseconds.
    """

    def __init__(self, stage: Penalties, history: History, n_vocab: int) -> None:
        self._stage = stage
        self._history = history
        self._counts = np.zeros(n_vocab, np.int32) if stage.frequency else None
        self._counted = len(history)
        if self._counts is not None:
            np.add.at(self._counts, history.last(stage.last_n), 1)

    def apply(self, logits: Floats) -> None:
        """Change `logits` in place."""
        stage = self._stage
        window = self._history.last(stage.last_n)
        values = logits[window]
        repeat = np.float32(stage.repeat)
        values = np.where(values <= 0, values * repeat, values / repeat)
        amount = np.full(len(window), stage.presence, np.float32)
        if self._counts is not None:
            amount += self._counted_up()[window] * np.float32(stage.frequency)
        logits[window] = values - amount  # a token that is there twice gets the same value twice

    def _counted_up(self) -> Ids:
        counts, last_n = self._counts, self._stage.last_n
        if counts is None:
            raise RuntimeError("nothing is counted without a frequency penalty")
        ids = self._history.ids
        for at in range(self._counted, len(ids)):
            counts[ids[at]] += 1
            if 0 <= last_n <= at:
                counts[ids[at - last_n]] -= 1
        self._counted = len(ids)
        return counts


Breakers: TypeAlias = "dict[int, list[tuple[int, ...]]]"
"""By the first token of a breaker, the tokens that may follow it."""


class DryPenalty:
    """DRY over the end of a history, as in llama.cpp (llama_sampler_dry_apply).

    For each earlier place it holds how many tokens up to there equal the last ones of the history;
    a new token makes one more of those before it, or none.
    """

    def __init__(self, stage: Dry, history: History, breakers: Breakers, n_vocab: int) -> None:
        self._stage = stage
        self._history = history
        self._breakers = breakers
        self._is_head = np.zeros(n_vocab, np.bool_)
        self._is_head[list(breakers)] = True
        self._most = _largest_power(stage.base)
        self._lengths: Ids = np.zeros(0, np.int32)
        self._begin()

    def apply(self, logits: Floats) -> None:
        """Change `logits` in place."""
        for token, length in self._continued().items():
            if () in self._breakers.get(token, ()):
                continue
            power = min(length - self._stage.allowed_length, self._most)
            penalty = self._stage.multiplier * self._stage.base**power
            logits[token] -= np.float32(min(penalty, _HEAVIEST))

    def _continued(self) -> dict[int, int]:
        """For each token that would continue a repetition, how long that one is already."""
        self._catch_up()
        window = self._history.last(self._stage.last_n)
        allowed, n = self._stage.allowed_length, len(window)
        limit = self._since_breaker(window) if n > allowed else 0
        if limit < allowed:
            return {}
        ends = self._lengths[len(self._lengths) - n : -1]
        found: dict[int, int] = {}
        for at in np.flatnonzero(ends >= allowed).tolist():
            length = min(int(ends[at]), at + 1, limit)
            token = int(window[at + 1])
            if length >= allowed and length > found.get(token, 0):
                found[token] = length
        return found

    def _since_breaker(self, window: Ids) -> int:
        """How many tokens there are behind the last breaker."""
        if not self._breakers:
            return len(window)
        for at in np.flatnonzero(self._is_head[window])[::-1].tolist():
            behind = len(window) - 1 - int(at)
            tails = self._breakers[int(window[at])]
            following = tuple(window[at + 1 : at + 1 + LONGEST_TAIL].tolist())
            whole = [len(tail) for tail in tails if following[: len(tail)] == tail]
            if whole:
                return behind - max(whole)
        return len(window)

    def _begin(self) -> None:
        """The lengths for the history as it is: from the end back, as long as anything agrees."""
        ids = self._history.ids
        lengths = np.zeros(len(ids), np.int32)
        enough = self._stage.allowed_length + self._most  # more makes no difference
        alike = np.arange(len(ids) - 1)
        back = 0
        while len(alike) and back < enough:
            alike = alike[alike >= back]
            alike = alike[ids[alike - back] == ids[len(ids) - 1 - back]]
            lengths[alike] += 1
            back += 1
        self._lengths = lengths

    def _catch_up(self) -> None:
        ids = self._history.ids
        for n in range(len(self._lengths) + 1, len(ids) + 1):
            longer = np.zeros(n, np.int32)
            longer[1:-1] = self._lengths[:-1] + 1
            longer[:-1][ids[: n - 1] != ids[n - 1]] = 0
            if n > 1:
                longer[0] = ids[0] == ids[n - 1]
            self._lengths = longer


def _largest_power(base: float) -> float:
    """The exponent beyond which DRY's penalty does not grow."""
    if base == 1:
        return 0
    return int(_LOG_LARGEST / math.log(base)) if base > 1.000001 else math.inf
