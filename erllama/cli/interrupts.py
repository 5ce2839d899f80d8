"""Ctrl-C and SIGTERM.

Contract
    State     calm → leaving. While calm, one reaction may be installed (`first`).
    Writers   the signal handlers and `first`, both on the event loop.
    Meaning   Ctrl-C: the installed reaction, once; without one, leave: the command's task is
              cancelled and cleans up. Any signal while leaving ends the process on the spot.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from erllama.cli.output import OutputClosed, say, show_cursor
from erllama.errors import ErllamaError

FAILED = 1
INTERRUPTED = 128 + signal.SIGINT
UNREAD = 128 + signal.SIGPIPE
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """What signals do to the task that made this.

    Attributes:
        code: the exit code of a process that a signal ended; None while none did.
    """

    def __init__(self, command: asyncio.Task[Any]) -> None:
        self._command = command
        self._reaction: Callable[[], object] | None = None
        self.code: int | None = None

    def install(self) -> None:
        """Listen; for good, so that a second signal also works while the loop is closed down."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup and `&` want it
                loop.add_signal_handler(number, self._on_signal, number)

    @contextlib.contextmanager
    def first(self, reaction: Callable[[], object]) -> Iterator[None]:
        """In this block the first Ctrl-C calls `reaction`; the second one leaves."""
        self._reaction = reaction
        try:
            yield
        finally:
            self._reaction = None

    def _on_signal(self, number: int) -> None:
        if self.code is not None:
            show_cursor()
            os._exit(128 + number)
        reaction, self._reaction = self._reaction, None
        if number == signal.SIGINT and reaction is not None:
            reaction()
            return
        self.code = 128 + number
        self._command.cancel()


def run_command(command: Callable[[Interrupts], Coroutine[Any, Any, int]]) -> int:
    """Run a command on an event loop; returns the exit code."""
    return asyncio.run(_watched(command))


async def _watched(command: Callable[[Interrupts], Coroutine[Any, Any, int]]) -> int:
    task = asyncio.current_task()
    if task is None:
        raise AssertionError("asyncio.run runs a task")
    interrupts = Interrupts(task)
    interrupts.install()
    try:
        return await command(interrupts)
    except OutputClosed:
        return UNREAD
    except (asyncio.CancelledError, ErllamaError) as end:
        if interrupts.code is not None:
            return interrupts.code
        if isinstance(end, asyncio.CancelledError):
            raise
        say(f"erllama: {end}")
        return FAILED
