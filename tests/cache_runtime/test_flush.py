"""What was computed before a call is in the cache, or in files, when the call returns."""

from __future__ import annotations

import asyncio
import pathlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from erllama import Model, Runtime
from erllama.actor import kill
from erllama.actor.testing import settle
from erllama.backend.stub import StubEngine
from erllama.cache.publish import Stage
from erllama.errors import CacheError
from tests.cache_runtime.rig import (
    PATIENCE_S,
    Rig,
    answer,
    kept,
    names,
    new_row,
    prompt,
    rig,
    row_files,
    stub_runtime,
)

PROMPT, OTHER = prompt(1), prompt(2)
ROWS = [new_row([i] * 100) for i in range(1, 4)]
ON_DISK: dict[str, Any] = {"ram_bytes": 0, "restart_intensity": 1_000}
FINISH_ONLY: dict[str, Any] = {"cold_min_tokens": 10_000, "continued_interval": None}


class Held:
    """Calls on threads that wait to be let go, one after the other, in the order they came."""

    def __init__(self) -> None:
        self.calls = 0
        self._loop = asyncio.get_running_loop()
        self._reached: list[asyncio.Event] = []
        self._go_on: list[threading.Event] = []
        for _ in range(8):
            self._reached.append(asyncio.Event())
            self._go_on.append(threading.Event())

    def wait(self) -> None:
        """On a thread."""
        number, self.calls = self.calls, self.calls + 1
        self._loop.call_soon_threadsafe(self._reached[number].set)
        if not self._go_on[number].wait(PATIENCE_S):
            raise TimeoutError("a held call was never let go")

    async def reached(self, number: int) -> None:
        await self._reached[number].wait()

    def let_go(self, number: int | None = None) -> None:
        for i, go_on in enumerate(self._go_on):
            if number in (i, None):
                go_on.set()


@pytest.fixture
def saves(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Held]]:
    """Holds what takes rows out of sequences, on the compute thread."""
    made = []

    def hold() -> Held:
        held, save = Held(), StubEngine.save
        made.append(held)

        def slow(self: StubEngine, *args: Any, **options: Any) -> Any:
            held.wait()
            return save(self, *args, **options)

        monkeypatch.setattr(StubEngine, "save", slow)
        return held

    yield hold
    for held in made:  # the thread is the whole process's
        held.let_go()


def on_disk(folder: pathlib.Path) -> int:
    return len(row_files(folder / "kv"))


async def flushing(runtime: Runtime) -> asyncio.Task[None]:
    """A call of `flush` that has begun, and that has something to wait for."""
    task = asyncio.create_task(runtime.cache.flush())
    await settle()
    assert not task.done()
    return task


KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "finish": (FINISH_ONLY, {"max_tokens": 20}),
    "cold": ({}, {"max_tokens": 1}),
    "continued": (
        {"cold_min_tokens": 10_000, "continued_interval": 64},
        {"max_tokens": 300},
    ),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_flush_waits_for_the_saves_that_the_compute_thread_is_at(
    tmp_path: pathlib.Path, saves: Callable[[], Held], kind: str
) -> None:
    policy, options = KINDS[kind]
    async with stub_runtime(tmp_path, **ON_DISK) as runtime:
        model = await runtime.load_model("stub.gguf", **policy)
        held = saves()
        asking = asyncio.create_task(answer(model, PROMPT, **options))
        await held.reached(0)
        if kind == "finish":  # else it wants the lane that is held
            await asking
        task = await flushing(runtime)
        assert on_disk(tmp_path) == 0
        held.let_go()
        await task
        assert on_disk(tmp_path) > 0
        assert getattr(runtime.cache.counters(), f"saves_{kind}") > 0
        await asking


async def test_flush_right_behind_a_request_leaves_nothing_to_write(
    tmp_path: pathlib.Path,
) -> None:
    async with stub_runtime(tmp_path, **ON_DISK) as runtime:
        models = [await runtime.load_model("stub.gguf", model_id=name) for name in "ab"]
        for seed in range(1, 6):
            await asyncio.gather(*(answer(model, prompt(seed)) for model in models))
            await runtime.cache.flush()
            there, counted = on_disk(tmp_path), runtime.cache.counters().rows
            for model in models:
                await kept(runtime, model)
            assert on_disk(tmp_path) == there == counted > 0


async def test_flush_does_not_wait_for_what_is_saved_later(
    tmp_path: pathlib.Path, saves: Callable[[], Held]
) -> None:
    async with stub_runtime(tmp_path, **ON_DISK) as runtime:
        model = await runtime.load_model("stub.gguf", **FINISH_ONLY)
        held = saves()
        await answer(model, PROMPT)
        task = await flushing(runtime)
        later = asyncio.create_task(answer(model, OTHER))
        await settle()
        held.let_go(0)
        await held.reached(1)
        await task
        there = on_disk(tmp_path)
        assert there > 0
        await later
        last = await flushing(runtime)
        held.let_go()
        await last
        assert on_disk(tmp_path) > there


@pytest.mark.parametrize("end", ["crash", "unload", "stop"])
async def test_flush_waits_for_no_model_that_has_ended(
    tmp_path: pathlib.Path, saves: Callable[[], Held], end: str
) -> None:
    async with stub_runtime(tmp_path, **ON_DISK) as runtime:
        model = await runtime.load_model("stub.gguf", **FINISH_ONLY)
        held = saves()
        await answer(model, PROMPT)
        await held.reached(0)
        task = await flushing(runtime)
        ref = await runtime.find(model.id, None)
        if end == "crash":
            kill(ref)
        ending = {"crash": ref.wait_dead, "unload": model.unload, "stop": runtime.stop}[end]
        over = asyncio.create_task(ending())
        await settle()
        assert not task.done()
        held.let_go()
        await over
        await task
        if end != "crash":
            assert on_disk(tmp_path) > 0, "what was taken out is kept on an orderly end"
        assert len(runtime.view.pending) == 0


async def test_flush_waits_for_what_a_model_saves_while_it_is_unloaded(
    tmp_path: pathlib.Path, saves: Callable[[], Held]
) -> None:
    async with stub_runtime(tmp_path, **ON_DISK) as runtime:
        model = await runtime.load_model("stub.gguf", n_seq_max=2, **FINISH_ONLY)
        stream = model.stream(PROMPT, max_tokens=300, temperature=0)
        await anext(aiter(stream))
        held = saves()
        unloading = asyncio.create_task(model.unload())
        await held.reached(0)
        task = await flushing(runtime)
        held.let_go()
        await task
        assert on_disk(tmp_path) > 0
        await unloading
        await stream.aclose()


async def test_a_flush_that_is_given_up_disturbs_no_save(
    tmp_path: pathlib.Path, saves: Callable[[], Held]
) -> None:
    async with stub_runtime(tmp_path, **ON_DISK) as runtime:
        model = await runtime.load_model("stub.gguf", **FINISH_ONLY)
        held = saves()
        await answer(model, PROMPT)
        tasks = [await flushing(runtime), await flushing(runtime)]
        tasks[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]
        assert not tasks[1].done()
        held.let_go()
        await tasks[1]
        assert on_disk(tmp_path) > 0


# Others that say what is in the cache


@pytest.mark.parametrize("policy", [{}, FINISH_ONLY], ids=["cold", "finish"])
async def test_a_prompt_was_kept_when_prefill_returns(
    saves: Callable[[], Held], policy: dict[str, Any]
) -> None:
    async with stub_runtime() as runtime:
        model = await runtime.load_model("stub.gguf", **policy)
        held = saves()
        filling = asyncio.create_task(model.prefill(PROMPT))
        await held.reached(0)
        await settle()
        assert not filling.done()
        held.let_go()
        await filling
        rows = list(runtime.cache.rows())
        assert max(row.start + row.tokens for row in rows) == len(PROMPT)
        assert len(runtime.view.pending) == 0


async def test_a_prefill_that_is_cancelled_while_it_is_saved_ends_at_once(
    saves: Callable[[], Held],
) -> None:
    async with stub_runtime() as runtime:
        model = await runtime.load_model("stub.gguf", **FINISH_ONLY)
        held = saves()
        filling = asyncio.create_task(model.prefill(PROMPT))
        await held.reached(0)
        await settle()
        filling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await filling
        held.let_go()
        await kept(runtime, model)
        assert runtime.cache.counters().rows > 0
        assert (await answer(model, PROMPT)).cache.hit != "cold"


async def test_cached_prefix_counts_what_was_just_computed(saves: Callable[[], Held]) -> None:
    async with stub_runtime() as runtime:
        model = await runtime.load_model("stub.gguf", **FINISH_ONLY)
        held = saves()
        done = await answer(model, PROMPT, max_tokens=20)
        await held.reached(0)
        assert await model.cached_prefix(OTHER) == 0, "others have nothing to wait for"
        context = [*done.context_tokens, 97]
        asking = asyncio.create_task(model.cached_prefix(context))
        await settle()
        assert not asking.done()
        held.let_go()
        found = await asking
        await kept(runtime, model)
        assert found == await model.cached_prefix(context) == len(PROMPT) // 64 * 64 > 0


async def warm(model: Model) -> None:
    await answer(model, PROMPT)
    await answer(model, OTHER)


async def test_files_are_gone_when_evict_bytes_returns(tmp_path: pathlib.Path) -> None:
    async with stub_runtime(tmp_path) as runtime:
        model = await runtime.load_model("stub.gguf")
        await warm(model)
        await runtime.cache.flush()
        assert on_disk(tmp_path) > 0
        assert len(runtime.view.ram) > 0
        await runtime.cache.evict_bytes(1 << 40)
        assert (on_disk(tmp_path), len(runtime.view.ram)) == (0, 0)


# The writers


class Stages:
    """Holds the threads that have written a row and not yet published it."""

    def __init__(self) -> None:
        self.held = Held()

    def __call__(self, stage: Stage) -> None:
        if stage == "written":
            self.held.wait()


async def test_rows_that_come_later_hold_no_flush_up(tmp_path: pathlib.Path) -> None:
    stages = Stages()
    async with rig(tmp_path, at=stages) as made:
        await made.offer(ROWS[0])
        await stages.held.reached(0)
        task = asyncio.create_task(made.cache.flush())
        await settle()
        await made.offer(*ROWS[1:])
        await stages.held.reached(1)
        assert not task.done()
        stages.held.let_go(0)
        await task
        assert {path.name for path in row_files(tmp_path)} == names(ROWS[:1])
        stages.held.let_go()
        await made.cache.flush()
        assert {path.name for path in row_files(tmp_path)} == names(ROWS)


async def test_flush_says_so_when_the_writers_go_down(tmp_path: pathlib.Path) -> None:
    stages = Stages()
    async with rig(tmp_path, at=stages) as made:
        await made.offer(*ROWS)
        await stages.held.reached(0)
        task = asyncio.create_task(made.cache.flush())
        await settle()
        crashing = asyncio.create_task(made.crash("cache:writers"))
        await settle()
        stages.held.let_go()
        await crashing
        with pytest.raises(CacheError, match="went down"):
            await task
        await rows_can_be_written(made)


async def rows_can_be_written(made: Rig) -> None:
    await made.keep(*ROWS)
    assert {path.name for path in row_files(made.root)} == names(ROWS)
