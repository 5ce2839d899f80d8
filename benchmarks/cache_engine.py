"""A llama.cpp backend that notes how long each call holds the lane. For benchmarks."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from erllama.backend.base import (
    Engine,
    FingerprintMemory,
    Frame,
    Loading,
    Progress,
    SavedState,
    StepOutcome,
    StepPlan,
)
from erllama.backend.llama import LlamaBackend
from erllama.config import ContextConfig, ModelConfig

T = TypeVar("T")


class Notes:
    """Milliseconds on the lane by kind of call; the backend that fills it."""

    def __init__(self) -> None:
        self.ms: dict[str, list[float]] = defaultdict(list)
        self.token_bytes = 0

    def open(self, path: str, model: ModelConfig, context: ContextConfig) -> Loading:
        loading = LlamaBackend().open(path, model, context)
        return WatchedLoading(loading, self)

    def time(self, kind: str, work: Callable[[], T]) -> T:
        started = time.perf_counter()
        result = work()
        self.ms[kind].append((time.perf_counter() - started) * 1e3)
        return result

    def take(self) -> dict[str, list[float]]:
        """What was noted since the last time."""
        taken, self.ms = dict(self.ms), defaultdict(list)
        return taken


class WatchedLoading:
    """See `erllama.backend.base.Loading`."""

    def __init__(self, loading: Loading, notes: Notes) -> None:
        self._loading = loading
        self._notes = notes

    def fingerprint(self, memory: FingerprintMemory, progress: Progress) -> str:
        return self._loading.fingerprint(memory, progress)

    def load(self, progress: Progress) -> None:
        self._loading.load(progress)

    def prepare(self) -> bool:
        return self._loading.prepare()

    def warm_up(self) -> Engine:
        engine = self._loading.warm_up()
        state = engine.capabilities.state
        self._notes.token_bytes = state.token_bytes if state is not None else 0
        watched: Any = Watched(engine, self._notes)
        return cast("Engine", watched)

    def discard(self) -> None:
        self._loading.discard()


class Watched:
    """An engine; see `erllama.backend.base.Engine`."""

    def __init__(self, engine: Engine, notes: Notes) -> None:
        self._engine = engine
        self._notes = notes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def step(self, plan: StepPlan) -> StepOutcome:
        kind = "prefill" if plan.prefill else "decode" if plan.rows else "draw"
        return self._notes.time(kind, lambda: self._engine.step(plan))

    def save(self, seq: int, ranges: Sequence[tuple[int, int]], **options: Any) -> SavedState:
        return self._notes.time("save", lambda: self._engine.save(seq, ranges, **options))

    def restore(self, seq: int, frame: Frame) -> None:
        self._notes.time("restore", lambda: self._engine.restore(seq, frame))
