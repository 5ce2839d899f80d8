"""How many steps an automaton may take for a piece of work. Pure.

Steps are counted, not seconds: a text that was followed once is followed again on a slower machine,
or beside other load. A step is about a microsecond of a current processor.

So that it does not depend on what was met before either, work is *counted* as if nothing was
remembered, while only what is really done is *used up*; both have the same limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias, TypeVar

T = TypeVar("T")

MASK_STEPS = 75_000
"""For the tokens that may come at one place. Ordinary grammars take up to 15,000,
a choice of 1,500 words 58,000."""

ACCEPT_STEPS = 20_000
"""For going on behind one token."""

BEGIN_STEPS = 200_000
"""For the masks that are made before a text begins."""

PAUSE_STEPS = 500
"""Between two pauses."""


Pause: TypeAlias = "Callable[[], object]"
"""Called every now and then within long work; an exception of it ends the work."""


def paced(items: Iterable[T], pause: Pause | None) -> Iterable[T]:
    """`items`, with pauses in between."""
    if pause is None:
        return items
    return _paced(items, pause)


def _paced(items: Iterable[T], pause: Pause) -> Iterator[T]:
    for number, one in enumerate(items):
        if not number % PAUSE_STEPS:
            pause()
        yield one


class TooAmbiguous(Exception):
    """The text can be read in too many ways to follow them all."""


class TooManySteps(TooAmbiguous):
    """Following the text takes more steps than one piece of work may."""


class Effort:
    """The steps of one automaton.

    Attributes:
        left: how many more the piece of work at hand may use up.
        counted: steps that are counted for it, beside those of rows.
        used: all that were ever used up.
    """

    def __init__(self) -> None:
        self.left = MASK_STEPS
        self.counted = 0
        self.used = 0
        self._pause: Pause | None = None
        self._next_pause = 0

    def allow(self, steps: int) -> None:
        """Begin a piece of work."""
        self.left = steps
        self.counted = 0

    def use(self, steps: int) -> None:
        """Use up steps, which are counted elsewhere.

        Raises:
            TooManySteps
        """
        self.left -= steps
        self.used += steps
        if self.left < 0:
            raise TooManySteps
        if self.used >= self._next_pause:
            self.rest()

    def spend(self, steps: int) -> None:
        """Count steps, and use them up.

        Raises:
            TooManySteps
        """
        self.counted += steps
        self.use(steps)

    def rest(self) -> None:
        """Pause, also before the steps of some work are known."""
        self._next_pause = self.used + PAUSE_STEPS
        if self._pause is not None:
            self._pause()

    def pause(self, pause: Pause | None) -> None:
        """Have it called while steps are used up."""
        self._pause = pause
        self._next_pause = self.used
