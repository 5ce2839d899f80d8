"""Threads that compile what rules texts: grammars, schemas, expressions.

Each kind has a thread of its own, and so has what must be tried in a child process first: none
waits behind another, and loading and tokenizing (`Workers`) behind none of them. Within a kind one
comes after the other, which the interpreter lock would see to anyway.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from erllama.backend.trial import Trial
from erllama.backend.workers import Workers
from erllama.sampling import Grammar
from erllama.sampling.effort import Pause
from erllama.sampling.hazard import needs_trial

T = TypeVar("T")

_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 1e-4, 2e-3


class Ended(Exception):
    """Whoever asked for the work does not want it any more."""


class Compilers:
    """A thread for each kind of work, and the child process of trials."""

    def __init__(self) -> None:
        kinds = ("grammar", "json_schema", "regex", "trial")
        # of low priority they would keep the interpreter lock while others have the processor
        self._threads = {kind: Workers(1, low_priority=False) for kind in kinds}
        self._trial = Trial()
        self._closed = False

    async def run(self, stage: Grammar, work: Callable[[Pause], T], ended: Callable[[], bool]) -> T:
        """Do `work` for what rules a text on a thread.

        Args:
            work: gets what it has to call every millisecond or so.
            ended: whether the request is over, from any thread; its work ends then.

        Raises:
            Ended: it is over.
            InvalidGrammar: `stage` does not survive its trial.
        """

        latest = time.perf_counter()

        def pause() -> None:
            """Lets others have the interpreter lock, and the processor, half of the time."""
            nonlocal latest
            if ended() or self._closed:
                raise Ended
            worked = time.perf_counter() - latest
            time.sleep(min(max(worked, _SHORTEST_PAUSE_S), _LONGEST_PAUSE_S))
            latest = time.perf_counter()

        def tried() -> T:
            pause()
            if trial:
                self._trial.check(stage, pause)
            return work(pause)

        trial = needs_trial(stage)
        return await self._threads["trial" if trial else stage.kind].run(tried)

    def close(self) -> None:
        """Take no more work, and end what is at work and the child process."""
        self._closed = True
        for threads in self._threads.values():
            threads.close()
        self._trial.close()
