"""Standard input, line by line, with the event loop free meanwhile."""

from __future__ import annotations

import asyncio
import os
import select
import sys

from erllama.cli.blocking import BlockingCalls

_PIECE = 65_536


class Lines:
    """The lines of a file descriptor. Bytes that are not UTF-8 become U+FFFD.

    A wait that is cancelled loses nothing: what comes later is there for the next one.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._calls = BlockingCalls("erllama-stdin")
        self._buffer = b""
        self._ended = False
        self._reading: asyncio.Future[bytes] | None = None

    async def next(self) -> str | None:
        """The next line without its end; None after the last one."""
        while b"\n" not in self._buffer and not self._ended:
            await self._fill()
        if not self._buffer:
            return None
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode("utf-8", "replace").removesuffix("\r")

    async def rest(self) -> str:
        """All that is left, lines and all."""
        while not self._ended:
            await self._fill()
        rest, self._buffer = self._buffer, b""
        return rest.decode("utf-8", "replace")

    async def _fill(self) -> None:
        if self._reading is None:
            self._reading = self._calls.submit(lambda: _read(self._descriptor))
        piece = await asyncio.shield(self._reading)
        self._reading = None
        self._buffer += piece
        self._ended = not piece


def stdin_lines() -> Lines:
    """The lines of standard input; none if it was closed."""
    return Lines(0 if sys.stdin is not None else -1)


def _read(descriptor: int) -> bytes:
    while True:
        try:
            return os.read(descriptor, _PIECE)
        except BlockingIOError:  # made non-blocking by whoever else has it open
            select.select([descriptor], [], [])
        except OSError:  # closed, or its terminal is gone: there is no more
            return b""
