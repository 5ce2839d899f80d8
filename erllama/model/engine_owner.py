"""The one owner of a model's native handles, from the first byte loaded to the last one freed.

Contract
    State     empty → loading → loaded → warming → open; from any of them → closed.
    Writers   the worker that loads, the lane that warms up and frees, `close` from the event loop;
              each under the lock.
    Invariant whatever exists when `close` is called, or comes to exist after it, is freed on the
              lane, behind the jobs of this engine that were queued before; once.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

from erllama.backend.base import Backend, Engine, FingerprintMemory, Loading, StepOutcome, StepPlan
from erllama.backend.lane import Lane
from erllama.backend.workers import Workers
from erllama.config import ContextConfig, ModelConfig
from erllama.errors import EngineCrashed, EngineError, ModelLoadError

T = TypeVar("T")
_NOT_OPEN = "the engine is not open"
Follow = Callable[[StepOutcome], StepPlan | None]
Then = Callable[[StepOutcome | None, BaseException | None, int | None], object]


class EngineOwner:
    """Loads an engine, hands it out, frees it.

    Attributes:
        at: what the lane is doing for this engine right now, as `run` was told; None: nothing.
    """

    def __init__(
        self,
        *,
        lane: Lane,
        workers: Workers,
        memory: FingerprintMemory,
        on_progress: Callable[[float], object],
    ) -> None:
        self._lane = lane
        self._workers = workers
        self._memory = memory
        self._on_progress = on_progress
        self._id = lane.new_owner()
        self._lock = threading.Lock()
        self._closed = False
        self._loading: Loading | None = None
        self._engine: Engine | None = None
        self.at: object = None

    async def open(
        self,
        backend: Callable[[], Backend],
        path: str,
        model: ModelConfig,
        context: ContextConfig,
    ) -> tuple[Engine, str]:
        """Load, identify and warm up; returns the engine and the fingerprint of its bytes.

        `backend` is called on a thread: importing one can take half a second.

        Raises:
            ModelLoadError, ConfigError: as the backend says.
        """
        # importing holds the interpreter lock: at low priority the loop would wait long for it
        loading = await asyncio.to_thread(lambda: backend().open(path, model, context))
        fingerprint = await self._workers.run(lambda: self._load(path, loading))
        await self._lane.wait_up()
        while await self._lane.submit(self._id, lambda: self._prepare(path, loading)):
            pass  # other models' steps come in between
        engine = await self._lane.submit(self._id, lambda: self._warm_up(path, loading))
        return engine, fingerprint

    def submit(self, plan: StepPlan, follow: Follow | None, then: Then) -> None:
        """Queue a step; `then(outcome, error, following)` is called on the event loop.

        `follow` is asked on the lane what comes after a step that was done. That plan is queued
        before the event loop hears of the outcome, so the lane need not wait for the loop;
        `following` is its number. If the engine or the lane is down, `then` is called at once, with
        that error: it is for whoever waits for the step, not for the call that is being served.
        """
        steps = _Steps(self, plan, follow, then)
        try:
            self._check_open()
            self._lane.submit_then(self._id, steps.step, steps.report, goes_on=steps.goes_on)
        except EngineError as down:
            then(None, down, None)

    def run(
        self,
        work: Callable[[Engine], T],
        then: Callable[[T | None, BaseException | None], object],
        *,
        what: object = "other",
    ) -> None:
        """Queue other work on the engine.

        Args:
            then: called on the event loop with the result and None, or with None and an error; at
                once if the engine is down. It posts a message or settles a future, no more.
            what: a name for it, which `at` has while the lane is in it.
        """
        try:
            self._check_open()
            self._lane.submit_then(self._id, lambda: self.do(work, what), then)
        except EngineError as down:
            then(None, down)

    async def call(self, work: Callable[[Engine], T]) -> T:
        """Queue other work on the engine, and wait for its result.

        Raises:
            EngineCrashed: the engine is not open.
            Exception: whatever the work raised.
        """
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def settle(result: T | None, error: BaseException | None) -> None:
            if done.done():
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(result)  # type: ignore[arg-type]

        self.run(work, settle)
        return await done

    def contended(self) -> bool:
        """Whether other models are computing too."""
        return self._lane.contended(self._id)

    def give_up(self) -> None:
        """The lane does not come back from a job of this engine."""
        self._lane.give_up()

    def when_back(self, then: Callable[[], object]) -> None:
        """Call `then` on the event loop once the lane comes to this engine's jobs again."""
        back = self._lane.submit_free(self._id, lambda: None)
        back.add_done_callback(lambda _: then())

    def close(self) -> asyncio.Future[None]:
        """Free everything, in order, on the lane. Never waits for loading: that gives up first."""
        with self._lock:
            self._closed = True
        return self._lane.submit_free(self._id, self._free)

    # On a worker

    def _load(self, path: str, loading: Loading) -> str:
        try:
            loading.load(lambda share: self._report(share * 0.5))
            fingerprint = loading.fingerprint(
                self._memory, lambda share: self._report(0.5 + share * 0.5)
            )
        except BaseException:
            self._lane.post_free(self._id, loading.discard)
            raise
        with self._lock:
            if not self._closed:
                self._loading = loading
                return fingerprint
        self._lane.post_free(self._id, loading.discard)
        raise ModelLoadError(f"{path}: loading was given up")

    def _report(self, share: float) -> bool:
        self._on_progress(share)
        return not self._closed

    # On the lane

    def _prepare(self, path: str, loading: Loading) -> bool:
        with self._lock:
            if self._closed:
                raise ModelLoadError(f"{path}: loading was given up")
        return loading.prepare()

    def _warm_up(self, path: str, loading: Loading) -> Engine:
        with self._lock:
            if self._closed:
                raise ModelLoadError(f"{path}: loading was given up")
        engine = loading.warm_up()
        with self._lock:
            self._engine, self._loading = engine, None
        return engine

    def do(self, work: Callable[[Engine], T], what: object) -> T:
        """Work on the engine; `at` says so meanwhile.

        Raises:
            EngineCrashed: it was freed.
            Exception: whatever the work raised.
        """
        engine = self._engine
        if engine is None:
            raise EngineCrashed(_NOT_OPEN)
        self.at = what
        try:
            return work(engine)
        finally:
            self.at = None

    def _free(self) -> None:
        with self._lock:
            loading, self._loading = self._loading, None
            engine, self._engine = self._engine, None
        if loading is not None:
            loading.discard()
        if engine is not None:
            engine.close()
        self._lane.forget(self._id)

    def _check_open(self) -> None:
        if self._engine is None or self._closed:
            raise EngineCrashed(_NOT_OPEN)


class _Steps:
    """A step, and those that follow it by themselves: one job of the lane, done again and again.

    Everything but `report` runs on the lane; what is between two steps is kept short.
    """

    def __init__(
        self, owner: EngineOwner, plan: StepPlan, follow: Follow | None, then: Then
    ) -> None:
        self._owner = owner
        self._plan = plan
        self._follow = follow
        self._then = then
        self._goes_on = False

    def step(self) -> tuple[StepOutcome, int | None]:
        """The outcome of the step that is due, and the number of the one behind it."""
        self._goes_on = False
        outcome = self._owner.do(self._compute, "step")
        following = None if self._follow is None else self._follow(outcome)
        if following is None:
            return outcome, None
        self._plan, self._goes_on = following, True
        return outcome, following.number

    def goes_on(self) -> bool:
        """Whether another step is due."""
        return self._goes_on

    def _compute(self, engine: Engine) -> StepOutcome:
        return engine.step(self._plan)

    def report(
        self, done: tuple[StepOutcome, int | None] | None, error: BaseException | None
    ) -> None:
        """Pass on what came of a step. On the event loop."""
        outcome, following = (None, None) if done is None else done
        self._then(outcome, error, following)
