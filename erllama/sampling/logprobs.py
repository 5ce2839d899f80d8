"""Log probabilities of tokens, from the logits as the model gave them. Pure."""

from __future__ import annotations

import numpy as np

from erllama.sampling.filters import ranked, token_at
from erllama.sampling.running import Floats


class LogProbs:
    """Natural logarithms of softmax probabilities over one row of logits, of the vocabulary."""

    def __init__(self, logits: Floats) -> None:
        self._logits = logits
        largest = logits.max()
        total = np.exp(logits - largest).sum(dtype=np.float64)
        self._offset = float(largest) + float(np.log(total))

    def of(self, token: int) -> float:
        return float(self._logits[token]) - self._offset

    def likeliest(self, n: int) -> tuple[tuple[int, float], ...]:
        """The `n` likeliest ids and their log probabilities; of equal ones the lower id first."""
        if n == 0:
            return ()
        down = ranked(self._logits, n)
        ids = [token_at(self._logits, down, rank) for rank in range(len(down))]
        return tuple((token, self.of(token)) for token in ids)
