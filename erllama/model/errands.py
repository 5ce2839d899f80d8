"""What the lane does for an engine between its steps: saves, restores, a fresh context.

Contract
    State     the errands that are on their way (`_out`); `EngineOwner.at` says which one the lane
              is at.
    Writer    the model's actor.
    Watch     while any is on its way, a timer looks which one the lane is at. None of these calls
              can be aborted. One that takes longer than its bound is logged; one that is not back
              a grace later is given up: nothing of the engine is touched again, for a thread is
              inside it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from erllama.backend.base import Engine
from erllama.clock import Clock, Timer
from erllama.model.engine_owner import EngineOwner
from erllama.model.gauges import Gauges
from erllama.model.messages import ErrandGiveUp, LookAtErrands
from erllama.model.stacks import stacks
from erllama.model.stepper import GRACE_S

T = TypeVar("T")

log = logging.getLogger("erllama.model")

_LOOKS = 4  # in the time that one may take


class Errands:
    """See the module.

    Args:
        urgent: sends a message to the model's actor.
        bound_s: longest time of one errand.
    """

    def __init__(
        self,
        *,
        owner: EngineOwner,
        gauges: Gauges,
        clock: Clock,
        urgent: Callable[[object], bool],
        bound_s: float,
    ) -> None:
        self._owner = owner
        self._gauges = gauges
        self._clock = clock
        self._urgent = urgent
        self._bound_s = bound_s
        self._numbers = 0
        self._out: dict[int, str] = {}
        self._seen: tuple[object, float] = (0, 0.0)
        self._overdue = 0
        self._watch: Timer | None = None

    def run(
        self,
        what: str,
        work: Callable[[Engine], T],
        then: Callable[[T | None, BaseException | None], object],
    ) -> None:
        """Queue an errand; `then(result, error)` is called on the event loop (`EngineOwner.run`).

        Args:
            what: a word for it, for the log.
        """
        number = self._numbers = self._numbers + 1

        def back(result: T | None, error: BaseException | None) -> None:
            self._back(number)
            then(result, error)

        self._out[number] = what
        self._owner.run(work, back, what=number)
        if len(self._out) == 1:
            self._gauges.errand_since = self._clock.now()
        if self._watch is None:  # one timer for many
            self._look_again()

    def look(self) -> None:
        """See which errand the lane is at, and for how long it has been."""
        self._watch = None
        if not self._out:
            return
        self._look_again()
        number, now = self._owner.at, self._clock.now()
        # else they wait for the lane; what is there has a watch of its own
        if not isinstance(number, int) or number not in self._out:
            return
        if number != self._seen[0]:
            self._seen = number, now
        age = now - self._seen[1]
        if age >= self._bound_s and number != self._overdue:
            self._overdue = number
            self._tell(number, age)

    def is_lost(self, number: int) -> bool:
        """Whether one that took too long has not come back."""
        return number in self._out

    def rest(self) -> None:
        """Watch no more."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _back(self, number: int) -> None:
        del self._out[number]
        self._gauges.errand_since = self._clock.now() if self._out else None

    def _tell(self, number: int, age: float) -> None:
        log.error(
            "%s has taken %.3g s, over step_timeout_s, and cannot be aborted\n%s",
            self._out[number],
            age,
            stacks(),
        )
        self._clock.call_later(GRACE_S, lambda: self._urgent(ErrandGiveUp(number)))

    def _look_again(self) -> None:
        self._watch = self._clock.call_later(
            self._bound_s / _LOOKS, lambda: self._urgent(LookAtErrands())
        )
