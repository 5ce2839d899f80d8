"""What a loaded model's states and slices can be trusted with, found out by computing.

A prompt is computed in one slice. Then in slices of 64 rows, between which its rows are taken
out, cut, put together again in another sequence and gone on with. If logits, rows and snapshots
agree bit for bit, the exact-slicing rule holds here and so do states that were put back. If not,
the second run is repeated without taking anything out, which tells the one fault from the other.

Costs two prompts of 128 rows, 512 at most for mixtures of experts, whose kernels depend on the
rows of a slice; and two decode rows. On the lane, one call of llama.cpp per part.
"""

from __future__ import annotations

import array
from collections.abc import Callable, Generator, Sequence
from typing import Literal, NamedTuple

import msgspec
import numpy as np

from erllama.backend.base import Buffer, Engine, Prefill, SavedState, StepPlan
from erllama.backend.llama.state_blob import BadState
from erllama.config import GRANULE
from erllama.errors import DecodeFailed

ROWS = 2 * GRANULE
"""Rows of the prompt."""

EXPERT_ROWS = 512
"""The same, at most, where experts share the rows of a slice."""

CLOSE = 0.02
"""Logits that differ by less of their spread may come of another order of additions; what differs
by more was computed from something else."""

Restored = Literal["same", "close", "wrong"]


class Verdict(msgspec.Struct, frozen=True):
    """What a self-test found.

    Attributes:
        sliced: slices of other sizes gave the same bits.
        restored: how a state that was cut and joined went on, beside one that was left alone.
    """

    sliced: bool
    restored: Restored

    @property
    def exact(self) -> bool:
        """Whether pure rows continue bit for bit as a cold run."""
        return self.sliced and self.restored == "same"


class _Run(NamedTuple):
    """A prompt that was computed: logits, what its sequence held, and the logits one token on."""

    logits: bytes
    begin: bytes
    rest: bytes
    snapshot: bytes
    following: bytes


def self_test(engine: Engine, rows: int) -> Generator[None, None, Verdict]:
    """Test an engine whose sequences are empty; yields between calls, so that others may compute.

    Args:
        rows: of the slice to compare with; down to what the context and a call can take.
    """
    trial = _Trial(engine, rows)
    try:
        whole = yield from trial.run(trial.whole)
        cut = yield from trial.run(trial.slices, restore=True)
        if whole == cut:
            return Verdict(True, "same")
        apart = yield from trial.run(trial.slices)
        return Verdict(whole == apart, _compare(apart, cut))
    except (DecodeFailed, BadState):
        return Verdict(False, "wrong")
    finally:
        trial.clear()


class _Trial:
    """A prompt on an engine."""

    def __init__(self, engine: Engine, rows: int) -> None:
        capabilities = engine.capabilities
        if capabilities.state is None:
            raise DecodeFailed("this engine's states cannot be saved")
        self._engine = engine
        self._state = capabilities.state
        self._last = capabilities.n_seq_max - 1
        self._number = 0
        self._held = 0
        self._seq = 0
        room = min(capabilities.n_ctx - 1, capabilities.n_batch) // GRANULE * GRANULE
        self.n = max(min(rows, room), min(ROWS, capabilities.n_ctx - 1))
        if self.n < ROWS:  # too short for two ways of slicing it
            self.slices = self.whole = [self.n // 2, self.n - self.n // 2]
        else:
            self.slices, self.whole = [GRANULE] * (self.n // GRANULE), [self.n]
        self._tokens = array.array(
            "i", [(i * 7_919 + 11) % engine.info.n_vocab for i in range(self.n + 1)]
        )

    def run(self, slices: Sequence[int], *, restore: bool = False) -> Generator[None, None, _Run]:
        """Compute the prompt in slices; with `restore`, behind states that were put back."""
        self.clear()
        for rows in slices:
            logits = yield from self._compute(rows)
            if restore and self._held < self.n:
                self._move([(0, self._held)])
        saved = self._save([(0, self.slices[0]), (self.slices[0], self.n)])
        if restore:
            self._move([(0, self.slices[0]), (self.slices[0], self.n)])
        following = yield from self._compute(1)
        begin, rest = saved.rows if saved.rows else (b"", b"")
        return _Run(logits, _bytes(begin), _bytes(rest), _bytes(saved.snapshot), following)

    def clear(self) -> None:
        """Leave all sequences empty."""
        self._step(end=tuple({0, self._last}))
        self._held, self._seq = 0, 0

    def _compute(self, rows: int) -> Generator[None, None, bytes]:
        end = self._held + rows
        most = self._engine.capabilities.n_batch // GRANULE * GRANULE
        while self._held < end:
            n = min(end - self._held, most)
            part = self._tokens[self._held : self._held + n]
            prefill = Prefill(self._seq, self._held, part, logits=True)
            logits = self._step(slices=(prefill,), keep_logits=True)
            self._held += n
            yield
        return logits

    def _save(self, ranges: list[tuple[int, int]]) -> SavedState:
        ranges = ranges if self._state.layers else []
        return self._engine.save(self._seq, ranges, snapshot=self._state.snapshot)

    def _move(self, ranges: list[tuple[int, int]]) -> None:
        """Take the state out in pieces, empty the sequence, and put it into another one."""
        saved = self._save(ranges)
        self._step(end=(self._seq,))
        self._seq = self._last - self._seq
        frame = self._engine.frame(self._seq, self._held)
        for (start, stop), rows in zip(ranges, saved.rows, strict=False):
            frame.put_rows(start, rows, stop - start, stop - start)
        if saved.snapshot is not None:
            frame.put_snapshot(saved.snapshot)
        self._engine.restore(self._seq, frame)

    def _step(self, **parts: object) -> bytes:
        self._number += 1
        make: Callable[..., StepPlan] = StepPlan
        outcome = self._engine.step(make(number=self._number, **parts))
        if outcome.status != "done":
            raise DecodeFailed(outcome.detail)
        return b"".join(map(_bytes, outcome.logits.values()))


def _bytes(buffer: Buffer | None) -> bytes:
    return b"" if buffer is None else np.asarray(memoryview(buffer)).tobytes()  # type: ignore[arg-type]


def _compare(alone: _Run, moved: _Run) -> Restored:
    """How a run whose state was moved differs from one whose state was left alone."""
    if alone == moved:
        return "same"
    if alone.begin != moved.begin:  # rows that were put back are other rows
        return "wrong"
    pairs = ((alone.logits, moved.logits), (alone.following, moved.following))
    return "close" if all(_near(*pair) for pair in pairs) else "wrong"


def _near(one: bytes, other: bytes) -> bool:
    a, b = np.frombuffer(one, np.float32), np.frombuffer(other, np.float32)
    return bool(np.abs(a - b).max() <= CLOSE * (a.max() - a.min()))
