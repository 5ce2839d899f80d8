"""`evict`: what it waits for, and what cannot hold it up."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from erllama import Model, Stream
from erllama.actor.testing import ManualClock, settle
from erllama.model.evictions import Evictions
from tests.model.staging import (
    Stage,
    always,
    asked,
    assert_as_new,
    decoding,
    floor_of,
    fresh_tokens,
    until,
)

GREEDY: dict[str, Any] = {"temperature": 0}
ONE, TWO = "one", "two"
SLOW = "slow " * 60


# What is decided


def opened(*running: str) -> Evictions:
    evictions = Evictions()
    add(evictions, "reply", *running)
    return evictions


def add(evictions: Evictions, reply: Any, *running: Any) -> None:
    evictions.add(reply, running)


def done(evictions: Evictions, running: list[Any], saving: list[int]) -> list[Any]:
    return evictions.done(running, saving)


def test_a_call_waits_for_what_ran_when_it_came_and_not_for_what_came_later() -> None:
    evictions = opened(ONE)
    assert done(evictions, [ONE], []) == []
    assert done(evictions, [ONE, TWO], []) == []
    assert done(evictions, [TWO], []) == ["reply"]
    assert not evictions


def test_a_call_waits_for_the_saves_of_the_last_one_and_not_for_later_ones() -> None:
    evictions = opened(ONE)
    assert done(evictions, [ONE], [1]) == []
    assert done(evictions, [], [2, 3]) == []
    assert done(evictions, [], [3, 4]) == []
    assert done(evictions, [], [4, 5]) == ["reply"]


def test_with_nothing_to_wait_for_a_call_is_answered_at_once() -> None:
    assert done(opened(), [], []) == ["reply"]


def test_calls_are_answered_one_by_one() -> None:
    evictions = opened(ONE)
    add(evictions, "later", TWO)
    assert done(evictions, [TWO], []) == ["reply"]
    assert done(evictions, [], []) == ["later"]


# What becomes of readers and of others


async def unread(stage: Stage, model: Model) -> Stream:
    """A stream whose reader does not read, and for which nothing is computed any more."""
    stage.pause(decoding)
    stream = model.stream(SLOW, max_tokens=60, stream_buffer=8, **GREEDY)
    await stream._start()
    await stage.held.wait()
    while not any(job.paused for job in floor_of(model).jobs()):
        await stage.go_on_to(decoding)
        await settle()
    stage.resume()
    await until(lambda: floor_of(model)._stepper.current is None)
    return stream


async def assert_all_read(stream: Stream) -> None:
    text = "".join([text async for text in stream.text()])
    assert text == bytes(await fresh_tokens(SLOW, max_tokens=60, **GREEDY)).decode()


async def test_a_reader_that_does_not_read_holds_up_nobody_who_evicts() -> None:
    stage = Stage()
    async with stage.runtime() as runtime:
        model = await runtime.load_model("stub.gguf", n_seq_max=2)
        stream = await unread(stage, model)
        await model.evict()
        assert (model.status().active, model.status().pending) == (0, 1)
        assert runtime.cache.counters().saves_evict > 0, "what it has is in the cache"
        await model.evict()
        await assert_all_read(stream)
        await assert_as_new(model)


async def test_a_reader_that_sleeps_for_long_holds_up_nobody_either(clock: ManualClock) -> None:
    stage = Stage()
    async with stage.model(n_seq_max=2, reader_stall_s=10.0) as model:
        stream = await unread(stage, model)
        await clock.advance(11.0)
        await until(lambda: model.status().active == 0)
        await model.evict()
        await assert_all_read(stream)
        await assert_as_new(model)


async def test_a_reader_whose_state_cannot_be_saved_holds_up_nobody() -> None:
    def no_save(_: int) -> None:
        raise RuntimeError("a bug in the engine")

    stage = Stage(on_save=no_save)
    async with stage.model(n_seq_max=2) as model:
        stream = await unread(stage, model)
        await model.evict()
        assert model.status().active == 1
        await assert_all_read(stream)
        await assert_as_new(model)


@pytest.mark.parametrize("n_seq_max", [1, 2])
async def test_one_that_runs_is_waited_for_and_one_that_comes_later_is_not(n_seq_max: int) -> None:
    stage = Stage()
    async with stage.model(n_seq_max=n_seq_max) as model:
        stage.pause(decoding)
        first = asked(model, "first", max_tokens=6)
        await stage.held.wait()
        evicting = asyncio.create_task(model.evict())
        await settle()
        later = asked(model, "later", max_tokens=300)
        await stage.go_on_to(lambda plan: bool(plan.rows) and plan.rows[0].pos > 7)
        assert not evicting.done()
        await stage.go_on_to(lambda plan: bool(plan.rows) and plan.rows[-1].pos > 100)
        await first
        await evicting
        assert not later.done()
        stage.resume()
        assert (await later).tokens == await fresh_tokens("later", max_tokens=300, **GREEDY)
        await assert_as_new(model)


async def test_one_that_gave_way_to_a_higher_class_is_waited_for() -> None:
    stage = Stage()
    async with stage.model(n_seq_max=1) as model:
        stage.pause(lambda plan: bool(plan.rows) and plan.rows[0].pos == 40)
        low = asked(model, [1] * 20, max_tokens=60, priority="low")
        await stage.held.wait()
        high = asked(model, [2] * 20, max_tokens=60, priority="high")
        await settle()
        await stage.go_on_to(lambda plan: plan.prefill is not None)
        evicting = asyncio.create_task(model.evict())
        await settle()
        stage.resume()
        await high
        assert not evicting.done()
        await asyncio.gather(low, evicting)
        await assert_as_new(model)


async def test_idle_sessions_give_up_their_sequences_beside_a_reader_that_sleeps() -> None:
    stage = Stage()
    async with stage.model(n_seq_max=2) as model:
        await model.complete("turn", session_id="s", max_tokens=3, **GREEDY)
        stream = await unread(stage, model)
        await model.evict()
        assert model.status().sessions == 0
        await stream.cancel()
        await model.end_session("s")
        await assert_as_new(model)


async def test_a_call_while_a_step_runs_for_the_reader_waits_for_its_end() -> None:
    stage = Stage()
    async with stage.model(n_seq_max=2) as model:
        stage.pause(always)
        stream = model.stream(SLOW, max_tokens=60, stream_buffer=1, **GREEDY)
        await stream._start()
        await stage.held.wait()
        evicting = asyncio.create_task(model.evict())
        await settle()
        assert not evicting.done()
        stage.resume()
        await evicting
        await assert_all_read(stream)
        await assert_as_new(model)
