"""How far long work is, on standard error: a bar, lines, or nothing."""

from __future__ import annotations

import sys
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

from erllama.cli.output import printable, say

_QUARTERS = 4


class Report(Protocol):
    """Shows progress."""

    def show(self, what: str, share: float) -> None:
        """`share`, 0 to 1, of `what` is done."""

    def clear(self) -> None:
        """The work is over; nothing of a bar stays."""


class Bar:
    """A bar on a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None
        self._task = TaskID(0)

    def show(self, what: str, share: float) -> None:
        if self._progress is None:
            self._progress = self._start()
        self._progress.update(self._task, description=printable(what), completed=share)
        self._progress.refresh()

    def clear(self) -> None:
        progress, self._progress = self._progress, None
        if progress is not None:
            progress.stop()

    def _start(self) -> Progress:
        progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = progress.add_task("", total=1.0)
        progress.start()
        return progress


class PlainLines:
    """A line when work begins, and one for every further quarter."""

    def __init__(self) -> None:
        self._what = ""
        self._quarter = 0

    def show(self, what: str, share: float) -> None:
        quarter = int(share * _QUARTERS)
        if what != self._what:
            self._what, self._quarter = what, 0
            say(f"erllama: {what}")
        if self._quarter < quarter < _QUARTERS:
            self._quarter = quarter
            say(f"erllama: {what}: {100 * quarter // _QUARTERS} %")

    def clear(self) -> None:
        self._what = ""


class Silence:
    """Nothing."""

    def show(self, what: str, share: float) -> None:
        return

    def clear(self) -> None:
        return


def make_report(*, quiet: bool) -> Report:
    """What fits standard error."""
    if quiet or sys.stderr is None:
        return Silence()
    console = Console(stderr=True)
    if sys.stderr.isatty() and not console.is_dumb_terminal:
        return Bar(console)
    return PlainLines()
