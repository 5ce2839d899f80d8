"""Several completions of one prompt."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from erllama import DecodeFailed, QueueFull, RequestError
from erllama.actor.testing import settle
from erllama.errors import EngineError
from tests.model.staging import Stage, assert_as_new

PROMPT = [1 + i % 199 for i in range(600)]


async def test_completions_differ_by_their_seeds_and_are_those_of_complete() -> None:
    async with Stage().model(n_seq_max=4) as model:
        found = await model.completions(PROMPT, n=4, seed=7, max_tokens=8)
        alone = [await model.complete(PROMPT, seed=7 + i, max_tokens=8) for i in range(4)]
        assert [one.tokens for one in found] == [one.tokens for one in alone]
        assert len({tuple(one.tokens) for one in found}) == 4
        fresh = await model.completions(PROMPT, n=4, max_tokens=8)
        assert len({one.seed for one in fresh}) == 4
        await assert_as_new(model)


async def test_the_prompt_is_computed_once() -> None:
    stage = Stage()
    async with stage.model(n_seq_max=4, restore_margin=1_000.0) as model:
        await model.completions(PROMPT, n=4, max_tokens=8)
        rows = sum(length for _, length in stage.slices())
        assert len(PROMPT) <= rows < 1.5 * len(PROMPT)
        await assert_as_new(model)


async def test_cancelling_ends_all() -> None:
    stage = Stage()
    async with stage.model(n_seq_max=2) as model:
        stage.pause(lambda plan: bool(plan.rows))
        task = asyncio.create_task(model.completions(PROMPT, n=4))
        await stage.held.wait()
        await settle()
        task.cancel()
        await settle()
        stage.resume()
        with pytest.raises(asyncio.CancelledError):
            await task
        await assert_as_new(model)


async def test_one_that_fails_ends_all() -> None:
    stage = Stage()
    async with stage.model(n_seq_max=2) as model:
        wrong: EngineError = DecodeFailed("no")
        stage.fail(lambda plan: wrong if plan.rows else None)
        with pytest.raises(DecodeFailed):
            await model.completions(PROMPT, n=3)
        stage.fail(lambda _: None)
        await assert_as_new(model)


@pytest.mark.parametrize("n", [0, -1, 257, 1.5, True, "2", None])
async def test_a_number_that_cannot_be_is_refused(n: Any) -> None:
    async with Stage().model() as model:
        with pytest.raises(RequestError, match="n: expected"):
            await model.completions(PROMPT, n=n)


async def test_a_session_cannot_be_shared_and_the_queue_has_its_end() -> None:
    async with Stage().model(max_queue=2) as model:
        with pytest.raises(RequestError, match="session_id"):
            await model.completions(PROMPT, n=2, session_id="s")  # type: ignore[call-arg]
        with pytest.raises(QueueFull):
            await model.completions(PROMPT, n=9, max_tokens=4)
        await assert_as_new(model)
