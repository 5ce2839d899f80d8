"""The random numbers that llama.cpp's samplers draw for a seed. Pure."""

from __future__ import annotations

import numpy as np

_WORD = 2.0**32


class Uniform:
    """Numbers from 0 to 1, 1 excluded, of a Mersenne twister (std::mt19937) that was just seeded.

    As libstdc++'s `uniform_real_distribution` makes them: a double of two words, a float of one.
    """

    def __init__(self) -> None:
        self._bits = np.random.MT19937(0)
        self._twister = np.random.RandomState(self._bits)

    def double(self, seed: int) -> float:
        """The first double after seeding with `seed`."""
        self._twister.seed(seed)
        low, high = self._word(), self._word()
        drawn = (low + high * _WORD) / (_WORD * _WORD)
        return drawn if drawn < 1 else float(np.nextafter(1.0, 0.0))

    def single(self, seed: int) -> float:
        """The first float after seeding with `seed`."""
        self._twister.seed(seed)
        drawn = np.float32(self._word()) / np.float32(_WORD)
        return float(drawn) if drawn < 1 else float(np.nextafter(np.float32(1), np.float32(0)))

    def _word(self) -> int:
        """The next word of 32 bits."""
        return int(self._bits.random_raw())
