"""A vocabulary for tests of chains: small, and all in Python."""

from __future__ import annotations

from collections.abc import Sequence

from erllama.sampling import Grammar
from erllama.sampling.chain import Constraint
from erllama.sampling.history import Breakers


class SomeWords:
    """`size` tokens; the last one ends a generation."""

    def __init__(self, size: int, breakers: Breakers | None = None) -> None:
        self.size = size
        self._breakers = breakers or {}

    def ending(self) -> Sequence[int]:
        return [self.size - 1]

    def breakers(self, texts: Sequence[str]) -> Breakers:
        return self._breakers if texts else {}

    def constraint(self, stage: Grammar) -> Constraint:
        raise NotImplementedError
