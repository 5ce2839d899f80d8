"""Prompts that come together are read in the same steps, and nobody's answer depends on it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from erllama import EngineCrashed
from erllama.actor.testing import settle
from erllama.backend.base import StepPlan
from tests.model.staging import (
    Stage,
    always,
    asked,
    assert_as_new,
    fresh_tokens,
    prefilling,
    settled,
)

GREEDY: dict[str, Any] = {"temperature": 0}


def prompt(n: int, length: int = 64) -> list[int]:
    """The prompt of request `n`, unlike all others from its first token on."""
    return [n, *(i % 250 for i in range(1, length))]


def shared(stage: Stage) -> list[list[tuple[int, int, int]]]:
    """Of each step with slices: sequence, position and rows of each."""
    return [
        [(one.seq, one.pos, len(one.tokens)) for one in plan.slices]
        for plan in stage.plans
        if plan.slices
    ]


async def assert_as_alone(answers: list[Any], *, but: int, n: int) -> None:
    """All have the answers that each would have alone, but for the one of this number."""
    for number, answer in enumerate(answers):
        if number != but:
            assert answer.tokens == await fresh_tokens(prompt(number), max_tokens=n, **GREEDY)


def together(plan: StepPlan) -> bool:
    return len(plan.slices) > 1


async def test_prompts_that_come_in_one_turn_are_read_in_one_step() -> None:
    stage = Stage(joint=True)
    async with stage.model(n_seq_max=8) as model:
        answers = await asyncio.gather(*(asked(model, prompt(n), max_tokens=5) for n in range(8)))
        for n, answer in enumerate(answers):
            assert answer.tokens == await fresh_tokens(prompt(n), max_tokens=5, **GREEDY)
        assert shared(stage) == [[(seq, 0, 64) for seq in range(8)]]
        assert [len(plan.rows) for plan in stage.plans if plan.rows] == [8] * 4
        await assert_as_new(model)


async def test_what_is_left_of_them_goes_on_together_where_it_is_as_long() -> None:
    stage = Stage(joint=True)
    async with stage.model(n_seq_max=3, n_batch=256, n_ubatch=256) as model:
        lengths = [100, 100, 90]
        tasks = [asked(model, prompt(n, length), max_tokens=4) for n, length in enumerate(lengths)]
        for n, answer in enumerate(await asyncio.gather(*tasks)):
            assert answer.tokens == await fresh_tokens(
                prompt(n, lengths[n]), max_tokens=4, **GREEDY
            )
        first, *tails = shared(stage)
        assert first == [(0, 0, 64), (1, 0, 64), (2, 0, 64)]
        assert sorted(tails) == [[(0, 64, 36), (1, 64, 36)], [(2, 64, 26)]]


async def test_an_engine_that_cannot_do_it_reads_one_after_the_other() -> None:
    stage = Stage()
    async with stage.model(n_seq_max=4) as model:
        await asyncio.gather(*(asked(model, prompt(n), max_tokens=2) for n in range(4)))
    assert [len(slices) for slices in shared(stage)] == [1, 1, 1, 1]


async def test_who_comes_later_is_read_later() -> None:
    stage = Stage(joint=True)
    async with stage.model(n_seq_max=3) as model:
        stage.pause(always)
        first = asked(model, prompt(0), max_tokens=2)
        await stage.held.wait()
        others = [asked(model, prompt(n), max_tokens=2) for n in (1, 2)]
        await settle()
        stage.resume()
        await asyncio.gather(first, *others)
    assert shared(stage)[0] == [(0, 0, 64)]


async def test_rows_of_shared_steps_are_cached_as_those_of_each_prompt() -> None:
    stage = Stage(joint=True)
    async with stage.model(n_seq_max=4) as model:
        cold = await asyncio.gather(*(asked(model, prompt(n, 300), max_tokens=3) for n in range(4)))
        await model.evict()
        assert any(len(slices) > 1 for slices in shared(stage))
        stage.plans.clear()
        for n, answer in enumerate(cold):
            again = await model.complete(prompt(n, 300), max_tokens=3, **GREEDY)
            assert (again.tokens, again.cache.hit) == (answer.tokens, "exact")
        assert shared(stage) == []


@pytest.mark.parametrize("which", [0, 1, 3])
async def test_one_that_is_cancelled_meanwhile_takes_nothing_from_the_others(which: int) -> None:
    stage = Stage(joint=True)
    async with stage.model(n_seq_max=4) as model:
        stage.pause(together)
        tasks = [asked(model, prompt(n), max_tokens=4) for n in range(4)]
        await stage.held.wait()
        tasks[which].cancel()
        await settle()
        stage.resume()
        answers = await settled(*tasks)
        assert isinstance(answers[which], asyncio.CancelledError)
        assert len(shared(stage)) == 1, "nobody's rows were computed again"
        await assert_as_alone(answers, but=which, n=4)
        await assert_as_new(model)


async def test_a_step_that_nobody_wants_any_more_is_aborted() -> None:
    stage = Stage(joint=True)
    async with stage.model(n_seq_max=3) as model:
        stage.hang(together)
        tasks = [asked(model, prompt(n), max_tokens=4) for n in range(3)]
        await stage.held.wait()
        for task in tasks:
            task.cancel()
        await settled(*tasks)  # the step ends by nothing but an abort
        stage.resume()
        await assert_as_new(model)


async def test_a_shared_step_that_is_refused_is_tried_again_by_each_alone() -> None:
    refused: list[int] = []

    def refuse(plan: StepPlan) -> Any:
        bad = any(one.tokens[0] == 2 for one in plan.slices)
        if bad:
            refused.append(len(plan.slices))
        return "failed" if bad else None

    stage = Stage(joint=True, on_decode=refuse)
    async with stage.model(n_seq_max=4) as model:
        tasks = [asked(model, prompt(n), max_tokens=3) for n in range(4)]
        answers = await settled(*tasks)
        assert refused == [4, 1]
        assert "refused a step" in str(answers[2])
        await assert_as_alone(answers, but=2, n=3)
        await assert_as_new(model)


async def test_a_shared_step_that_raises_takes_its_requests_and_no_others() -> None:
    stage = Stage(joint=True)
    async with stage.model(n_seq_max=4) as model:
        stage.pause(prefilling)
        first = asked(model, prompt(9), max_tokens=60)
        await stage.held.wait()
        failed: list[StepPlan] = []

        def fail(plan: StepPlan) -> BaseException | None:
            if together(plan) and not failed:
                failed.append(plan)
                return RuntimeError("a bug")
            return None

        stage.fail(fail)
        tasks = [asked(model, prompt(n, 16), max_tokens=4) for n in range(3)]
        await settle()
        stage.resume()
        answers = await settled(*tasks)
        assert failed
        lost = [isinstance(answer, EngineCrashed) for answer in answers]
        assert sum(lost) == len(failed[0].slices)
        assert (await first).tokens == await fresh_tokens(prompt(9), max_tokens=60, **GREEDY)


async def test_a_request_behind_many_others_of_its_turn_is_not_forgotten() -> None:
    """More than an actor serves in one turn of the loop, and more than have sequences."""
    stage = Stage(joint=True)
    async with stage.model(n_seq_max=8, max_queue=200) as model:
        tasks = [asked(model, prompt(n % 250, 20), max_tokens=2) for n in range(150)]
        answers = await asyncio.gather(*tasks)
        assert all(len(answer.tokens) == 2 for answer in answers)
        assert len(shared(stage)[0]) == 8
