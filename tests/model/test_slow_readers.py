"""Flow control: a reader that does not read pauses its own request, and nobody else's."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from erllama import CallTimeout, Done, Model, Stream, Text
from erllama.actor.testing import ManualClock, settle
from tests.model.staging import (
    Stage,
    asked,
    assert_as_new,
    floor_of,
    fresh_tokens,
    until,
)

GREEDY: dict[str, Any] = {"temperature": 0}
BUFFER = 8
LENGTH = 60


async def all_text(stream: Stream) -> str:
    events = [event async for event in stream]
    assert isinstance(events[-1], Done)
    return "".join(event.text for event in events if isinstance(event, Text))


def made(stage: Stage, seq: int = 0) -> int:
    """Tokens that were computed behind the prompt."""
    return sum(1 for plan in stage.plans for row in plan.rows if row.seq == seq)


async def text_of(prompt: str, n: int = LENGTH) -> str:
    return bytes(await fresh_tokens(prompt, max_tokens=n, **GREEDY)).decode()


async def unread(stage: Stage, model: Model, **options: Any) -> Stream:
    """A stream whose buffer is full, with the lane a step ahead; nothing is computed any more."""
    stage.pause(lambda plan: bool(plan.rows))
    stream = model.stream(
        "slow", **{"max_tokens": LENGTH, "stream_buffer": BUFFER, **GREEDY, **options}
    )
    await stream._start()
    await stage.held.wait()
    for _ in range(BUFFER - 1):
        await stage.go_on_to(lambda plan: bool(plan.rows))
        await settle()
    stage.resume()
    await until(lambda: floor_of(model)._stepper.current is None)
    return stream


@pytest.mark.parametrize("n_seq_max", [1, 4])
async def test_a_reader_that_does_not_read_stops_its_own_request(n_seq_max: int) -> None:
    stage = Stage()
    async with stage.model(n_seq_max=n_seq_max) as model:
        stream = await unread(stage, model)
        assert made(stage) == BUFFER, "as many as fit, and the one that was on its way"
        assert model.status().active == 1
        assert await all_text(stream) == await text_of("slow")
        await assert_as_new(model)


async def test_the_lane_that_is_a_step_ahead_does_not_wake_a_paused_request() -> None:
    stage = Stage()
    async with stage.model(n_seq_max=2) as model:
        stream = await unread(stage, model, max_tokens=2_000)
        n = made(stage)
        # whatever else is computed, it is not for this one
        await asked(model, "other", max_tokens=30)
        await settle()
        assert made(stage) == n
        assert model.status().active == 1
        await stream.cancel()
        await assert_as_new(model)


async def test_others_go_on_beside_a_paused_request() -> None:
    stage = Stage()
    async with stage.model(n_seq_max=2) as model:
        stream = await unread(stage, model)
        await stream.__anext__()
        for n in range(5):
            done = await asked(model, f"other {n}", max_tokens=20)
            assert done.tokens == await fresh_tokens(f"other {n}", max_tokens=20, **GREEDY)
        rest = await all_text(stream)
        assert (await text_of("slow")).endswith(rest)
        await assert_as_new(model)


async def test_a_paused_request_is_moved_off_in_time_and_goes_on_when_it_is_read(
    clock: ManualClock,
) -> None:
    stage = Stage()
    async with stage.model(n_seq_max=1, reader_stall_s=10.0) as model:
        stream = await unread(stage, model)
        await clock.advance(9.0)
        assert model.status().active == 1
        await clock.advance(2.0)
        await until(lambda: model.status().active == 0)
        waiting = asked(model, "other", max_tokens=5)
        assert (await waiting).tokens == await fresh_tokens("other", max_tokens=5, **GREEDY)
        assert (model.status().active, model.status().pending) == (0, 1)
        assert await all_text(stream) == await text_of("slow")
        await assert_as_new(model)


async def test_a_moved_off_request_whose_reader_goes_away_ends(clock: ManualClock) -> None:
    stage = Stage()
    async with stage.model(n_seq_max=1, reader_stall_s=10.0) as model:
        stream = await unread(stage, model)
        await clock.advance(10.0)
        await until(lambda: model.status().active == 0)
        assert (await stream.cancel()).finish_reason == "cancelled"
        await assert_as_new(model)


async def test_a_sequence_is_taken_from_a_paused_request_when_all_are_taken() -> None:
    stage = Stage()
    async with stage.model(n_seq_max=1) as model:
        stream = await unread(stage, model)
        for n in range(3):
            done = await asked(model, f"other {n}", max_tokens=5)
            assert done.tokens == await fresh_tokens(f"other {n}", max_tokens=5, **GREEDY)
        assert await all_text(stream) == await text_of("slow")
        await assert_as_new(model)


async def test_many_readers_that_come_and_go_get_every_token() -> None:
    stage = Stage()
    async with stage.model(n_seq_max=2) as model:

        async def read(n: int) -> str:
            stream = model.stream(f"stream {n}", max_tokens=40, stream_buffer=1 + n % 5, **GREEDY)
            text = []
            async for event in stream:
                if isinstance(event, Text):
                    text.append(event.text)
                for _ in range(n % 3):
                    await asyncio.sleep(0)
            return "".join(text)

        texts = await asyncio.gather(*(read(n) for n in range(8)))
        for n, text in enumerate(texts):
            assert text == await text_of(f"stream {n}", 40)
        await assert_as_new(model)


async def test_a_request_that_is_paused_ends_by_its_timeout(clock: ManualClock) -> None:
    stage = Stage()
    async with stage.model(n_seq_max=1, reader_stall_s=10.0) as model:
        stream = await unread(stage, model, timeout=30.0)
        await clock.advance(31.0)
        with pytest.raises(CallTimeout, match="generated"):
            await stream.result()
        await assert_as_new(model)
