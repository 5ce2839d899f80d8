"""The lane decodes on by itself: what the loop, the actor and the readers see of it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from erllama import Text
from erllama.actor.testing import ManualClock, settle
from erllama.errors import EngineCrashed
from erllama.model.step import LEAD
from tests.model.staging import (
    Stage,
    asked,
    assert_as_new,
    decoding,
    floor_of,
    fresh_tokens,
    until,
)

GREEDY: dict[str, Any] = {"temperature": 0}
LONG = 400


async def test_the_lane_waits_for_a_loop_that_is_held_up() -> None:
    stage = Stage()
    async with stage.model() as model:
        task = asked(model, "held up", max_tokens=LONG)
        await until(lambda: len(stage.plans) > 10)
        chain = floor_of(model)._stepper.chain
        assert chain is not None
        time.sleep(0.3)  # noqa: ASYNC251 (this is what is tried)
        assert stage.plans[-1].number == chain.heard + LEAD
        assert (await task).tokens == await fresh_tokens("held up", max_tokens=LONG, **GREEDY)
        await assert_as_new(model)


async def test_readers_get_tokens_of_which_the_actor_does_not_know_yet(clock: ManualClock) -> None:
    stage = Stage()
    async with stage.model() as model:
        stage.pause(lambda plan: any(row.pos == 20 for row in plan.rows))
        stream = model.stream("prompt", max_tokens=40, **GREEDY)
        await stream._start()
        await stage.held.wait()
        await settle()
        stepper = floor_of(model)._stepper
        seen = 0
        while stream._events._events:
            seen += isinstance(await stream.__anext__(), Text)
        generation = floor_of(model).jobs()[0].generation
        assert generation is not None
        assert stepper.current is not None
        assert seen == len(generation.tokens) == 20 - len("prompt")
        assert stepper.current.number < stage.plans[-1].number
        status = model.status()  # asks nobody
        assert (status.phase, status.active) == ("running", 1)
        stage.resume()
        assert (await stream.result()).tokens == await fresh_tokens(
            "prompt", max_tokens=40, **GREEDY
        )


@pytest.mark.parametrize("at", [8, 15, 23, 40])
async def test_a_cancel_finds_all_tokens_that_readers_have_seen(
    clock: ManualClock, at: int
) -> None:
    stage = Stage()
    async with stage.model() as model:
        stage.pause(lambda plan: any(row.pos == at for row in plan.rows))
        stream = model.stream("prompt", max_tokens=60, **GREEDY)
        await stream._start()
        await stage.held.wait()
        await settle()
        cancelling = asyncio.create_task(stream.cancel())
        await settle()
        stage.resume()
        done = await cancelling
        unbroken = await fresh_tokens("prompt", max_tokens=60, **GREEDY)
        assert done.finish_reason == "cancelled"
        assert len(done.tokens) in (at - 6, at - 5)
        assert done.tokens == unbroken[: len(done.tokens)]
        assert "".join([event.text async for event in stream if isinstance(event, Text)]) == (
            done.text
        )
        await assert_as_new(model)


async def test_a_newcomer_is_served_after_the_step_that_is_under_way(clock: ManualClock) -> None:
    stage = Stage()
    async with stage.model(n_seq_max=2) as model:
        stage.pause(lambda plan: any(row.pos == 15 for row in plan.rows))
        first = asked(model, "prompt", max_tokens=60)
        await stage.held.wait()
        await settle()
        second = asked(model, "another", max_tokens=10)
        await settle()
        stage.pause(decoding)
        held = len(stage.plans)
        stage.resume()
        for task, prompt, n in ((first, "prompt", 60), (second, "another", 10)):
            assert (await task).tokens == await fresh_tokens(prompt, max_tokens=n, **GREEDY)
        following = [plan.prefill is not None for plan in stage.plans[held : held + 2]]
        assert any(following)
        await assert_as_new(model)


async def test_an_engine_that_fails_while_the_actor_sleeps_fails_its_requests() -> None:
    def fail(plan: Any) -> BaseException | None:
        late = any(row.pos == 20 for row in plan.rows)
        return RuntimeError("the engine fails") if late else None

    stage = Stage()
    async with stage.model() as model:
        stage.fail(fail)
        with pytest.raises(EngineCrashed, match="the engine fails"):
            await asked(model, "prompt", max_tokens=60)
        stage.fail(lambda _: None)
        await until(lambda: model.status().restarts == 1)
        again = await asked(model, "prompt", max_tokens=60)
        assert again.tokens == await fresh_tokens("prompt", max_tokens=60, **GREEDY)
