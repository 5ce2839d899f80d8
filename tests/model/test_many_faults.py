"""Faults in steps that compute several requests: who is told, and that the others go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from erllama import Completion, EngineCrashed, Model
from erllama.actor.testing import settle
from erllama.backend.base import Draw, StepPlan, StepStatus
from erllama.errors import DecodeFailed
from tests.model.staging import (
    Stage,
    always,
    asked,
    assert_as_new,
    decoding,
    fresh_tokens,
    prefilling,
    rows_of,
    until,
)

GREEDY: dict[str, Any] = {"temperature": 0}


def prompt(n: int, length: int = 20) -> list[int]:
    return [n, *(i % 200 for i in range(1, length))]


def with_row_of(seqs: set[int]) -> Callable[[StepPlan], bool]:
    return lambda plan: bool(seqs & set(rows_of(plan)))


async def all_decode(stage: Stage, model: Model, n: int, **options: Any) -> list[Any]:
    """Requests 0 to n - 1 on sequences of the same numbers, held in their first step together."""
    stage.pause(always)
    tasks = [asked(model, prompt(i), **{"max_tokens": 12, **options}) for i in range(n)]
    await stage.held.wait()
    await settle()
    await stage.go_on_to(lambda plan: len(plan.rows) == n)
    return tasks


async def assert_answers(tasks: list[Any], which: list[int], max_tokens: int = 12) -> None:
    for n in which:
        assert (await tasks[n]).tokens == await fresh_tokens(
            prompt(n), max_tokens=max_tokens, **GREEDY
        )


async def test_a_sampler_that_fails_fails_one_request() -> None:
    def draw(draw: Draw) -> None:
        if draw.seq == 1 and len(stage.plans[-1].rows) == 3:
            raise RuntimeError("no token is left")

    stage = Stage(on_draw=draw)
    async with stage.model(n_seq_max=4) as model:
        tasks = await all_decode(stage, model, 3)
        stage.resume()
        with pytest.raises(DecodeFailed, match="no token is left"):
            await tasks[1]
        await assert_answers(tasks, [0, 2])
        stage.backend.on_draw = None
        await assert_as_new(model)
    assert model_crashed(stage) == 0


def model_crashed(stage: Stage) -> int:
    return len(stage.loads) - 1


@pytest.mark.parametrize("how", ["refused", "failed"])
async def test_the_culprit_of_a_failed_batch_is_found_and_the_others_go_on(how: str) -> None:
    bad = with_row_of({1})
    failing = False

    def decode(plan: StepPlan) -> StepStatus | None:
        return "failed" if how == "failed" and failing and bad(plan) else None

    stage = Stage(on_decode=decode)
    async with stage.model(n_seq_max=4) as model:
        tasks = await all_decode(stage, model, 4)
        failing = True
        if how == "refused":
            stage.fail(lambda plan: DecodeFailed("no") if bad(plan) else None)
        stage.resume()
        with pytest.raises(DecodeFailed, match="refused a step"):
            await tasks[1]
        failing = False
        stage.fail(lambda _: None)
        await assert_answers(tasks, [0, 2, 3])
        await assert_as_new(model)
    assert model_crashed(stage) == 0


async def test_a_batch_that_fails_once_costs_nobody_anything() -> None:
    errors = [DecodeFailed("not this time")]
    stage = Stage()
    async with stage.model(n_seq_max=4) as model:
        tasks = await all_decode(stage, model, 3)
        stage.fail(lambda plan: errors.pop() if errors and len(plan.rows) == 3 else None)
        stage.resume()
        await assert_answers(tasks, [0, 1, 2])
        await assert_as_new(model)


async def test_one_that_was_cancelled_in_a_failed_batch_is_tried_no_more() -> None:
    stage = Stage()
    async with stage.model(n_seq_max=4) as model:
        stage.pause(lambda plan: len(plan.rows) == 2)
        stream = model.stream(prompt(0), **GREEDY)
        await stream._start()
        other = asked(model, prompt(1), max_tokens=12)
        await stage.held.wait()
        errors = [DecodeFailed("not this time")]
        stage.fail(lambda plan: errors.pop() if errors else None)
        ending = asyncio.create_task(stream.cancel())
        await settle()
        n = len(stage.plans)
        stage.resume()
        # the pause is before the error: the step that is held fails once it goes on
        assert (await ending).finish_reason == "cancelled"
        assert not any(0 in rows_of(plan) for plan in stage.plans[n:])
        await assert_answers([None, other], [1])
        await assert_as_new(model)


async def test_first_draws_that_are_refused_together_are_tried_one_by_one() -> None:
    stage = Stage()
    async with stage.runtime() as runtime:
        model = await runtime.load_model("stub.gguf", n_seq_max=4, restore_margin=1_000.0)
        prompts = [prompt(n, 150) for n in range(3)]
        cold = [await model.complete(one, max_tokens=4, **GREEDY) for one in prompts]
        await model.evict()

        def refuse(plan: StepPlan) -> DecodeFailed | None:
            starts = not plan.prefill and not plan.rows and plan.draws
            return DecodeFailed("no") if starts and 1 in [d.seq for d in plan.draws] else None

        stage.pause(always)
        other = asked(model, prompt(9), max_tokens=9)
        await stage.held.wait()
        stage.fail(refuse)
        tasks = [asked(model, one, max_tokens=4) for one in prompts]
        await until(lambda: runtime.status().lane.queued == 3)  # the restores of all three
        await stage.go_on_to(always)
        await settle()
        stage.resume()
        answers = [await tokens_or_error(task) for task in tasks]
        failed = [isinstance(answer, DecodeFailed) for answer in answers]
        assert sum(failed) == 1
        assert any(len(plan.draws) == 3 and not plan.rows for plan in stage.plans)
        for answer, before in zip(answers, cold, strict=True):
            assert isinstance(answer, DecodeFailed) or answer == before.tokens
        await other
        stage.fail(lambda _: None)
        await assert_as_new(model)


async def tokens_or_error(task: asyncio.Task[Completion]) -> list[int] | DecodeFailed:
    try:
        return (await task).tokens
    except DecodeFailed as error:
        return error


# Exceptions


async def test_an_exception_in_a_prompt_leaves_those_that_decode() -> None:
    stage = Stage()
    async with stage.model(n_seq_max=4) as model:
        tasks = await all_decode(stage, model, 3)
        errors = [RuntimeError("a bug in the engine")]
        stage.fail(lambda plan: errors.pop() if errors and plan.prefill else None)
        bad = asked(model, prompt(9, 100))
        await settle()
        stage.resume()
        with pytest.raises(EngineCrashed, match="a bug in the engine"):
            await bad
        await assert_answers(tasks, [0, 1, 2])
        assert (model.status().restarts, model_crashed(stage)) == (0, 0)
        await assert_as_new(model)


async def test_an_exception_in_a_batch_leaves_the_prompt_that_was_half_computed() -> None:
    stage = Stage()
    async with stage.model(n_seq_max=4, n_batch=64) as model:
        stage.pause(lambda plan: plan.prefill is not None and plan.prefill.pos == 256)
        bad = [asked(model, prompt(n), max_tokens=1_000) for n in range(2)]
        long = asked(model, prompt(9, 700), max_tokens=5)
        await stage.held.wait()
        errors = [RuntimeError("a bug in the engine")]
        stage.fail(lambda plan: errors.pop() if errors and plan.rows else None)
        stage.resume()
        for task in bad:
            with pytest.raises(EngineCrashed, match="a bug in the engine"):
                await task
        assert (await long).tokens == await fresh_tokens(prompt(9, 700), max_tokens=5, **GREEDY)
        assert model_crashed(stage) == 0
        await assert_as_new(model)
    begun = [plan.prefill.pos for plan in stage.plans if plan.prefill and plan.prefill.seq == 2]
    assert begun.count(0) <= 1, "what was computed was taken along"


async def test_exceptions_that_leave_others_count_as_crashes_all_the_same() -> None:
    stage = Stage()
    async with stage.runtime(restart_intensity=2) as runtime:
        model = await runtime.load_model("stub.gguf", n_seq_max=2)
        stage.fail(
            lambda plan: (
                RuntimeError("a bug") if plan.prefill and 9 in plan.prefill.tokens[:1] else None
            )
        )
        stage.pause(lambda plan: bool(plan.rows) and plan.rows[0].pos == 30)
        other = asked(model, prompt(1), max_tokens=2_000)
        await stage.held.wait()
        stage.resume()
        for _ in range(2):
            with pytest.raises(EngineCrashed, match="a bug"):
                await asked(model, prompt(9))
        assert not other.done()
        with pytest.raises(EngineCrashed, match="a bug"):
            await asked(model, prompt(9))
        with pytest.raises(EngineCrashed, match="a bug"):
            await other
        with pytest.raises(EngineCrashed, match="given up"):
            await asked(model, prompt(2))
        assert model.status().phase == "failed"


async def test_an_exception_with_nobody_else_loads_the_model_again() -> None:
    stage = Stage()
    async with stage.model(n_seq_max=4) as model:
        errors = [RuntimeError("a bug in the engine")]
        stage.fail(lambda _: errors.pop() if errors else None)
        with pytest.raises(EngineCrashed, match="a bug in the engine"):
            await asked(model, prompt(1))
        await assert_as_new(model)
    assert model_crashed(stage) == 1


async def test_a_context_that_cannot_be_made_anew_ends_all() -> None:
    def cannot() -> None:
        raise RuntimeError("no memory")

    stage = Stage(on_rebuild=cannot)
    async with stage.model(n_seq_max=4) as model:
        tasks = await all_decode(stage, model, 2)
        errors = [RuntimeError("a bug in the engine")]
        stage.fail(lambda plan: errors.pop() if errors and plan.prefill else None)
        bad = asked(model, prompt(9, 100))
        await settle()
        stage.resume()
        for task in (bad, *tasks):
            with pytest.raises(EngineCrashed):
                await task
        await assert_as_new(model)
    assert model_crashed(stage) == 1


# Cells


async def test_a_slice_without_cells_is_made_shorter() -> None:
    stage = Stage(cells=400)
    async with stage.model(n_seq_max=2, n_batch=512, n_ctx=512, enabled=False) as model:
        stage.pause(decoding)
        other = asked(model, prompt(1, 100), max_tokens=2)
        await stage.held.wait()
        long = asked(model, prompt(2, 290), max_tokens=2)
        await settle()
        stage.resume()
        assert (await long).tokens == await fresh_tokens(prompt(2, 290), max_tokens=2, **GREEDY)
        await other
        await assert_as_new(model)


async def test_requests_that_do_not_fit_the_cells_together_are_computed_one_after_another() -> None:
    stage = Stage(cells=300)
    async with stage.model(n_seq_max=4, n_ctx=256, enabled=False) as model:
        tasks = [asked(model, prompt(n, 150), max_tokens=60) for n in range(4)]
        for n, task in enumerate(tasks):
            assert (await task).tokens == await fresh_tokens(
                prompt(n, 150), max_tokens=60, **GREEDY
            )
        await assert_as_new(model)
    assert model_crashed(stage) == 0


@pytest.mark.parametrize("cells", [220, 256, 300, 420])
@pytest.mark.parametrize("enabled", [False, True])
async def test_requests_of_all_lengths_share_few_cells(cells: int, enabled: bool) -> None:
    stage = Stage(cells=cells)
    sizes = [(150, 60), (20, 190), (200, 8), (64, 64), (130, 70), (5, 30), (190, 20), (100, 100)]
    async with stage.model(n_seq_max=4, n_ctx=256, enabled=enabled) as model:
        tasks = [asked(model, prompt(n, long), max_tokens=m) for n, (long, m) in enumerate(sizes)]
        for n, ((long, m), task) in enumerate(zip(sizes, tasks, strict=True)):
            fresh = await fresh_tokens(prompt(n, long), max_tokens=m, **GREEDY)
            assert (await task).tokens == fresh
        await assert_as_new(model)
    assert model_crashed(stage) == 0


async def test_a_newcomer_does_not_take_the_cells_of_one_that_waits_for_them() -> None:
    stage = Stage(cells=200)
    async with stage.model(n_seq_max=3, n_ctx=256) as model:
        tasks = await all_decode(stage, model, 2, max_tokens=110)
        await stage.go_on_to(lambda plan: rows_of(plan) == (0,))  # the second one has left to it
        small = asked(model, prompt(7, 10), max_tokens=2)
        await settle()
        stage.resume()
        await small
        await assert_answers(tasks, [0, 1], max_tokens=110)
        begins = [
            n for n, plan in enumerate(stage.plans) if plan.prefill and plan.prefill.tokens[0] == 7
        ]
        before = stage.plans[: begins[-1]]
        assert max(row.pos for plan in before for row in plan.rows) >= 20 + 110 - 2
        await assert_as_new(model)


async def test_one_that_grows_beyond_the_cells_waits_for_the_others() -> None:
    stage = Stage(cells=200)
    async with stage.model(n_seq_max=4, n_ctx=256) as model:
        tasks = await all_decode(stage, model, 4, max_tokens=100)
        stage.resume()
        await assert_answers(tasks, [0, 1, 2, 3], max_tokens=100)
        await assert_as_new(model)


async def test_an_idle_session_gives_its_cells_away() -> None:
    stage = Stage(cells=300)
    async with stage.model(n_seq_max=2, n_ctx=256) as model:
        await model.complete(prompt(1, 200), max_tokens=2, session_id="s", **GREEDY)
        assert model.status().sessions == 1
        done = await model.complete(prompt(2, 200), max_tokens=2, **GREEDY)
        assert done.tokens == await fresh_tokens(prompt(2, 200), max_tokens=2, **GREEDY)
        assert model.status().sessions == 0
        await assert_as_new(model)


async def test_one_that_never_fits_is_told_so() -> None:
    stage = Stage(cells=100)
    async with stage.model(n_seq_max=2, n_ctx=256) as model:
        with pytest.raises(DecodeFailed, match="cells of the context"):
            await asked(model, prompt(1, 150))
        await assert_as_new(model)


async def test_cells_of_requests_that_ended_while_nothing_was_computed_are_free() -> None:
    stage = Stage(cells=300)
    async with stage.model(n_seq_max=2, n_ctx=256, enabled=False) as model:
        await asked(model, prompt(1, 200), max_tokens=2)
        stage.pause(prefilling)
        first = asked(model, prompt(2, 30), max_tokens=2)
        await stage.held.wait()
        second = asked(model, prompt(3, 200), max_tokens=2)
        stage.resume()
        await asyncio.gather(first, second)
        await assert_as_new(model)
    assert not any(plan.prefill and len(plan.prefill.tokens) == 64 for plan in stage.plans[2:4])
