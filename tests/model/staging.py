"""A stage for the stub engine: the test sees every step, and holds the ones it wants to hold.

Steps are held on the lane's thread, so the event loop goes on meanwhile. A step that is paused
goes on when the test says so; one that hangs goes on only when it is aborted.
"""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from erllama import Completion, ContextConfig, Model, ModelConfig, Runtime
from erllama.actor import kill
from erllama.backend.base import Backend, Loading, Sampled, StepPlan
from erllama.backend.stub import StubBackend, StubEngine, StubLoading
from erllama.model.floor import Floor

PATIENCE_S = 60.0
"""Far more than any test needs: a test that waits this long hangs."""

_FOREVER_S = 3_600.0

When = Callable[[StepPlan], bool]


def never(_: StepPlan) -> bool:
    return False


def always(_: StepPlan) -> bool:
    return True


def prefilling(plan: StepPlan) -> bool:
    return plan.prefill is not None


def decoding(plan: StepPlan) -> bool:
    return bool(plan.rows)


class Stage:
    """A stub backend whose steps are written down and held.

    Args:
        shared: a journal of several stages: gets this stage's name and each plan.
        options: those of `StubBackend`.

    Attributes:
        plans: every plan in the order of the lane, at the moment its step begins.
        loads: the paths that were loaded, as often as they were.
        held: set when a step begins to hang or pauses.
    """

    def __init__(
        self,
        name: str = "stage",
        *,
        shared: list[tuple[str, StepPlan]] | None = None,
        **options: Any,
    ) -> None:
        self.name = name
        self.plans: list[StepPlan] = []
        self.loads: list[str] = []
        self.held = asyncio.Event()
        self.load_held = asyncio.Event()
        self.shared = shared
        # a step that a busy machine holds up must not make the slices after it shorter
        timed = {"row_ns": 1_000, **options}
        self.backend = StubBackend(on_step=self._on_step, on_load=self._on_load, **timed)
        self._loop = asyncio.get_running_loop()
        self._hang: When = never
        self._pause: When = never
        self._fail: Callable[[StepPlan], BaseException | None] = lambda _: None
        self._go_on = threading.Event()
        self._load_gate = threading.Event()
        self._load_gate.set()
        self.load_error: Exception | None = None

    # What the test arranges

    def hang(self, when: When) -> None:
        """Steps that do not end unless they are aborted."""
        self.held.clear()
        self._hang = when

    def pause(self, when: When) -> None:
        """Steps that wait for `resume`."""
        self.held.clear()
        self._go_on.clear()
        self._pause = when

    async def go_on_to(self, when: When) -> None:
        """Let the paused step go on, and return when one like this is paused."""
        self.held.clear()
        paused, self._go_on = self._go_on, threading.Event()
        self._pause = when
        paused.set()
        await self.held.wait()

    def fail(self, error: Callable[[StepPlan], BaseException | None]) -> None:
        """Steps that raise."""
        self._fail = error

    def pause_loading(self) -> None:
        """The next load waits for `resume`."""
        self.load_held.clear()
        self._load_gate.clear()

    def resume(self) -> None:
        """Hold nothing any more."""
        self._hang = self._pause = never
        self._go_on.set()
        self._load_gate.set()

    def slices(self) -> list[tuple[int, int]]:
        """First position and length of each prompt slice so far."""
        return [(p.prefill.pos, len(p.prefill.tokens)) for p in self.plans if p.prefill]

    @contextlib.asynccontextmanager
    async def runtime(self, **options: Any) -> AsyncIterator[Runtime]:
        """A runtime on this stage; a test that hangs in it fails."""
        async with running(self.backend, **options) as runtime:
            try:
                yield runtime
            finally:
                self.resume()

    @contextlib.asynccontextmanager
    async def model(self, **options: Any) -> AsyncIterator[Model]:
        """A loaded model on this stage, alone in a runtime."""
        async with self.runtime() as runtime:
            yield await runtime.load_model("stub.gguf", **options)

    # What the engine calls, on other threads

    def _on_step(self, plan: StepPlan) -> None:
        self.plans.append(plan)
        if self.shared is not None:
            self.shared.append((self.name, plan))
        if self._pause(plan):
            go_on = self._go_on
            self._tell(self.held)
            if not go_on.wait(PATIENCE_S):
                raise TimeoutError("a paused step was never resumed")
        error = self._fail(plan)
        if error is not None:
            raise error
        hangs = self._hang(plan)
        self.backend.row_s = _FOREVER_S if hangs else 0.0
        if hangs:
            self._tell(self.held)

    def _on_load(self, path: str) -> None:
        self.loads.append(path)
        if not self._load_gate.is_set():
            self._tell(self.load_held)
            if not self._load_gate.wait(PATIENCE_S):
                raise TimeoutError("a paused load was never resumed")
        if self.load_error is not None:
            raise self.load_error

    def _tell(self, event: asyncio.Event) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(event.set)


class Theatre:
    """A backend of several stages: a model's file name says which stage it plays on."""

    def __init__(self, *stages: Stage) -> None:
        self._stages = {stage.name: stage for stage in stages}

    def open(self, path: str, model: ModelConfig, context: ContextConfig) -> Loading:
        return self._stages[pathlib.Path(path).stem].backend.open(path, model, context)


@contextlib.asynccontextmanager
async def running(backend: Backend, **options: Any) -> AsyncIterator[Runtime]:
    """A runtime on any backend, with a limit to patience."""
    async with asyncio.timeout(PATIENCE_S), Runtime(backend=lambda: backend, **options) as runtime:
        yield runtime


class PieceBackend(StubBackend):
    """A stub that "samples" given bytes, one piece a token, and then ends by itself."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        super().__init__()
        self.pieces = pieces

    def open(self, path: str, model: ModelConfig, context: ContextConfig) -> StubLoading:
        return _PieceLoading(self, path, model, context)


class _PieceLoading(StubLoading):
    def warm_up(self) -> StubEngine:
        assert isinstance(self._backend, PieceBackend)
        return _PieceEngine(self._backend, self._model, self._context)


class _PieceEngine(StubEngine):
    def __init__(self, backend: PieceBackend, model: ModelConfig, context: ContextConfig) -> None:
        super().__init__(backend, model, context)
        self._pieces: Iterator[bytes] = iter(backend.pieces)

    def _sample(self, seq: int, seed: int) -> Sampled:
        piece = next(self._pieces, None)
        if piece is None:
            return Sampled(seq=seq, token=256, piece=b"", end=True)
        return Sampled(seq=seq, token=7, piece=piece, end=False)


async def settled(*tasks: asyncio.Task[Any]) -> list[Any]:
    """What became of each: its result, or its error."""
    return await asyncio.gather(*tasks, return_exceptions=True)


async def fresh_tokens(prompt: str | Sequence[int], **options: Any) -> list[int]:
    """What a new model in a new runtime answers."""
    async with running(StubBackend()) as runtime:
        model = await runtime.load_model("fresh.gguf")
        return (await model.complete(prompt, **options)).tokens


async def assert_as_new(model: Model) -> None:
    """The model answers like one that was just loaded, and then is idle with nothing waiting."""
    options: dict[str, Any] = {"max_tokens": 6, "temperature": 0}
    again = await model.complete("as new", **options)
    assert again.tokens == await fresh_tokens("as new", **options)
    status = model.status()
    assert (status.phase, status.active, status.pending) == ("idle", 0, 0)
    assert status.heartbeat_age_s == 0.0
    floor_of(model).check_integrity()


def floor_of(model: Model) -> Floor:
    """The requests that hold sequences of a loaded model."""
    ref: Any = model._directory._registry.whereis(f"model:{model.id}")  # type: ignore[attr-defined]
    floor: Floor = ref._control.actor._here.floor
    return floor


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until something is true that no event tells of."""
    while not condition():  # noqa: ASYNC110 (threads bring it about, and set no event)
        await asyncio.sleep(0)


async def crash(runtime: Runtime, model_id: str) -> None:
    """Kill a model's actor and wait until it is dead; it is loaded again by itself."""
    ref = await runtime.find(model_id, None)
    kill(ref)
    await ref.wait_dead()


def rows_of(plan: StepPlan) -> tuple[int, ...]:
    """The sequences that a step decodes."""
    return tuple(row.seq for row in plan.rows)


def asked(model: Model, prompt: str | Sequence[int], **options: Any) -> asyncio.Task[Completion]:
    """A greedy completion on its way."""
    return asyncio.create_task(model.complete(prompt, **{"temperature": 0, **options}))
