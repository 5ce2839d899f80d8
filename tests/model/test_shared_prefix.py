"""Requests that arrive together and begin alike: what they share is computed once."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from typing import Any
from unittest import mock

from erllama import Completion, Model
from erllama.actor.testing import ManualClock, settle
from erllama.model.job import Job
from erllama.model.messages import WaitedEnough
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
SHARED = [1 + i % 199 for i in range(1_024)]
AGENTS = 8
OPTIONS: dict[str, Any] = {"n_seq_max": AGENTS, "n_ctx": 4_096, "restore_margin": 1_000.0}


def prompt(n: int) -> list[int]:
    return [*SHARED, *([200 + n] * 32)]


def computed(stage: Stage) -> int:
    """Tokens of prompts that were computed, of those of the agents."""
    return sum(len(plan.prefill.tokens) for plan in stage.plans if plan.prefill)


async def together(stage: Stage, model: Model, **options: Any) -> list[asyncio.Task[Completion]]:
    """All agents ask before the first step is done."""
    stage.pause(always)
    tasks = [asked(model, prompt(n), max_tokens=8, **options) for n in range(AGENTS)]
    await stage.held.wait()
    await settle()
    return tasks


async def assert_answers(tasks: list[asyncio.Task[Completion]], first: int = 0) -> None:
    for n in range(first, AGENTS):
        done = await tasks[n]
        assert done.tokens == await fresh_tokens(prompt(n), max_tokens=8, **GREEDY)


async def test_a_prefix_that_many_share_is_computed_once() -> None:
    stage = Stage()
    async with stage.model(**OPTIONS) as model:
        tasks = await together(stage, model)
        stage.resume()
        await asyncio.wait(tasks)
        assert computed(stage) == len(SHARED) + AGENTS * 32
        await assert_answers(tasks)
        hits = Counter([(await task).cache.hit for task in tasks])
        assert hits == {"cold": 1, "partial": AGENTS - 1}
        await assert_as_new(model)


def tails(stage: Stage) -> list[list[tuple[int, int]]]:
    """Sequence and length of the slices behind the shared prefix, step by step."""
    behind = [[one for one in plan.slices if one.pos == len(SHARED)] for plan in stage.plans]
    return [[(one.seq, len(one.tokens)) for one in step] for step in behind if step]


async def test_ends_of_one_length_behind_a_shared_prefix_are_computed_in_one_step(
    clock: ManualClock,
) -> None:
    stage = Stage(joint=True)
    async with stage.model(**OPTIONS) as model:
        tasks = await together(stage, model)
        stage.resume()
        await asyncio.wait(tasks)
        assert tails(stage) == [[(seq, 32) for seq in range(AGENTS)]]
        await assert_answers(tasks)
        await assert_as_new(model)


async def test_an_end_of_a_length_of_its_own_waits_for_nobody(clock: ManualClock) -> None:
    stage = Stage(joint=True)
    async with stage.model(**OPTIONS) as model:
        stage.pause(always)
        lengths = [40, *([32] * 3), 33]
        tasks = [
            asked(model, [*SHARED, *([200 + n] * length)], max_tokens=8)
            for n, length in enumerate(lengths)
        ]
        await stage.held.wait()
        await settle()
        stage.resume()
        await asyncio.wait(tasks)
        steps = [[length for _, length in step] for step in tails(stage)]
        assert steps[0] == [40]
        assert sorted(steps[1:]) == [[32, 32, 32], [33]]


async def test_an_end_waits_for_none_of_a_lower_class(clock: ManualClock) -> None:
    stage = Stage(joint=True)
    async with stage.model(**OPTIONS) as model:
        stage.pause(always)
        tasks = [
            asked(model, prompt(n), max_tokens=8, priority="low" if n else "high") for n in range(3)
        ]
        await stage.held.wait()
        await settle()
        stage.resume()
        await asyncio.wait(tasks)
        steps = [[length for _, length in step] for step in tails(stage)]
        assert steps == [[32], [32, 32]]


@contextlib.asynccontextmanager
async def waiting_for_ever(stage: Stage, model: Model) -> AsyncIterator[None]:
    """Go on to where the first waits for company; whoever has no sequence waits for it for ever."""
    floor = floor_of(model)
    leader = floor.jobs()[0]

    def never_ready(job: Job, running: Iterable[Job]) -> bool:
        job.waits_for = leader
        return True

    with mock.patch.object(floor._work, "must_wait", never_ready):
        stage.resume()
        await until(lambda: "company" in leader.timers)
        yield


async def test_an_end_waits_for_company_only_so_long(clock: ManualClock) -> None:
    stage = Stage(joint=True)
    async with stage.model(**OPTIONS) as model:
        stage.pause(always)
        tasks = [asked(model, prompt(n), max_tokens=8) for n in range(2)]
        await stage.held.wait()
        await settle()
        async with waiting_for_ever(stage, model):
            await settle()
            assert tails(stage) == []
            await clock.advance(0.5)
            await until(lambda: tails(stage) == [[(0, 32)]])
        await asyncio.wait(tasks)
        await assert_as_new(model)


async def test_who_waits_for_company_can_be_cancelled(clock: ManualClock) -> None:
    stage = Stage(joint=True)
    async with stage.model(**OPTIONS) as model:
        stage.pause(always)
        first = model.stream(prompt(0), max_tokens=8, **GREEDY)
        await first._start()
        await stage.held.wait()
        other = asked(model, prompt(1), max_tokens=8)
        await settle()
        async with waiting_for_ever(stage, model):
            pass
        done = await first.cancel()
        assert (done.tokens, done.finish_reason) == ([], "cancelled")
        assert (await other).tokens == await fresh_tokens(prompt(1), max_tokens=8, **GREEDY)
        await assert_as_new(model)


async def test_what_a_cancelled_one_had_computed_is_not_computed_again() -> None:
    stage = Stage()
    async with stage.model(**OPTIONS, n_batch=256) as model:
        stage.pause(lambda plan: plan.prefill is not None and plan.prefill.pos == 512)
        first = model.stream(prompt(0), **GREEDY)
        await first._start()
        tasks = [asked(model, prompt(n), max_tokens=8) for n in range(1, AGENTS)]
        await stage.held.wait()
        await settle()
        ending = asyncio.create_task(first.cancel())
        await settle()
        stage.resume()
        await ending
        await asyncio.wait(tasks)
        # the slice that was cut short is all that may have been lost
        assert computed(stage) <= len(SHARED) + 256 + AGENTS * 32
        await assert_answers([tasks[0], *tasks], 1)
        await assert_as_new(model)


async def test_those_that_find_part_of_it_in_the_cache_compute_the_rest_once() -> None:
    stage = Stage()
    async with stage.model(**OPTIONS) as model:
        await model.prefill(SHARED[:512])
        await model.evict()
        before = computed(stage)
        tasks = await together(stage, model)
        stage.resume()
        await asyncio.wait(tasks)
        assert computed(stage) - before == len(SHARED) - 512 + AGENTS * 32
        await assert_answers(tasks)
        await assert_as_new(model)


async def test_a_save_that_took_long_does_not_end_the_wait_for_a_prompt() -> None:
    stage = Stage()
    async with stage.model(**OPTIONS) as model:
        tasks = await together(stage, model)
        ref: Any = floor_of(model)._urgent.__self__  # type: ignore[attr-defined]
        for job in floor_of(model)._waiting:
            ref.urgent(WaitedEnough(job))
        await settle()
        stage.resume()
        await asyncio.wait(tasks)
        assert computed(stage) == len(SHARED) + AGENTS * 32
        await assert_answers(tasks)


async def test_nothing_is_shared_with_those_of_another_salt() -> None:
    stage = Stage()
    async with stage.model(**OPTIONS) as model:
        stage.pause(always)
        tasks = [
            asked(model, prompt(n), max_tokens=8, cache_salt=f"salt {n % 2}") for n in range(AGENTS)
        ]
        await stage.held.wait()
        await settle()
        assert model.status().active == 2, "the first of each salt computes, the others wait"
        stage.resume()
        await asyncio.wait(tasks)
        assert computed(stage) == 2 * len(SHARED) + AGENTS * 32
        await assert_answers(tasks)
        await assert_as_new(model)


async def test_one_that_waits_for_another_s_prompt_can_be_cancelled() -> None:
    stage = Stage()
    async with stage.model(**OPTIONS) as model:
        tasks = await together(stage, model)
        assert (model.status().active, model.status().pending) == (1, AGENTS - 1)
        tasks[3].cancel()
        await settle()
        assert model.status().pending == AGENTS - 2
        stage.resume()
        await asyncio.wait(tasks)
        assert tasks[3].cancelled()
        await assert_as_new(model)


async def test_nobody_waits_where_the_cache_is_off() -> None:
    stage = Stage()
    async with stage.model(n_seq_max=AGENTS, n_ctx=4_096, enabled=False) as model:
        tasks = await together(stage, model)
        assert model.status().active == AGENTS
        stage.resume()
        await asyncio.wait(tasks)
        assert computed(stage) == AGENTS * (len(SHARED) + 32)
        await assert_as_new(model)


# Classes of priority


def classes(model: Model) -> list[str]:
    return [entry.priority for entry in floor_of(model).entries()]


async def test_a_low_one_has_the_class_of_the_one_that_waits_for_its_prompt_and_only_then() -> None:
    stage = Stage()
    async with stage.model(**OPTIONS, n_batch=64) as model:
        stage.pause(always)
        low = asked(model, prompt(0), max_tokens=500, priority="low")
        await stage.held.wait()
        assert classes(model) == ["low"]
        high = asked(model, prompt(1), max_tokens=8, priority="high")
        await until(lambda: (classes(model), model.status().pending) == (["high"], 1))
        high.cancel()
        await until(lambda: (classes(model), model.status().pending) == (["low"], 0))
        asked_again = asked(model, prompt(1), max_tokens=8, priority="high")
        await until(lambda: classes(model) == ["high"])
        await stage.go_on_to(decoding)  # its prompt is done, and on its way into the cache
        await until(lambda: classes(model) == ["low", "high"])
        stage.resume()
        assert (await low).tokens == await fresh_tokens(prompt(0), max_tokens=500, **GREEDY)
        assert (await asked_again).tokens == await fresh_tokens(prompt(1), max_tokens=8, **GREEDY)
        await assert_as_new(model)


async def test_a_high_one_does_not_wait_for_those_between_it_and_the_low_one() -> None:
    stage = Stage(row_ns=1_000)  # the classes share time, so each row has to take the same
    async with stage.model(**OPTIONS, n_batch=64) as model:
        stage.pause(always)
        low = asked(model, prompt(0), max_tokens=8, priority="low")
        await stage.held.wait()
        between = asked(model, [7] * 3_500, max_tokens=8)
        high = asked(model, prompt(1), max_tokens=8, priority="high")
        await until(lambda: (len(classes(model)), model.status().pending) == (2, 1))
        n = len(stage.plans)
        stage.resume()
        await high
        slices = [set(plan.prefill.tokens) for plan in stage.plans[n:] if plan.prefill]
        before = slices[: next(i for i, tokens in enumerate(slices) if 201 in tokens)]
        assert len(before) - before.count({7}) >= 15
        assert before.count({7}) < 30, "four times as many as of the low one would have gone before"
        await asyncio.gather(low, between)
        await assert_as_new(model)
