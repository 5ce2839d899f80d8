"""Log probabilities of tokens, from the logits as the model gave them. Pure."""

from __future__ import annotations

import math

import numpy as np

from erllama.sampling.candidates import Work
from erllama.sampling.filters import ranked
from erllama.sampling.running import Floats


class LogProbs:
    """Natural logarithms of softmax probabilities over one row of logits, of the vocabulary.

    Args:
        work: where to keep the exponentials.
    """

    def __init__(self, logits: Floats, work: Work | None = None) -> None:
        self._logits = logits
        largest = logits.max()
        powers = (work or Work()).array("weights", len(logits))
        np.exp(np.subtract(logits, largest, out=powers), out=powers)
        self._offset = float(largest) + math.log(float(powers.sum()))  # pairwise: right to 1e-6

    def of(self, token: int) -> float:
        return float(self._logits[token]) - self._offset

    def likeliest(self, n: int) -> tuple[tuple[int, float], ...]:
        """The `n` likeliest ids and their log probabilities; of equal ones the lower id first."""
        if n == 0:
            return ()
        down = ranked(self._logits, n)
        ids = np.flatnonzero(self._logits >= down[-1])
        order = np.argsort(-self._logits[ids], kind="stable")[:n]
        return tuple((int(token), self.of(token)) for token in ids[order])
