"""Ways to break a running runtime, and the traffic that it is under meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from erllama import Completion, EngineCrashed, ErllamaError, Model, Runtime
from erllama.actor import Ref, kill, tree
from erllama.actor.childspec import ChildInfo
from erllama.backend.base import Backend, Engine, StepOutcome, StepPlan
from erllama.backend.llama.engine import LlamaEngine
from erllama.backend.stub import StubEngine
from tests.model.staging import until

GREEDY: dict[str, Any] = {"temperature": 0}
PATIENCE_S = 60.0

EngineKind = type[StubEngine] | type[LlamaEngine]
KINDS: tuple[EngineKind, ...] = (StubEngine, LlamaEngine)


@dataclass
class Freed:
    """What became of the engines that were made.

    Attributes:
        closed: each engine, as often as its `close` was called, in order.
        wrong: what must never happen: a call on another thread, or after the close.
        fail: the next step raises this.
    """

    closed: list[Engine] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    fail: Exception | None = None

    def check(self) -> None:
        """Each engine was freed once, on the lane, after its last step."""
        assert self.wrong == []
        assert len(self.closed) == len({id(engine) for engine in self.closed})


@pytest.fixture
def freed(monkeypatch: pytest.MonkeyPatch) -> Freed:
    """Watches the steps and the closing of all engines."""
    seen = Freed()
    for kind in KINDS:
        _watch(kind, seen, monkeypatch)
    return seen


def _watch(kind: EngineKind, seen: Freed, monkeypatch: pytest.MonkeyPatch) -> None:
    step, close = kind.step, kind.close

    def watched_step(self: Any, plan: StepPlan) -> StepOutcome:
        if threading.current_thread().name != "erllama-lane":
            seen.wrong.append("a step beside the lane")
        if any(self is engine for engine in seen.closed):
            seen.wrong.append("a step after the close")
        error, seen.fail = seen.fail, None
        if error is not None:
            raise error
        return step(self, plan)

    def watched_close(self: Any) -> None:
        if threading.current_thread().name != "erllama-lane":
            seen.wrong.append("a close beside the lane")
        seen.closed.append(self)
        close(self)

    monkeypatch.setattr(kind, "step", watched_step)
    monkeypatch.setattr(kind, "close", watched_close)


# Traffic


class Traffic:
    """Completions and streams in flight on some models."""

    def __init__(self, models: list[Model], each: int = 3) -> None:
        self._tasks = [asyncio.create_task(ask(model, n)) for n in range(each) for model in models]

    async def flowing(self, runtime: Runtime) -> None:
        """Return once something is being computed."""
        while not any(status.active for status in runtime.status().models):
            if all(task.done() for task in self._tasks):
                return
            await asyncio.sleep(0)

    async def answers(self) -> Sequence[object]:
        """What each request was answered; only results and the fitting errors are left."""
        answers = await asyncio.gather(*self._tasks, return_exceptions=True)
        for answer in answers:
            if not isinstance(answer, Completion | EngineCrashed):
                raise AssertionError(f"a request in flight got {answer!r}")
        return answers


async def ask(model: Model, n: int) -> Completion:
    if n % 2:
        return await model.complete(f"request {n}", max_tokens=40, seed=n)
    stream = model.stream(f"request {n}", max_tokens=40, seed=n)
    async for _ in stream:
        pass
    return await stream.result()


async def answer_of(model: Model) -> list[int]:
    """The greedy answer, asked again as long as the model crashes with it."""
    while True:
        try:
            return (await model.complete("the same", max_tokens=8, **GREEDY)).tokens
        except EngineCrashed:
            await asyncio.sleep(0)


# Faults


def nodes(runtime: Runtime) -> Iterator[ChildInfo]:
    """Every actor below the root."""
    root = runtime._root
    assert root is not None
    waiting = list(tree(root).children)
    while waiting:
        node = waiting.pop(0)
        yield node
        waiting += node.children


def ref_of(runtime: Runtime, node_id: str) -> Ref | None:
    return next((node.ref for node in nodes(runtime) if node.id == node_id), None)


def killer(node_id: str) -> Fault:
    """Kills the actor of this id in the tree, if it lives at the moment."""

    async def fault(runtime: Runtime, _: Freed) -> None:
        ref = ref_of(runtime, node_id)
        if ref is not None:
            kill(ref)
            await ref.wait_dead()

    fault.__name__ = f"kill_{node_id}"
    return fault


async def engine_raises(runtime: Runtime, freed: Freed) -> None:
    """The next step of some model raises what no engine should."""
    freed.fail = RuntimeError("a bug in the engine")
    await until(lambda: freed.fail is None or not any(s.active for s in runtime.status().models))
    freed.fail = None


async def lane_exits(runtime: Runtime, _: Freed) -> None:
    """A job ends the lane's loop."""
    lane = runtime._lane
    try:
        await lane.submit(lane.new_owner(), leave)
    except ErllamaError:
        return
    raise AssertionError("a job that ended the lane was answered")


def leave() -> None:
    raise SystemExit("the lane's loop ends here")


Fault = Callable[[Runtime, Freed], Awaitable[None]]
FAULTS: list[Fault] = [
    killer("a"),
    killer("b"),
    killer("models"),
    killer("lane"),
    engine_raises,
    lane_exits,
]


def backend_options(kind: EngineKind, stub: Backend) -> dict[str, Any]:
    """What makes a Runtime use this kind of engine."""
    return {"backend": lambda: stub} if kind is StubEngine else {}
