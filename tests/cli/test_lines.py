from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest

from erllama.actor.testing import settle
from erllama.cli.lines import Lines


@pytest.fixture
def pipe() -> Iterator[tuple[Lines, int]]:
    reading, writing = os.pipe()
    yield Lines(reading), writing
    os.close(reading)


async def all_lines(lines: Lines) -> list[str]:
    found = []
    while (line := await lines.next()) is not None:
        found.append(line)
    return found


async def test_lines_come_without_their_ends_and_the_last_may_have_none(
    pipe: tuple[Lines, int],
) -> None:
    lines, writing = pipe
    os.write(writing, "one\r\n\nthé\nlast".encode())
    os.close(writing)
    assert await all_lines(lines) == ["one", "", "thé", "last"]
    assert await lines.next() is None


async def test_a_line_that_comes_in_pieces_is_one_line(pipe: tuple[Lines, int]) -> None:
    lines, writing = pipe
    os.write(writing, b"a\xc3")
    waiting = asyncio.create_task(lines.next())
    await settle()
    os.write(writing, b"\xa9b\nrest")
    assert await waiting == "aéb"
    os.close(writing)


async def test_bytes_that_are_no_text_are_replaced(pipe: tuple[Lines, int]) -> None:
    lines, writing = pipe
    os.write(writing, b"a\xffb\n")
    assert await lines.next() == "a\ufffdb"
    os.close(writing)


async def test_a_cancelled_wait_loses_nothing(pipe: tuple[Lines, int]) -> None:
    lines, writing = pipe
    waiting = asyncio.create_task(lines.next())
    await settle()
    waiting.cancel()
    await asyncio.wait({waiting})
    os.write(writing, b"kept\n")
    assert await lines.next() == "kept"
    os.close(writing)


async def test_rest_is_everything_that_is_left(pipe: tuple[Lines, int]) -> None:
    lines, writing = pipe
    os.write(writing, b"one\ntwo\n\nthree\n")
    assert await lines.next() == "one"
    os.close(writing)
    assert await lines.rest() == "two\n\nthree\n"
    assert await lines.rest() == ""


async def test_a_pipe_that_does_not_block_is_waited_for(pipe: tuple[Lines, int]) -> None:
    lines, writing = pipe
    os.set_blocking(lines._descriptor, False)
    waiting = asyncio.create_task(lines.next())
    await settle()
    os.write(writing, b"late\n")
    assert await waiting == "late"
    os.close(writing)


async def test_a_closed_descriptor_has_no_lines() -> None:
    assert await Lines(-1).next() is None
