"""Standard output and standard error.

Standard output gets what was asked for and nothing else; everything said about it goes to
standard error.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
from typing import Protocol

import msgspec

from erllama.cli.blocking import BlockingCalls
from erllama.types import Event, Text, ThinkingDelta, ToolCallDelta

_CONTROLS = (*range(0x20), *range(0x7F, 0xA0))
_STRIPPED = dict.fromkeys(code for code in _CONTROLS if chr(code) not in "\n\t")
_ESCAPED = {code: f"\\u{code:04x}" for code in range(0x7F, 0xA0)}


class OutputClosed(Exception):
    """Nobody reads standard output any more."""


def printable(text: str) -> str:
    """`text` without control characters, newline and tab apart: a terminal would obey them.

    >>> printable("a\\x1b[2Jb\\tc\\x9b31m\\r\\n")
    'a[2Jb\\tc31m\\n'
    """
    return text.translate(_STRIPPED)


class Output:
    """Standard output. Writes on a thread, so that a slow reader holds up no signal."""

    def __init__(self) -> None:
        self._calls = BlockingCalls("erllama-stdout")
        self.is_terminal = sys.stdout is not None and os.isatty(1)

    async def write(self, text: str) -> None:
        """Write all of `text`.

        Raises:
            OutputClosed: nobody reads it.
        """
        if sys.stdout is None:  # then 1 may by now be the number of some other file
            raise OutputClosed
        data = text.encode("utf-8", "replace")
        await self._calls.submit(lambda: _write(1, data))


class Replies(Protocol):
    """How replies are shown."""

    async def show(self, event: Event) -> None:
        """Show an event of a reply."""

    async def end(self) -> None:
        """A reply is over, by itself or not."""


class TextReplies:
    """The text as it comes; on a terminal also what the model thinks, and its calls of tools.

    Args:
        lines: end each reply with a newline; on a terminal that happens anyhow.
    """

    def __init__(self, output: Output, *, lines: bool) -> None:
        self._output = output
        self._ends = lines or output.is_terminal
        self._last = ""

    async def show(self, event: Event) -> None:
        said = (Text, ThinkingDelta, ToolCallDelta) if self._output.is_terminal else Text
        if not isinstance(event, said):
            return
        text = printable(event.text) if self._output.is_terminal else event.text
        self._last = text[-1:] or self._last
        await self._output.write(text)

    async def end(self) -> None:
        last, self._last = self._last, ""
        if self._ends and last != "\n":
            await self._output.write("\n")


class JsonReplies:
    """Every event as a JSON object on a line of its own."""

    def __init__(self, output: Output) -> None:
        self._output = output

    async def show(self, event: Event) -> None:
        await self._output.write(json_line(event))

    async def end(self) -> None:
        return


def json_line(value: object) -> str:
    """`value` as JSON and a newline, with every control character escaped."""
    return msgspec.json.encode(value).decode().translate(_ESCAPED) + "\n"


def say(message: str, *, end: str = "\n") -> None:
    """Write to standard error, if anybody reads it."""
    if sys.stderr is None:
        return
    with contextlib.suppress(OSError):
        sys.stderr.write(printable(message) + end)
        sys.stderr.flush()


def show_cursor() -> None:
    """Undo what a progress bar did to the terminal's cursor."""
    if sys.stderr is not None and sys.stderr.isatty():
        os.write(sys.stderr.fileno(), b"\x1b[?25h")


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:  # made non-blocking by whoever else has it open
            select.select([], [descriptor], [])
        except OSError as wrong:
            raise OutputClosed from wrong
