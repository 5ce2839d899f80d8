"""Engines that give out no state: nothing is moved off and nothing is cached, the rest holds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from erllama import DecodeFailed, EngineCrashed, Model, Stream
from erllama.actor.testing import ManualClock, settle
from erllama.backend.stub import StubEngine
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


def prompt(n: int, length: int = 20) -> list[int]:
    return [n, *(i % 200 for i in range(1, length))]


async def answer(n: int, length: int = 20, max_tokens: int = 12) -> list[int]:
    return await fresh_tokens(prompt(n, length), max_tokens=max_tokens, **GREEDY)


@pytest.fixture(autouse=True)
def no_states(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All stubs say that they cannot, and note when they are asked all the same."""
    make = StubEngine.__init__
    calls: list[str] = []

    def without(self: StubEngine, *options: Any) -> None:
        make(self, *options)
        self.capabilities = msgspec.structs.replace(self.capabilities, state=None)

    monkeypatch.setattr(StubEngine, "__init__", without)
    for call in ("save", "restore", "frame"):
        monkeypatch.setattr(StubEngine, call, lambda *_, call=call, **__: calls.append(call))
    yield
    assert calls == []


async def unread(stage: Stage, model: Model, n: int) -> Stream:
    """A stream that is paused for its reader, with nothing else to compute."""
    stage.pause(decoding)
    stream = model.stream(prompt(n), max_tokens=60, stream_buffer=4, **GREEDY)
    await stream._start()
    await stage.held.wait()
    while sum(job.paused for job in floor_of(model).jobs()) < n:
        await stage.go_on_to(decoding)
        await settle()
    stage.resume()
    await until(lambda: floor_of(model)._stepper.current is None)
    return stream


async def assert_all_read(stream: Stream, n: int) -> None:
    text = "".join([text async for text in stream.text()])
    assert text == bytes(await answer(n, max_tokens=60)).decode()


async def test_several_requests_are_answered_side_by_side() -> None:
    stage = Stage()
    async with stage.model(n_seq_max=3) as model:
        tasks = [asked(model, prompt(n, 20 + 70 * n), max_tokens=12) for n in range(6)]
        for n, task in enumerate(tasks):
            done = await task
            assert (done.tokens, done.cache.hit) == (await answer(n, 20 + 70 * n), "cold")
            assert done.finish_key is None
        await assert_as_new(model)


async def test_a_higher_class_waits_for_a_sequence_and_is_the_first_to_get_one() -> None:
    stage = Stage()
    async with stage.model(n_seq_max=1) as model:
        stage.pause(lambda plan: bool(plan.rows) and plan.rows[0].pos == 40)
        low = asked(model, prompt(1), max_tokens=60, priority="low")
        await stage.held.wait()
        behind = asked(model, prompt(3), max_tokens=12, priority="low")
        high = asked(model, prompt(2), max_tokens=12, priority="high")
        await settle()
        stage.resume()
        await low
        done, _ = await asyncio.wait([behind, high], return_when=asyncio.FIRST_COMPLETED)
        assert done == {high}
        assert (await high).tokens == await answer(2)
        assert (await behind).tokens == await answer(3)
        assert (await low).tokens == await answer(1, max_tokens=60)
        await assert_as_new(model)


async def test_a_reader_that_sleeps_keeps_its_sequence_and_others_have_the_rest(
    clock: ManualClock,
) -> None:
    stage = Stage()
    async with stage.model(n_seq_max=2, reader_stall_s=10.0) as model:
        stream = await unread(stage, model, 1)
        await clock.advance(100.0)
        assert model.status().active == 1
        await model.evict()
        for n in (5, 6, 7):
            assert (await asked(model, prompt(n), max_tokens=12)).tokens == await answer(n)
        await assert_all_read(stream, 1)
        await assert_as_new(model)


async def test_where_all_readers_sleep_a_newcomer_waits_until_one_reads() -> None:
    stage = Stage()
    async with stage.model(n_seq_max=2) as model:
        streams = [await unread(stage, model, n) for n in (1, 2)]
        waiting = asked(model, prompt(5), max_tokens=12, priority="high")
        await settle()
        assert (model.status().active, model.status().pending) == (2, 1)
        await assert_all_read(streams[0], 1)
        assert (await waiting).tokens == await answer(5)
        await assert_all_read(streams[1], 2)
        await assert_as_new(model)


async def test_one_without_cells_rests_where_it_is_until_another_one_ends() -> None:
    stage = Stage(cells=300)
    async with stage.model(n_seq_max=2, n_ctx=256) as model:
        tasks = [asked(model, prompt(n, 140 + 60 * n), max_tokens=20) for n in range(2)]
        for n, task in enumerate(tasks):
            assert (await task).tokens == await answer(n, 140 + 60 * n, max_tokens=20)
        await assert_as_new(model)


async def test_where_none_can_go_on_one_is_told_and_the_others_go_on() -> None:
    stage = Stage(cells=300)
    async with stage.model(n_seq_max=2, n_ctx=256) as model:
        tasks = [asked(model, prompt(n, 140), max_tokens=60) for n in range(2)]
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        failed = [isinstance(one, DecodeFailed) for one in answers]
        assert sum(failed) == 1
        good = failed.index(False)
        assert (await tasks[good]).tokens == await answer(good, 140, max_tokens=60)
        await assert_as_new(model)


async def test_a_session_goes_on_in_place_and_begins_anew_when_its_sequence_was_needed() -> None:
    stage = Stage()
    async with stage.model(n_seq_max=1) as model:
        first = await model.complete(prompt(1), session_id="s", max_tokens=4, **GREEDY)
        more = [*first.context_tokens, 7, 8]
        second = await model.complete(more, session_id="s", max_tokens=4, **GREEDY)
        assert second.cache.hit == "sticky"
        assert second.tokens == await fresh_tokens(more, max_tokens=4, **GREEDY)
        await asked(model, prompt(2), max_tokens=4)
        assert model.status().sessions == 0
        most = [*second.context_tokens, 9]
        third = await model.complete(most, session_id="s", max_tokens=4, **GREEDY)
        assert third.cache.hit == "cold"
        assert third.tokens == await fresh_tokens(most, max_tokens=4, **GREEDY)
        await model.end_session("s")
        await assert_as_new(model)


async def test_an_exception_in_a_step_ends_all_for_nobody_can_be_moved_off() -> None:
    stage = Stage()
    async with stage.model(n_seq_max=2) as model:
        stage.pause(always)
        tasks = [asked(model, prompt(n), max_tokens=60) for n in range(2)]
        await stage.held.wait()
        await settle()
        errors = [RuntimeError("a bug in the engine")]
        stage.fail(lambda plan: errors.pop() if errors and plan.rows else None)
        stage.resume()
        for task in tasks:
            with pytest.raises(EngineCrashed):
                await task
        await assert_as_new(model)
    assert len(stage.loads) == 2


async def test_a_prompt_can_be_prefilled_drafted_and_verified() -> None:
    stage = Stage()
    async with stage.model(n_seq_max=2) as model:
        assert await model.cached_prefix(prompt(1)) == 0
        made = await model.prefill(prompt(1))
        assert made.cache.created == 0
        drafted = await model.draft(prompt(1), 3)
        assert (await model.verify(prompt(1), drafted)).accepted == 3
        await assert_as_new(model)
