"""Whatever ends a model while requests run, wait, rest and lie moved off: all of them are told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from erllama import EngineCrashed, Model, ModelNotFound, Runtime
from erllama.actor import kill
from erllama.actor.testing import ManualClock, settle
from tests.model.conftest import clock
from tests.model.staging import (
    PATIENCE_S,
    Stage,
    asked,
    assert_as_new,
    decoding,
    floor_of,
    until,
)

__all__ = ["clock"]  # a fixture

GREEDY: dict[str, Any] = {"temperature": 0}


def prompt(n: int) -> list[int]:
    return [n, *range(1, 20)]


async def unread(stage: Stage, model: Model, n: int) -> asyncio.Task[Any]:
    """A stream whose reader takes no event, and which is paused by now; its result."""
    stage.pause(decoding)
    stream = model.stream(prompt(n), max_tokens=500, stream_buffer=2, **GREEDY)
    await stream._start()
    await stage.held.wait()
    while not any(job.paused for job in floor_of(model).jobs()):
        await stage.go_on_to(decoding)
        await settle()
    stage.resume()
    await until(lambda: floor_of(model)._stepper.current is None)
    return asyncio.create_task(stream.result())


async def crowd(stage: Stage, model: Model, clock: ManualClock) -> list[asyncio.Task[Any]]:
    """Requests in every state that there is, while the lane is held in a step of three of them."""
    await model.complete(prompt(1), max_tokens=2, session_id="idle", **GREEDY)
    parked = await unread(stage, model, 2)
    await clock.advance(11.0)
    await until(lambda: model.status().active == 0)
    paused = await unread(stage, model, 3)
    stage.pause(lambda plan: len(plan.rows) == 2 and plan.rows[-1].pos > 35)
    low = [asked(model, prompt(n), max_tokens=900, priority="low") for n in (4, 5)]
    await stage.held.wait()
    high = [asked(model, prompt(n), max_tokens=900, priority="high") for n in (6, 7, 8)]
    await settle()
    await stage.go_on_to(lambda plan: len(plan.rows) == 3)
    waiting = [asked(model, prompt(n), max_tokens=900) for n in (9, 10)]
    await settle()
    floor = floor_of(model)
    begun = [job.spilled is not None for job in floor._waiting]
    assert (len(floor), floor.parked, sorted(begun)) == (3, 2, [False, False, True, True])
    return [parked, paused, *low, *high, *waiting]


async def lane_dies_in_a_step(stage: Stage, runtime: Runtime, model: Model) -> None:
    errors: list[BaseException] = [SystemExit("the lane's loop ends here")]
    stage.fail(lambda _: errors.pop() if errors else None)
    stage.resume()


async def lane_dies_in_a_save(stage: Stage, runtime: Runtime, model: Model) -> None:
    def die(_: int) -> None:
        stage.backend.on_save = None
        raise SystemExit("the lane's loop ends here")

    stage.backend.on_save = die
    stage.resume()


async def model_dies(stage: Stage, runtime: Runtime, model: Model) -> None:
    kill(await runtime.find("m", None))
    stage.resume()


async def is_unloaded(stage: Stage, runtime: Runtime, model: Model) -> None:
    unloading = asyncio.create_task(model.unload())
    await settle()
    stage.resume()
    await unloading


Fault = Callable[[Stage, Runtime, Model], Awaitable[None]]


@pytest.mark.parametrize(
    "fault", [lane_dies_in_a_step, lane_dies_in_a_save, model_dies], ids=lambda one: one.__name__
)
async def test_all_of_a_crowd_are_told_of_a_crash_and_the_model_is_back(
    clock: ManualClock, fault: Fault
) -> None:
    stage = Stage()
    async with stage.runtime() as runtime:
        model = await runtime.load_model("m.gguf", n_seq_max=3, reader_stall_s=10.0)
        tasks = await crowd(stage, model, clock)
        await fault(stage, runtime, model)
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        # the first save is that of the three of the high class, which end together
        by_itself = 3 * (fault is lane_dies_in_a_save)
        assert [type(one) for one in answers].count(EngineCrashed) == len(tasks) - by_itself
        await until(lambda: model.status().restarts == 1 and model.status().phase == "idle")
        await model.end_session("idle")
        await assert_as_new(model)
    assert [engine.closed for engine in stage.backend.engines] == [True, True]


async def test_all_of_a_crowd_are_told_of_an_unload(clock: ManualClock) -> None:
    stage = Stage()
    async with stage.runtime() as runtime:
        model = await runtime.load_model("m.gguf", n_seq_max=3, reader_stall_s=10.0)
        tasks = await crowd(stage, model, clock)
        evicting = asyncio.create_task(model.evict())
        await settle()
        await is_unloaded(stage, runtime, model)
        for task in (*tasks, evicting):
            with pytest.raises(ModelNotFound):
                await task
        assert runtime.list_models() == []
        await assert_as_new(await runtime.load_model("m.gguf", n_seq_max=3))


async def test_all_of_a_crowd_are_told_of_the_end_of_the_runtime(clock: ManualClock) -> None:
    stage = Stage()
    async with asyncio.timeout(PATIENCE_S):
        runtime = Runtime(backend=lambda: stage.backend)
        await runtime.start()
        model = await runtime.load_model("m.gguf", n_seq_max=3, reader_stall_s=10.0)
        tasks = await crowd(stage, model, clock)
        stopping = asyncio.create_task(runtime.stop())
        await settle()
        stage.resume()
        await stopping
        for task in tasks:
            with pytest.raises(ModelNotFound):
                await task
    assert all(engine.closed for engine in stage.backend.engines)
