"""Crashes that do not pass by themselves: too many of them, or a load that fails afterwards."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from erllama import EngineCrashed, ModelLoadError, ModelNotFound, Runtime, RuntimeStopped
from erllama.actor import kill
from erllama.actor.testing import settle
from erllama.backend.base import StepPlan
from tests.crash.faults import Freed, lane_exits, leave, ref_of
from tests.model.staging import (
    PATIENCE_S,
    Stage,
    Theatre,
    assert_as_new,
    crash,
    decoding,
    fresh_tokens,
    running,
    until,
)

GREEDY: dict[str, Any] = {"temperature": 0}


def always_raises(_: StepPlan) -> RuntimeError:
    return RuntimeError("a bug in the engine")


async def test_a_model_that_crashes_too_often_is_given_up_and_the_others_go_on() -> None:
    bad, good = Stage("bad"), Stage("good")
    async with running(Theatre(bad, good), restart_intensity=3) as runtime:
        model = await runtime.load_model("bad.gguf")
        other = await runtime.load_model("good.gguf")
        good.pause(decoding)
        streaming = asyncio.create_task(other.complete("hello", max_tokens=9, **GREEDY))
        await good.held.wait()
        bad.fail(always_raises)
        asking = asyncio.create_task(fail_often(model, 4))
        await settle()
        good.resume()
        await asking
        with pytest.raises(EngineCrashed, match=r"given up.*unload it and load it again"):
            await model.complete("hello")
        with pytest.raises(EngineCrashed, match="given up"):
            await model.tokenize("hello")
        status = model.status()
        assert (status.phase, status.restarts, status.active, status.pending) == ("failed", 4, 0, 0)
        assert status.heartbeat_age_s == 0.0
        assert len(bad.loads) == 4, "a model that was given up is not loaded"
        assert (await streaming).tokens == await fresh_tokens("hello", max_tokens=9, **GREEDY)
        assert other.status().restarts == 0
        await model.unload()
        bad.resume()
        bad.fail(lambda _: None)
        again = await runtime.load_model("bad.gguf")
        assert again.status().restarts == 0
        await assert_as_new(again)
        await assert_as_new(other)
    engines = bad.backend.engines + good.backend.engines
    assert all(engine.closed for engine in engines)


async def fail_often(model: Any, times: int) -> None:
    for _ in range(times):
        with pytest.raises(EngineCrashed, match="a bug in the engine"):
            await model.complete("hello")


async def test_the_message_of_a_crash_says_what_went_wrong() -> None:
    stage = Stage()
    async with stage.model() as model:
        stage.fail(always_raises)
        with pytest.raises(EngineCrashed, match=r"a bug in the engine.*loaded again"):
            await model.complete("hello")


async def test_requests_of_a_crashed_model_are_answered_before_it_is_back() -> None:
    stage = Stage()
    async with stage.runtime() as runtime:
        model = await runtime.load_model("a.gguf")
        stage.pause_loading()
        stage.hang(decoding)
        waiting = [asyncio.create_task(model.complete("hello")) for _ in range(5)]
        await stage.held.wait()
        await crash(runtime, "a")
        for task in waiting:
            with pytest.raises(EngineCrashed):
                await task
        await stage.load_held.wait()
        status = model.status()
        assert (status.phase, status.active, status.pending) == ("loading", 0, 0)
        assert status.heartbeat_age_s == 0.0
        assert status.load_progress < 1.0
        early = asyncio.create_task(model.complete("early", max_tokens=1))
        stage.resume()
        await early
        await assert_as_new(model)


async def test_a_load_that_fails_after_a_crash_is_tried_again() -> None:
    stage = Stage()
    failures = iter([ModelLoadError("not yet"), ModelLoadError("not yet")])
    async with stage.runtime() as runtime:
        model = await runtime.load_model("a.gguf")
        original = stage.backend.on_load
        assert original is not None

        def on_load(path: str) -> None:
            original(path)
            error = next(failures, None)
            if error is not None:
                raise error

        stage.backend.on_load = on_load
        await crash(runtime, "a")
        while True:
            try:
                await assert_as_new(model)
                break
            except EngineCrashed:
                await asyncio.sleep(0)
        assert model.status().restarts == 3
        assert len(stage.loads) == 4


async def test_a_model_that_cannot_be_loaded_any_more_is_given_up() -> None:
    stage = Stage()
    async with stage.runtime(restart_intensity=2) as runtime:
        model = await runtime.load_model("a.gguf")
        stage.load_error = ModelLoadError("the file is gone")
        await crash(runtime, "a")
        await until(lambda: model.status().phase == "failed")
        with pytest.raises(EngineCrashed, match="given up"):
            await model.complete("hello")
        stage.load_error = None
        await model.unload()
        await assert_as_new(await runtime.load_model("a.gguf"))


async def test_a_model_that_is_killed_while_it_first_loads_fails_its_load_only() -> None:
    stage = Stage()
    async with stage.runtime() as runtime:
        stage.pause_loading()
        loading = asyncio.create_task(runtime.load_model("a.gguf"))
        await stage.load_held.wait()
        await crash(runtime, "a")
        with pytest.raises(EngineCrashed, match="went down while loading"):
            await loading
        stage.resume()
        assert runtime.list_models() == []
        await assert_as_new(await runtime.load_model("a.gguf"))


async def test_a_request_that_finds_the_lane_down_is_told_so_and_not_computed_later() -> None:
    stage = Stage()
    async with stage.runtime() as runtime:
        model = await runtime.load_model("a.gguf")
        lane = runtime._lane
        lane.submit_then(lane.new_owner(), leave, lambda *_: None)
        while lane.status().alive:
            time.sleep(0.001)  # noqa: ASYNC251 (no turn of the loop: nobody may know it yet)
        asking = [asyncio.create_task(model.complete(f"zombie {n}")) for n in range(3)]
        for task in asking:
            with pytest.raises(EngineCrashed):
                await task
        await until_back(runtime)
        await assert_as_new(model)
        assert not any(b"zombie" in bytes_of(plan) for plan in stage.plans)


def bytes_of(plan: StepPlan) -> bytes:
    return bytes(t for t in plan.prefill.tokens if t < 256) if plan.prefill else b""


async def until_back(runtime: Runtime) -> None:
    await until(lambda: runtime.status().lane.alive and runtime.status().models[0].phase == "idle")


@pytest.mark.parametrize("turns", [0, 1, 2, 4, 8])
async def test_a_runtime_that_is_stopped_right_after_its_lane_went_down_frees_everything(
    turns: int,
) -> None:
    stage = Stage()
    async with asyncio.timeout(PATIENCE_S):
        runtime = Runtime(backend=lambda: stage.backend)
        await runtime.start()
        model = await runtime.load_model("a.gguf", n_seq_max=3)
        asking = [asyncio.create_task(model.complete(f"hello {n}")) for n in range(5)]
        await asyncio.sleep(0)
        lane = runtime._lane
        lane.submit_then(lane.new_owner(), leave, lambda *_: None)
        while lane.status().alive:
            time.sleep(0.001)  # noqa: ASYNC251 (no turn of the loop: nobody may know it yet)
        for _ in range(turns):
            await asyncio.sleep(0)
        await runtime.stop()
        for task in asking:
            with pytest.raises((EngineCrashed, ModelNotFound)):
                await task
    assert all(engine.closed for engine in stage.backend.engines)


async def test_a_lane_that_goes_down_too_often_takes_its_runtime_down() -> None:
    stage = Stage()
    async with asyncio.timeout(PATIENCE_S):
        runtime = Runtime(backend=lambda: stage.backend, restart_intensity=1, shutdown_s=0.1)
        await runtime.start()
        model = await runtime.load_model("a.gguf")
        root = runtime._root
        assert root is not None
        while root.alive:
            ref = ref_of(runtime, "lane")
            if ref is not None and runtime._lane.status().alive:
                await lane_exits(runtime, Freed())
                await ref.wait_dead()
            await asyncio.sleep(0)
        await root.wait_dead()
        with pytest.raises(RuntimeStopped, match=r"went down.*start it again"):
            await model.complete("hello")
        await runtime.start()
        await assert_as_new(await runtime.load_model("a.gguf"))
        await runtime.stop()
    assert all(engine.closed for engine in stage.backend.engines)


async def test_two_runtimes_survive_the_end_of_the_lane_they_share() -> None:
    a, b = Stage("a"), Stage("b")
    async with running(a.backend) as first, running(b.backend) as second:
        models = [await first.load_model("m.gguf"), await second.load_model("m.gguf")]
        await lane_exits(first, Freed())
        for runtime, model in zip((first, second), models, strict=True):
            await until_back(runtime)
            while True:
                try:
                    await assert_as_new(model)
                    break
                except EngineCrashed:
                    await asyncio.sleep(0)
        assert first.status().lane.generation == second.status().lane.generation
        assert [r.status().tree.children[0].restarts for r in (first, second)] == [1, 1]


async def test_stopping_right_after_a_crash_ends_everything() -> None:
    stage = Stage()
    async with asyncio.timeout(PATIENCE_S):
        for turns in range(12):
            runtime = Runtime(backend=lambda: stage.backend)
            await runtime.start()
            model = await runtime.load_model("a.gguf")
            task = asyncio.create_task(model.complete("hello"))
            await settle()
            kill(await runtime.find("a", None))
            for _ in range(turns):
                await asyncio.sleep(0)
            await runtime.stop()
            answer = (await asyncio.gather(task, return_exceptions=True))[0]
            assert isinstance(answer, EngineCrashed)
    assert all(engine.closed for engine in stage.backend.engines)
