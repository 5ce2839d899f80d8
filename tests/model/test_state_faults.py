"""Exceptions out of saving and restoring: they concern one request, and the others go on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from erllama import EngineCrashed, Model
from erllama.actor.testing import settle
from erllama.errors import DecodeFailed
from erllama.model.faults import concerns_all, told
from tests.model.staging import (
    Stage,
    always,
    asked,
    assert_as_new,
    decoding,
    fresh_tokens,
    until,
)

GREEDY: dict[str, Any] = {"temperature": 0}
BUG = "a bug in the engine"
ERRORS = [RuntimeError(BUG), DecodeFailed("not this time"), MemoryError()]


def prompt(n: int, length: int = 20) -> list[int]:
    return [n, *(i % 200 for i in range(1, length))]


def raising(*errors: BaseException) -> Callable[[int], None]:
    """A hook that raises each of these once."""
    left = list(errors)

    def hook(_: int) -> None:
        if left:
            raise left.pop(0)

    return hook


def always_raising(error: BaseException) -> Callable[[int], None]:
    def hook(_: int) -> None:
        raise error

    return hook


async def answer(n: int, length: int = 20, max_tokens: int = 12) -> list[int]:
    return await fresh_tokens(prompt(n, length), max_tokens=max_tokens, **GREEDY)


async def assert_never_crashed(stage: Stage, model: Model) -> None:
    await assert_as_new(model)
    assert (model.status().restarts, len(stage.loads)) == (0, 1)


# Restoring what the cache has


@pytest.mark.parametrize("error", ERRORS, ids=repr)
async def test_a_prompt_whose_rows_cannot_be_restored_is_computed_and_the_others_go_on(
    error: Exception,
) -> None:
    stage = Stage()
    async with stage.model(n_seq_max=4, restore_margin=1_000.0) as model:
        await asked(model, prompt(1, 300), max_tokens=2)
        await model.evict()
        stage.backend.on_restore = raising(error)
        stage.pause(decoding)
        other = asked(model, prompt(2), max_tokens=12)
        await stage.held.wait()
        bad = asked(model, prompt(1, 300), max_tokens=12)
        await settle()
        stage.resume()
        done = await bad
        assert (done.cache.hit, done.tokens) == ("cold", await answer(1, 300))
        assert (await other).tokens == await answer(2)
        again = await asked(model, prompt(1, 300), max_tokens=12)
        assert (again.cache.hit, again.tokens) == ("exact", done.tokens)
        await assert_never_crashed(stage, model)


async def test_an_exception_that_engines_do_not_announce_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = Stage()
    async with stage.model(n_seq_max=2, restore_margin=1_000.0) as model:
        await asked(model, prompt(1, 300), max_tokens=2)
        await model.evict()
        stage.backend.on_restore = raising(RuntimeError(BUG))
        with caplog.at_level(logging.ERROR, "erllama.model"):
            await asked(model, prompt(1, 300), max_tokens=2)
    assert [BUG in record.message for record in caplog.records] == [True]


async def test_rows_for_which_there_is_no_memory_are_not_restored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_memory(*_: Any) -> None:
        raise MemoryError

    stage = Stage()
    async with stage.model(n_seq_max=2, restore_margin=1_000.0) as model:
        await asked(model, prompt(1, 300), max_tokens=2)
        await model.evict()
        with monkeypatch.context() as patched:
            patched.setattr("erllama.backend.stub.StubEngine.frame", no_memory)
            done = await asked(model, prompt(1, 300), max_tokens=12)
        assert (done.cache.hit, done.tokens) == ("cold", await answer(1, 300))
        await assert_never_crashed(stage, model)


# Putting back what was moved off


async def moved_off(stage: Stage, model: Model) -> tuple[asyncio.Task[Any], asyncio.Task[Any]]:
    """A low request whose state was moved off for a high one, which is held in a step."""
    stage.pause(lambda plan: bool(plan.rows) and plan.rows[0].pos == 40)
    low = asked(model, prompt(1), max_tokens=60, priority="low")
    await stage.held.wait()
    high = asked(model, prompt(2), max_tokens=12, priority="high")
    await settle()
    await stage.go_on_to(always)
    return low, high


async def test_a_state_that_cannot_be_put_back_ends_its_own_request_only() -> None:
    stage = Stage()
    async with stage.model(n_seq_max=1) as model:
        low, high = await moved_off(stage, model)
        stage.backend.on_restore = raising(RuntimeError(BUG))
        behind = asked(model, prompt(3), max_tokens=12, priority="low")
        stage.resume()
        assert (await high).tokens == await answer(2)
        with pytest.raises(EngineCrashed, match=BUG):
            await low
        assert (await behind).tokens == await answer(3)
        await assert_never_crashed(stage, model)


async def test_the_sequence_that_a_state_was_not_put_on_serves_the_next_request() -> None:
    """What the exception left in the cells is not in the way of anybody."""
    stage = Stage()
    async with stage.model(n_seq_max=1, enabled=False) as model:
        low, high = await moved_off(stage, model)

        def half_done(seq: int) -> None:
            stage.backend.engines[0]._cells[seq] = [1, 2, 3]
            raise RuntimeError(BUG)

        stage.backend.on_restore = half_done
        stage.resume()
        await high
        with pytest.raises(EngineCrashed, match=BUG):
            await low
        assert (await asked(model, prompt(3, 90), max_tokens=12)).tokens == await answer(3, 90)
        await assert_never_crashed(stage, model)


# Moving off


@pytest.mark.parametrize("error", ERRORS, ids=repr)
async def test_one_whose_state_cannot_be_saved_goes_on_where_it_is(error: Exception) -> None:
    saves: list[int] = []

    def save(seq: int) -> None:
        saves.append(seq)
        raise error

    stage = Stage(on_save=save)
    async with stage.model(n_seq_max=1, enabled=False) as model:
        stage.pause(lambda plan: bool(plan.rows) and plan.rows[0].pos == 40)
        low = asked(model, prompt(1), max_tokens=60, priority="low")
        await stage.held.wait()
        high = asked(model, prompt(2), max_tokens=12, priority="high")
        await settle()
        stage.resume()
        assert (await low).tokens == await answer(1, max_tokens=60)
        assert (await high).tokens == await answer(2)
        assert saves == [0], "it is not tried again and again"
        await assert_never_crashed(stage, model)


async def test_one_short_of_cells_whose_state_cannot_be_saved_waits_where_it_is() -> None:
    saves: list[int] = []

    def save(seq: int) -> None:
        saves.append(seq)
        raise RuntimeError(BUG)

    stage = Stage(cells=300, on_save=save)
    async with stage.model(n_seq_max=2, n_ctx=256, enabled=False) as model:
        tasks = [asked(model, prompt(n, 140 + 60 * n), max_tokens=20) for n in range(2)]
        for n, task in enumerate(tasks):
            assert (await task).tokens == await answer(n, 140 + 60 * n, max_tokens=20)
        assert saves == [1]
        await assert_never_crashed(stage, model)


async def test_one_whose_state_cannot_be_saved_is_told_so_when_its_context_goes() -> None:
    stage = Stage(on_save=always_raising(RuntimeError(BUG)))
    async with stage.model(n_seq_max=2, enabled=False) as model:
        stage.pause(lambda plan: bool(plan.rows) and plan.rows[0].pos == 40)
        other = asked(model, prompt(1), max_tokens=60)
        await stage.held.wait()
        bad = asked(model, prompt(9, 100))
        await settle()
        errors = [RuntimeError("in a prompt")]
        stage.fail(lambda plan: errors.pop() if errors and plan.prefill else None)
        stage.resume()
        with pytest.raises(EngineCrashed, match="in a prompt"):
            await bad
        with pytest.raises(EngineCrashed, match=BUG):
            await other
        await until(lambda: model.status().phase == "idle")
        stage.backend.on_save = None
        await assert_never_crashed(stage, model)


# The rule


def test_only_what_is_said_of_the_lane_or_the_engine_concerns_everybody() -> None:
    assert concerns_all(EngineCrashed("the lane is down"))
    assert not concerns_all(None)
    assert not any(map(concerns_all, ERRORS))
    assert isinstance(told(RuntimeError(BUG)), EngineCrashed)
    assert told(ERRORS[1]) is ERRORS[1]
