"""Classes of priority: who gets a sequence first, who gives one up, and that nobody starves."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from erllama import Completion
from erllama.actor.testing import settle
from tests.model.staging import (
    Stage,
    always,
    asked,
    assert_as_new,
    fresh_tokens,
)

GREEDY: dict[str, Any] = {"temperature": 0}


def prompt(n: int, length: int = 20) -> list[int]:
    return [n, *(i % 250 for i in range(1, length))]


async def assert_whole(task: asyncio.Task[Completion], *, of: list[int], n: int) -> None:
    done = await task
    assert done.finish_reason == "length"
    assert done.tokens == await fresh_tokens(of, max_tokens=n, **GREEDY)


@pytest.mark.parametrize("length", [20, 300])
async def test_a_running_request_gives_way_to_a_higher_class_and_goes_on_as_if_it_had_not(
    length: int,
) -> None:
    stage = Stage()
    async with stage.model(n_seq_max=1) as model:
        stage.pause(lambda plan: bool(plan.rows) and plan.rows[0].pos == length + 20)
        low = asked(model, prompt(1, length), max_tokens=80, priority="low")
        await stage.held.wait()
        high = asked(model, prompt(2), max_tokens=9, priority="high")
        await settle()
        stage.resume()
        await asyncio.wait([low, high], return_when=asyncio.FIRST_COMPLETED)
        assert (high.done(), low.done()) == (True, False)
        await assert_whole(high, of=prompt(2), n=9)
        await assert_whole(low, of=prompt(1, length), n=80)
        await assert_as_new(model)
    begun = [plan.prefill.pos for plan in stage.plans if plan.prefill]
    assert begun.count(0) == 3, "the one that gave way is not computed again (assert_as_new: one)"


async def test_the_same_class_does_not_interrupt() -> None:
    stage = Stage()
    async with stage.model(n_seq_max=1) as model:
        stage.pause(lambda plan: bool(plan.rows) and plan.rows[0].pos == 40)
        first = asked(model, prompt(1), max_tokens=80)
        await stage.held.wait()
        second = asked(model, prompt(2), max_tokens=9)
        await settle()
        stage.resume()
        await asyncio.wait([first, second], return_when=asyncio.FIRST_COMPLETED)
        assert (first.done(), second.done()) == (True, False)
        await second
        await assert_as_new(model)


async def test_the_lowest_class_and_of_it_the_latest_gives_way() -> None:
    stage = Stage()
    async with stage.model(n_seq_max=3) as model:
        stage.pause(always)
        normal = asked(model, prompt(1), max_tokens=300)
        early = asked(model, prompt(2), max_tokens=300, priority="low")
        late = asked(model, prompt(3), max_tokens=300, priority="low")
        await stage.held.wait()
        await settle()
        await stage.go_on_to(lambda plan: len(plan.rows) == 3 and plan.rows[2].pos == 40)
        high = asked(model, prompt(4), max_tokens=300, priority="high")
        await settle()
        await stage.go_on_to(lambda plan: plan.prefill is not None)
        assert stage.plans[-1].prefill is not None
        assert stage.plans[-1].prefill.tokens[0] == 4
        assert stage.plans[-1].prefill.seq == 2
        stage.resume()
        for n, task in enumerate((normal, early, late, high), 1):
            await assert_whole(task, of=prompt(n), n=300)
        await assert_as_new(model)


async def test_a_low_request_gets_its_turns_among_many_of_a_higher_class() -> None:
    stage = Stage()
    async with stage.model(n_seq_max=2, n_ctx=4_096) as model:
        low = asked(model, prompt(200), max_tokens=60, priority="low")
        left = 60
        running: set[asyncio.Task[Completion]] = set()
        while not low.done() and left:
            while len(running) < 6 and left:
                left -= 1
                running.add(asked(model, prompt(left), max_tokens=20))
            _, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        assert low.done(), "all requests of a higher class went before it"
        await assert_whole(low, of=prompt(200), n=60)
        await asyncio.gather(*running)
        await assert_as_new(model)


async def test_a_low_request_that_was_interrupted_again_and_again_is_as_if_it_had_not() -> None:
    stage = Stage()
    async with stage.model(n_seq_max=1) as model:
        low = asked(model, prompt(200, 400), max_tokens=40, priority="low")
        for n in range(8):
            await asked(model, prompt(n), max_tokens=2, priority="high")
        await assert_whole(low, of=prompt(200, 400), n=40)
        await assert_as_new(model)


async def test_an_interrupted_request_that_is_cancelled_ends_at_once() -> None:
    stage = Stage()
    async with stage.model(n_seq_max=1) as model:
        stage.pause(lambda plan: bool(plan.rows) and plan.rows[0].pos == 40)
        stream = model.stream(prompt(1), priority="low", **GREEDY)
        await stream._start()
        await stage.held.wait()
        high = asked(model, prompt(2), max_tokens=90, priority="high")
        await settle()
        await stage.go_on_to(lambda plan: bool(plan.rows) and len(stage.plans) > 30)
        assert not high.done()
        done = await stream.cancel()
        assert done.finish_reason == "cancelled"
        stage.resume()
        assert done.tokens == await fresh_tokens(prompt(1), max_tokens=len(done.tokens), **GREEDY)
        await high
        await assert_as_new(model)


async def test_a_state_that_nobody_waits_for_any_more_is_put_on_no_sequence() -> None:
    """One is cancelled while its state is read back; its sequence is another one's by then."""
    stage = Stage()
    gate = asyncio.Event()
    async with stage.runtime() as runtime:
        model = await runtime.load_model("stub.gguf", n_seq_max=1)
        stage.pause(lambda plan: bool(plan.rows) and plan.rows[0].pos == 40)
        stream = model.stream(prompt(1), priority="low", **GREEDY)
        await stream._start()
        await stage.held.wait()
        high = asked(model, prompt(2), max_tokens=3, priority="high")
        await settle()
        original = runtime._readers.run
        reading = asyncio.Event()

        async def slow(work: Any) -> Any:
            result = await original(work)
            reading.set()
            await gate.wait()
            return result

        runtime._readers.run = slow  # type: ignore[method-assign]
        stage.resume()
        await high
        await reading.wait()
        runtime._readers.run = original  # type: ignore[method-assign]
        await stream.cancel()
        stage.pause(lambda plan: bool(plan.rows) and plan.rows[0].pos == 30)
        other = asked(model, prompt(3), max_tokens=50)
        await stage.held.wait()
        gate.set()
        await settle()
        stage.resume()
        await assert_whole(other, of=prompt(3), n=50)
        await assert_as_new(model)
