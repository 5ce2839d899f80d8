"""The watch over steps: those that take too long are ended, those that cannot be are told of."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from erllama import EngineStuck, Model
from erllama.actor.testing import ManualClock, settle
from erllama.backend.base import StepPlan
from tests.model.staging import (
    Stage,
    Theatre,
    always,
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


def prompt(n: int, length: int = 20) -> list[int]:
    return [n, *(i % 250 for i in range(1, length))]


def prefills(n: int) -> Any:
    def when(plan: StepPlan) -> bool:
        return plan.prefill is not None and plan.prefill.tokens[0] == n

    return when


async def pass_the_bound(clock: ManualClock, seconds: float = BOUND_S) -> None:
    """Time passes; what the lane does about it is waited for elsewhere."""
    await clock.advance(seconds + 0.01)


async def test_a_step_that_hangs_is_aborted_and_the_others_go_on(clock: ManualClock) -> None:
    stage = Stage()
    async with stage.model(n_seq_max=4, step_timeout_s=BOUND_S) as model:
        stage.pause(always)
        tasks = [asked(model, prompt(n), max_tokens=90) for n in range(2)]
        await stage.held.wait()
        await settle()
        await stage.go_on_to(lambda plan: len(plan.rows) == 2 and plan.rows[1].pos == 30)
        bad = asked(model, prompt(9, 100))
        await settle()
        stage.hang(prefills(9))
        stage._pause = lambda _: False
        stage._go_on.set()
        await stage.held.wait()
        await settle()
        await clock.advance(2.0)
        assert model.status().heartbeat_age_s == 2.0
        assert not bad.done()
        await pass_the_bound(clock)
        stage.hang(lambda _: False)
        with pytest.raises(EngineStuck, match="step_timeout_s"):
            await bad
        for n, task in enumerate(tasks):
            assert (await task).tokens == await fresh_tokens(prompt(n), max_tokens=90, **GREEDY)
        assert model.status().restarts == 0
        await assert_as_new(model)


async def test_all_of_a_batch_that_hangs_are_told_and_those_in_the_queue_go_on(
    clock: ManualClock,
) -> None:
    stage = Stage()
    async with stage.model(n_seq_max=2, step_timeout_s=BOUND_S) as model:
        stage.pause(always)
        bad = [asked(model, prompt(n), max_tokens=90) for n in range(2)]
        await stage.held.wait()
        await settle()
        good = [asked(model, prompt(n), max_tokens=9) for n in (5, 6)]
        await settle()
        stage.hang(lambda plan: len(plan.rows) == 2)
        stage._pause = lambda _: False
        stage._go_on.set()
        await stage.held.wait()
        await settle()
        await pass_the_bound(clock)
        stage.hang(lambda _: False)
        for task in bad:
            with pytest.raises(EngineStuck):
                await task
        for n, task in zip((5, 6), good, strict=True):
            assert (await task).tokens == await fresh_tokens(prompt(n), max_tokens=9, **GREEDY)
        assert model.status().restarts == 0
        await assert_as_new(model)


async def test_one_that_was_told_to_end_in_a_step_that_hangs_just_ends(clock: ManualClock) -> None:
    stage = Stage()
    async with stage.model(n_seq_max=2, step_timeout_s=BOUND_S) as model:
        stage.pause(always)
        stream = model.stream(prompt(0), **GREEDY)
        await stream._start()
        other = asked(model, prompt(1), max_tokens=90)
        await stage.held.wait()
        await settle()
        stage.hang(lambda plan: len(plan.rows) == 2)
        stage._pause = lambda _: False
        stage._go_on.set()
        await stage.held.wait()
        ending = asyncio.create_task(stream.cancel())
        await settle()
        await pass_the_bound(clock)
        stage.hang(lambda _: False)
        assert (await ending).finish_reason == "cancelled"
        with pytest.raises(EngineStuck):
            await other
        await assert_as_new(model)


async def test_the_log_says_where_all_threads_are_when_a_step_hangs(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage()
    async with stage.model(step_timeout_s=BOUND_S) as model:
        stage.hang(decoding)
        task = asked(model, prompt(1))
        await stage.held.wait()
        await settle()
        await clock.advance(BOUND_S * 0.9)
        assert caplog.text == ""
        await pass_the_bound(clock)
        stage.hang(lambda _: False)
        with pytest.raises(EngineStuck):
            await task
        await assert_as_new(model)
    (said,) = [record.getMessage() for record in caplog.records if "step_timeout_s" in record.msg]
    assert "stub.py" in said, "the lane, in the engine's step"
    assert "too_long" in said, "the event loop"


async def test_many_quick_steps_together_are_not_too_long(clock: ManualClock) -> None:
    stage = Stage()
    async with stage.model(n_seq_max=2, step_timeout_s=BOUND_S) as model:
        stage.pause(decoding)
        task = asked(model, prompt(1), max_tokens=8)
        await stage.held.wait()
        for _ in range(6):
            await clock.advance(BOUND_S * 0.9)
            await stage.go_on_to(decoding)
            await settle()
        stage.resume()
        assert (await task).tokens == await fresh_tokens(prompt(1), max_tokens=8, **GREEDY)
        await assert_as_new(model)


async def test_sessions_lose_their_sequences_and_not_their_answers(clock: ManualClock) -> None:
    stage = Stage()
    async with stage.model(n_seq_max=2, step_timeout_s=BOUND_S) as model:
        first = await model.complete(prompt(1, 50), session_id="s", max_tokens=4, **GREEDY)
        stage.hang(prefills(9))
        bad = asked(model, prompt(9))
        await stage.held.wait()
        await settle()
        await pass_the_bound(clock)
        stage.hang(lambda _: False)
        with pytest.raises(EngineStuck):
            await bad
        await until(lambda: model.status().phase == "idle")
        assert model.status().sessions == 0
        following = [*first.context_tokens, 7]
        done = await model.complete(following, session_id="s", max_tokens=4, **GREEDY)
        assert done.tokens == await fresh_tokens(following, max_tokens=4, **GREEDY)
        await model.end_session("s")
        await assert_as_new(model)


# Steps that obey no abort


async def stuck(stage: Stage, model: Model, clock: ManualClock) -> list[asyncio.Task[Any]]:
    """A model in a step that does not come back, with a request in it and one waiting."""
    stage.pause(prefills(9))
    tasks = [asked(model, prompt(9)), asked(model, prompt(1))]
    await stage.held.wait()
    await settle()
    await pass_the_bound(clock)
    await pass_the_bound(clock, GRACE_S)
    return tasks


async def test_a_step_that_ignores_the_abort_makes_its_model_stuck_until_it_is_back(
    clock: ManualClock,
) -> None:
    stage = Stage()
    async with stage.runtime() as runtime:
        model = await runtime.load_model("stub.gguf", n_seq_max=2, step_timeout_s=BOUND_S)
        tasks = await stuck(stage, model, clock)
        for task in tasks:
            with pytest.raises(EngineStuck, match="restart the process"):
                await task
        status = model.status()
        assert (status.phase, status.active, status.pending) == ("stuck", 0, 0)
        assert status.heartbeat_age_s >= BOUND_S + GRACE_S
        assert runtime.status().lane.stuck
        with pytest.raises(EngineStuck, match="restart the process"):
            await model.complete(prompt(2))
        stage.resume()
        await until(lambda: model.status().restarts == 1)
        assert not runtime.status().lane.stuck
        await assert_as_new(model)


async def test_whoever_waits_for_an_eviction_is_told_too(clock: ManualClock) -> None:
    stage = Stage()
    async with stage.runtime() as runtime:
        model = await runtime.load_model("stub.gguf", n_seq_max=2, step_timeout_s=BOUND_S)
        stage.pause(prefills(9))
        bad = asked(model, prompt(9))
        await stage.held.wait()
        evicting = asyncio.create_task(model.evict())
        await settle()
        await pass_the_bound(clock)
        await pass_the_bound(clock, GRACE_S)
        for task in (bad, evicting):
            with pytest.raises(EngineStuck):
                await task
        stage.resume()
        await until(lambda: model.status().restarts == 1)
        await assert_as_new(model)


async def test_other_models_on_the_lane_are_told_and_are_back_with_it(clock: ManualClock) -> None:
    bad, good = Stage("bad"), Stage("good")
    async with running(Theatre(bad, good)) as runtime:
        model = await runtime.load_model("bad.gguf", step_timeout_s=BOUND_S)
        other = await runtime.load_model("good.gguf", n_seq_max=2)
        bad.pause(prefills(9))
        waiting = asked(model, prompt(9))
        await bad.held.wait()
        queued = asked(other, prompt(1))
        await settle()
        await pass_the_bound(clock)
        await pass_the_bound(clock, GRACE_S)
        for task in (waiting, queued):
            with pytest.raises(EngineStuck):
                await task
        with pytest.raises(EngineStuck):
            await other.complete(prompt(2))
        bad.resume()
        await until(lambda: model.status().restarts == 1)
        await until(lambda: other.status().phase == "idle")
        await assert_as_new(model)
        await assert_as_new(other)
