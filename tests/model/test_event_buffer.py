"""The buffer between a request and its reader: bounded, nothing lost, few reads to catch up."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama import Done, Event, PrefillProgress, Text, ThinkingDelta, ThinkingEnd, ToolCallDelta
from erllama.actor.testing import settle
from erllama.model.stream import EventBuffer


def pushed(buffer: EventBuffer, n: int, *, logprob: float | None = None) -> None:
    for token in range(n):
        buffer.push(Text(f"{token},", token, logprob))


async def drained(buffer: EventBuffer) -> list[Event]:
    buffer.end()
    events: list[Event] = []
    while (event := await buffer.take()) is not None:
        events.append(event)
    return events


async def test_up_to_half_of_the_limit_each_token_stays_an_event() -> None:
    buffer = EventBuffer(8)
    pushed(buffer, 4)
    assert await drained(buffer) == [Text(f"{n},", n) for n in range(4)]


async def test_beyond_half_of_the_limit_adjacent_texts_are_one_event_with_the_last_token() -> None:
    buffer = EventBuffer(8)
    pushed(buffer, 5)
    assert await drained(buffer) == [Text("0,1,2,3,4,", 4)]


async def test_texts_on_both_sides_of_another_event_stay_apart() -> None:
    buffer = EventBuffer(4)
    progress = PrefillProgress(1, 2)
    for event in (Text("a", 1), Text("b", 2), progress, Text("c", 3), Text("d", 4)):
        buffer.push(event)
    assert await drained(buffer) == [Text("ab", 2), progress, Text("c", 3), Text("d", 4)]


async def test_texts_with_logprobs_are_never_merged() -> None:
    buffer = EventBuffer(4)
    pushed(buffer, 4, logprob=-1.0)
    assert await drained(buffer) == [Text(f"{n},", n, -1.0) for n in range(4)]


async def test_it_is_full_from_the_limit_down_to_half_of_it_and_says_so_once() -> None:
    told: list[str] = []
    buffer = EventBuffer(4, lambda: told.append("space"))
    pushed(buffer, 3, logprob=-1.0)
    seen = [(buffer.full, len(told))]
    pushed(buffer, 1, logprob=-1.0)
    for _ in range(4):
        seen.append((buffer.full, len(told)))
        await buffer.take()
        buffer.push(PrefillProgress(1, 2))
    assert seen == [(False, 0), (True, 0), (True, 0), (False, 1), (False, 1)]


async def test_one_read_of_merged_text_makes_space() -> None:
    told: list[str] = []
    buffer = EventBuffer(6)
    pushed(buffer, 6)
    buffer.on_space = lambda: told.append("space")
    await buffer.take()
    assert (buffer.full, told) == (False, ["space"])


async def test_a_buffer_that_was_never_full_says_nothing() -> None:
    told: list[str] = []
    buffer = EventBuffer(4, lambda: told.append("space"))
    pushed(buffer, 3)
    await drained(buffer)
    assert told == []


async def test_a_full_buffer_still_takes_what_it_is_given() -> None:
    buffer = EventBuffer(1)
    pushed(buffer, 3)
    progress = PrefillProgress(3, 3)
    buffer.push(progress)
    assert await drained(buffer) == [Text("0,1,2,", 2), progress]


async def test_a_waiting_reader_gets_the_event_as_it_comes() -> None:
    buffer = EventBuffer(1)
    reading = asyncio.create_task(buffer.take())
    await settle()
    assert not reading.done()
    buffer.push(Text("a", 1))
    assert await reading == Text("a", 1)
    assert not buffer.full


EVENTS = st.lists(
    st.one_of(
        st.builds(Text, st.text(max_size=3), st.integers(0, 9)),
        st.builds(Text, st.text(max_size=3), st.integers(0, 9), st.just(-0.5)),
        st.builds(PrefillProgress, st.integers(0, 9), st.integers(0, 9)),
        st.none(),  # the reader takes one
    ),
    max_size=60,
)


@given(limit=st.integers(1, 12), script=EVENTS)
async def test_what_is_read_is_what_was_pushed_in_its_order(
    limit: int, script: list[Event | None]
) -> None:
    told: list[bool] = []
    buffer = EventBuffer(limit)
    buffer.on_space = lambda: told.append(buffer.full)
    read: list[Event] = []
    for event in script:
        if event is not None:
            buffer.push(event)
        elif (taken := await _taken(buffer)) is not None:
            read.append(taken)
    read += await drained(buffer)
    assert _spelt(read) == _spelt([event for event in script if event is not None])
    assert not any(told)


async def _taken(buffer: EventBuffer) -> Event | None:
    return await buffer.take() if buffer._events else None


def _spelt(events: list[Event]) -> list[object]:
    """Events with the text as single characters, and without the tokens that merging drops."""
    spelt: list[object] = []
    for event in events:
        assert not isinstance(event, Done)
        if isinstance(event, Text):
            spelt += [(character, event.logprob) for character in event.text]
        else:
            spelt.append(event)
    return spelt


@pytest.mark.parametrize("kind", [ThinkingDelta, ToolCallDelta])
async def test_thinking_and_calls_fill_a_buffer_as_text_does(
    kind: type[ThinkingDelta | ToolCallDelta],
) -> None:
    spaces: list[bool] = []
    buffer = EventBuffer(4, lambda: spaces.append(True))
    seen = []
    for event in (kind("x"), kind("x"), kind("x"), ThinkingEnd(None), kind("x")):
        buffer.push(event)
        seen.append(buffer.full)
    assert seen == [False, False, False, False, True]
    for _ in range(2):
        await buffer.take()
        seen.append(buffer.full)
    assert (seen[-2:], spaces) == ([True, False], [True])
