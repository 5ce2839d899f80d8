"""Moving the state of a running request off its sequence, and onto another one later.

The bytes of the rows are kept with the request: unlike rows in the cache, nothing can evict them,
so the request goes on bit for bit as if it had never been interrupted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from erllama.backend.base import Engine, Frame, SavedState
from erllama.backend.workers import Workers
from erllama.model.errands import Errands
from erllama.model.generation import Generation
from erllama.model.job import Job
from erllama.model.messages import PutBack, SpillDone, Unspilled
from erllama.model.scheduler import Entry


class Spilling:
    """See the module.

    Args:
        urgent: sends a message to the model's actor.
        spawn: runs a background task of the actor; its end arrives with the tag.
    """

    def __init__(
        self,
        *,
        errands: Errands,
        engine: Engine,
        readers: Workers,
        urgent: Callable[[object], bool],
        spawn: Callable[[Coroutine[Any, Any, Any], object], asyncio.Task[Any]],
    ) -> None:
        self._errands = errands
        self._engine = engine
        self._readers = readers
        self._urgent = urgent
        self._spawn = spawn
        self._moving: set[Job] = set()

    @property
    def possible(self) -> bool:
        """Whether this engine can give out the state of a sequence."""
        return self._engine.capabilities.state is not None

    @property
    def moving(self) -> bool:
        """Whether a request is being moved off."""
        return bool(self._moving)

    def is_moving(self, job: Job) -> bool:
        """Whether this request is being moved off."""
        return job in self._moving

    def moved(self, job: Job) -> None:
        """It was moved off, or could not be."""
        self._moving.discard(job)

    def take_off(self, job: Job, generation: Generation) -> None:
        """Take the state off the sequence; `SpillDone` tells of it."""
        state, entry = self._engine.capabilities.state, job.entry
        if state is None or entry is None:
            return
        self._moving.add(job)
        seq, n, snapshot = entry.seq, generation.position, state.snapshot
        ranges = [(0, n)] if state.layers and n else []

        def work(engine: Engine) -> SavedState:
            if not n:
                return SavedState(rows=(), snapshot=None)
            return engine.save(seq, ranges, snapshot=snapshot, end=n, drop=True)

        def then(saved: SavedState | None, wrong: BaseException | None) -> None:
            self._urgent(SpillDone(job, entry, saved, wrong))

        self._errands.run("a save", work, then)

    def put_back(self, job: Job, saved: SavedState) -> None:
        """Put a state on the sequence that the request has now; `PutBack` tells of it."""
        entry, generation = job.entry, job.generation
        if entry is None or generation is None:
            return
        seq, n = entry.seq, generation.position
        if not n:
            self._urgent(PutBack(job, entry, None))
            return

        def fill() -> Frame:
            frame = self._engine.frame(seq, n)
            for rows in saved.rows:
                frame.put_rows(0, rows, n, n)
            if saved.snapshot is not None:
                frame.put_snapshot(saved.snapshot)
            return frame

        self._spawn(self._readers.run(fill), Unspilled(job, entry))

    def filled(
        self, job: Job, entry: Entry, frame: Frame | None, error: BaseException | None
    ) -> None:
        """A state is ready to be put on a sequence, or not."""
        if frame is None:
            self._urgent(PutBack(job, entry, error))
            return
        self._errands.run(
            "a restore",
            lambda engine: engine.restore(entry.seq, frame),
            lambda _, wrong: self._urgent(PutBack(job, entry, wrong)),
        )
