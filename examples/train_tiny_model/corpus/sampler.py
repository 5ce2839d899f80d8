"""Seeded choices, each of which keeps the held-out part of the data apart.

Every choice that a test is to generalise over (a name, a city, a pair of numbers, a question's
wording) is named by a key. A key is held out when its hash says so; a training sampler never
returns one, and a testing sampler returns nothing else.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence
from typing import TypeVar

from corpus import words

T = TypeVar("T")


def is_held_out(*key: object) -> bool:
    """One key in eight, the same ones on every machine."""
    return zlib.crc32(repr(key).encode()) % 8 == 0


class Sampler:
    """Random choices for one document."""

    def __init__(self, seed: str, testing: bool = False, hard: bool = False) -> None:
        self.rng = random.Random(seed)
        self.hard = hard  # whether to draw more of what is slow to learn
        self.testing = testing

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def choice(self, options: Sequence[T]) -> T:
        return self.rng.choice(options)

    def split(self, draw: Callable[[], T]) -> T:
        """Repeat `draw` until its value belongs to this sampler's side of the split."""
        while True:
            value = draw()
            if is_held_out(value) == self.testing:
                return value

    def number(self, low: int, high: int) -> int:
        return self.rng.randint(low, high)

    def name(self) -> str:
        """A person's name: mostly a known one, sometimes made up."""
        known = self.chance(0.65)
        return self.split(lambda: self.choice(words.NAMES) if known else self.made_up(2))

    def city(self) -> str:
        known = self.chance(0.65)
        return self.split(lambda: self.choice(words.CITIES) if known else self.made_up(3))

    def made_up(self, most: int) -> str:
        """A word that looks like a name: what a copier has to cope with."""
        parts = [self.choice(words.ONSETS) + self.choice(words.VOWELS) for _ in range(most)]
        return ("".join(parts) + self.choice(words.CODAS)).capitalize()
