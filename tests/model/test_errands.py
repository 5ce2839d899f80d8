"""The watch over what the lane does between steps: saves, restores, contexts made anew."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import pytest

from erllama import EngineStuck, Model, ModelNotFound
from erllama.actor.testing import ManualClock, settle
from tests.model.staging import (
    PATIENCE_S,
    Stage,
    Theatre,
    asked,
    assert_as_new,
    decoding,
    fresh_tokens,
    running,
    until,
)

GREEDY: dict[str, Any] = {"temperature": 0}
BOUND_S = 5.0
GRACE_S = 10.0
ENOUGH_S = BOUND_S * 1.5
"""Time in which one that hangs is noticed."""

CALLS = ["save", "restore", "rebuild"]
OPTIONS: dict[str, Any] = {"n_seq_max": 2, "step_timeout_s": BOUND_S, "restore_margin": 1_000.0}


def prompt(n: int, length: int = 300) -> list[int]:
    return [n, *(i % 200 for i in range(1, length))]


class Gate:
    """Holds a call of the engine on the lane until it is opened; of saves, those of sequence 1."""

    def __init__(self) -> None:
        self.held = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._open = threading.Event()

    def __call__(self, seq: int = 1) -> None:
        if seq != 1:
            return
        self._loop.call_soon_threadsafe(self.held.set)
        if not self._open.wait(PATIENCE_S):
            raise TimeoutError("a held call was never let go")

    def open(self) -> None:
        self._open.set()

    async def __aenter__(self) -> Gate:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.open()


async def held_in(call: str, stage: Stage, model: Model, gate: Gate) -> list[asyncio.Task[Any]]:
    """A model whose lane is held in a call of the engine, and the requests that want it back."""
    await asked(model, prompt(1), max_tokens=2)
    await model.evict()
    stage.pause(decoding)
    tasks = [asked(model, prompt(2), max_tokens=12)]
    await stage.held.wait()
    await settle()
    setattr(stage.backend, f"on_{call}", gate)
    if call == "save":
        tasks.append(asked(model, prompt(4), max_tokens=12))
    elif call == "restore":
        tasks.append(asked(model, prompt(1), max_tokens=12))
    else:
        errors = [RuntimeError("a bug in the engine")]
        stage.fail(lambda plan: errors.pop() if errors and plan.prefill else None)
        lost = asked(model, prompt(3))
        lost.add_done_callback(lambda done: done.exception())
    await settle()
    stage.resume()
    await gate.held.wait()
    await settle()
    return tasks


async def assert_answered(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        done = await task
        asked_for = done.context_tokens[: done.usage.prompt_tokens]
        assert done.tokens == await fresh_tokens(asked_for, max_tokens=12, **GREEDY)


@pytest.mark.parametrize("call", CALLS)
async def test_one_that_hangs_makes_its_model_stuck_until_it_is_back(
    clock: ManualClock, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    stage = Stage()
    async with stage.runtime() as runtime, Gate() as gate:
        model = await runtime.load_model("stub.gguf", **OPTIONS)
        tasks = await held_in(call, stage, model, gate)
        await clock.advance(ENOUGH_S)
        assert not any(task.done() for task in tasks)
        assert model.status().heartbeat_age_s >= BOUND_S
        assert "cannot be aborted" in caplog.text
        assert "test_errands.py" in caplog.text, "the stacks say where it hangs"
        await clock.advance(GRACE_S)
        for task in tasks:
            with pytest.raises(EngineStuck, match="restart the process"):
                await task
        assert (model.status().phase, runtime.status().lane.stuck) == ("stuck", True)
        with pytest.raises(EngineStuck, match="restart the process"):
            await model.complete(prompt(5))
        assert model.status().restarts == 0, "nothing begins while a thread is in the engine"
        gate.open()
        await until(lambda: model.status().restarts == 1)
        assert not runtime.status().lane.stuck
        setattr(stage.backend, f"on_{call}", None)
        await assert_as_new(model)


async def test_nobody_waits_for_a_save_that_hangs_once_its_model_is_stuck(
    clock: ManualClock,
) -> None:
    stage = Stage()
    async with stage.runtime() as runtime, Gate() as gate:
        model = await runtime.load_model("stub.gguf", **OPTIONS)
        tasks = await held_in("save", stage, model, gate)
        flushing = asyncio.create_task(runtime.cache.flush())
        await clock.advance(ENOUGH_S)
        assert not flushing.done()
        await clock.advance(GRACE_S)
        assert model.status().phase == "stuck"
        await flushing
        for task in tasks:
            with pytest.raises(EngineStuck):
                await task
        gate.open()
        await until(lambda: model.status().restarts == 1)
        assert len(runtime.view.pending) == 0


@pytest.mark.parametrize("call", CALLS)
async def test_one_that_is_late_but_comes_back_costs_nobody_anything(
    clock: ManualClock, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    stage = Stage()
    async with stage.model(**OPTIONS) as model, Gate() as gate:
        tasks = await held_in(call, stage, model, gate)
        with caplog.at_level(logging.ERROR, "erllama.model"):
            await clock.advance(ENOUGH_S)
        assert caplog.text.count("cannot be aborted") == 1
        gate.open()
        await assert_answered(tasks)
        await clock.advance(GRACE_S)
        assert (model.status().phase, model.status().restarts) == ("idle", 0)
        await assert_as_new(model)


async def test_one_that_is_not_late_is_not_spoken_of(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage()
    async with stage.model(**OPTIONS) as model, Gate() as gate:
        tasks = await held_in("save", stage, model, gate)
        await clock.advance(BOUND_S * 0.9)
        gate.open()
        await assert_answered(tasks)
        await clock.advance(GRACE_S + BOUND_S)
        assert "cannot be aborted" not in caplog.text
        assert model.status().heartbeat_age_s == 0.0
        await assert_as_new(model)


async def test_a_model_that_is_unloaded_while_a_save_hangs_answers_everybody(
    clock: ManualClock,
) -> None:
    stage = Stage()
    async with stage.runtime() as runtime, Gate() as gate:
        model = await runtime.load_model("stub.gguf", **OPTIONS)
        tasks = await held_in("save", stage, model, gate)
        unloading = asyncio.create_task(model.unload())
        await clock.advance(GRACE_S)
        for task in tasks:
            with pytest.raises(ModelNotFound):
                await task
        await unloading
        (engine,) = stage.backend.engines
        assert not engine.closed, "a thread is inside"
        gate.open()
        await until(lambda: engine.closed)


async def test_whoever_waits_for_a_restore_behind_another_model_s_hang_is_told(
    clock: ManualClock,
) -> None:
    bad, good = Stage("bad"), Stage("good")
    async with running(Theatre(bad, good)) as runtime, Gate() as gate:
        model = await runtime.load_model("bad.gguf", **OPTIONS)
        other = await runtime.load_model("good.gguf", **OPTIONS)
        await asked(other, prompt(1), max_tokens=2)
        await other.evict()
        tasks = await held_in("save", bad, model, gate)
        waits = asked(other, prompt(1))
        await until(lambda: runtime.status().lane.queued > 1)
        await clock.advance(ENOUGH_S)
        await clock.advance(GRACE_S)
        for task in (*tasks, waits):
            with pytest.raises(EngineStuck, match="restart the process"):
                await task
        assert [model.status().phase, other.status().phase] == ["stuck", "stuck"]
        gate.open()
        await until(lambda: model.status().restarts == 1)
        await until(lambda: other.status().restarts == 1)
        await assert_as_new(other)


async def test_a_call_of_embed_behind_a_save_that_takes_long_is_not_taken_for_stuck(
    clock: ManualClock,
) -> None:
    stage = Stage()
    async with stage.runtime() as runtime, Gate() as gate:
        model = await runtime.load_model("stub.gguf", embeddings=True, **OPTIONS)
        stage.pause(decoding)
        request = asked(model, prompt(1), max_tokens=2)
        await stage.held.wait()
        stage.backend.on_save = lambda _: gate()  # behind the only step that decodes
        stage.resume()
        await gate.held.wait()
        embedding = asyncio.create_task(model.embed([7, 8, 9]))
        await settle()
        await clock.advance(ENOUGH_S)
        gate.open()
        assert await embedding == await model.embed([7, 8, 9])
        assert len((await request).tokens) == 2
        await assert_as_new(model)
    assert len(stage.loads) == 1
