"""A child process that is `erllama`, its streams in hand. Nothing waits beyond a limit."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from tests.cli.start import VARIABLE

Name = Literal["stdout", "stderr", "terminal"]

ROOT = Path(__file__).parents[2]
LIMIT_S = 60.0
_STREAMS = ("stdin", "stdout", "stderr")


class Child:
    """`erllama ARGUMENTS`, killed at the end of the block if it still runs.

    Args:
        arguments: of the command line.
        stub: mode of the stub engine (`tests.cli.start.Engine`); None: llama.cpp.
        terminal: which of stdin, stdout and stderr are a terminal; the others are pipes.
        environment: variables to set.
    """

    def __init__(
        self,
        *arguments: str | Path,
        stub: str | None = None,
        terminal: Collection[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        command = [sys.executable, "-m", "tests.cli.start", *map(str, arguments)]
        variables = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"}
        variables |= environment or {}
        if stub is not None:
            variables[VARIABLE] = stub
        self._files: dict[Name, int] = {}
        self._seen: dict[Name, bytes] = {}
        self._deadline = time.monotonic() + LIMIT_S
        slave = None
        if terminal:
            self._files["terminal"], slave = pty.openpty()
        where = {name: slave if name in terminal else subprocess.PIPE for name in _STREAMS}
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=variables,
            start_new_session=True,
            stdin=where["stdin"],
            stdout=where["stdout"],
            stderr=where["stderr"],
            bufsize=0,
        )
        if slave is not None:
            os.close(slave)
        if self.process.stdout is not None:
            self._files["stdout"] = self.process.stdout.fileno()
        if self.process.stderr is not None:
            self._files["stderr"] = self.process.stderr.fileno()
        self._seen = dict.fromkeys(self._files, b"")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        if "terminal" in self._files:
            with contextlib.suppress(OSError):
                os.close(self._files["terminal"])

    # Towards the child

    def write(self, text: str) -> None:
        """Into its standard input, terminal or pipe."""
        if self.process.stdin is not None:
            self.process.stdin.write(text.encode())
        else:
            os.write(self._files["terminal"], text.encode())

    def end_input(self) -> None:
        """End of its standard input: Ctrl-D, or a closed pipe."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        else:
            self.write("\x04")

    def ctrl_c(self) -> None:
        """Ctrl-C: typed at the terminal, or the signal itself."""
        if self.process.stdin is None:
            self.write("\x03")
        else:
            self.process.send_signal(signal.SIGINT)

    def stop_reading(self, name: Name) -> None:
        """Close our end of one of its streams."""
        pipe = self.process.stdout if name == "stdout" else self.process.stderr
        if pipe is None:
            raise ValueError(f"{name} is no pipe")
        del self._files[name]
        pipe.close()

    # From the child

    def seen(self, name: Name) -> str:
        """What it has written to a stream so far, as far as it was read."""
        return self._seen[name].decode("utf-8", "replace").replace("\r\n", "\n")

    def expect(self, name: Name, text: str, *, times: int = 1) -> None:
        """Read until a stream has had `text` so many times.

        Raises:
            AssertionError: it ends, or the time does, before.
        """
        while self.seen(name).count(text) < times:
            if not self._read():
                raise AssertionError(f"no {text!r} ({times} times) on {name}: {self._seen}")

    def expect_length(self, name: Name, length: int) -> None:
        """Read until a stream has had so many characters.

        Raises:
            AssertionError: it ends, or the time does, before.
        """
        while len(self.seen(name)) < length:
            if not self._read():
                raise AssertionError(f"no {length} characters on {name}: {self._seen}")

    def leave_unread(self, name: Name) -> None:
        """From now on, do not read this stream."""
        del self._files[name]

    def wait(self) -> int:
        """Read to the end of all streams; returns the exit code."""
        while self._read():
            pass
        return self.process.wait(self._left())

    def _read(self) -> bool:
        """Read a piece of something; returns whether anything was still open."""
        if not self._files:
            return False
        ready, _, _ = select.select(list(self._files.values()), [], [], self._left())
        if not ready:
            raise AssertionError(f"nothing more within {LIMIT_S:g} s: {self._seen}")
        for name, file in list(self._files.items()):
            if file in ready:
                self._take(name, file)
        return True

    def _take(self, name: Name, file: int) -> None:
        try:
            piece = os.read(file, 65_536)
        except OSError:  # a terminal that nobody has open any more
            piece = b""
        self._seen[name] += piece
        if not piece:
            del self._files[name]
            if name == "terminal":
                os.close(file)

    def _left(self) -> float:
        return max(self._deadline - time.monotonic(), 0.0)


def run_erllama(
    *arguments: str | Path, typed: str = "", stub: str | None = None, **environment: str
) -> Child:
    """A child that has come to its end; all streams are pipes."""
    with Child(*arguments, stub=stub, environment=environment) as child:
        with contextlib.suppress(BrokenPipeError):
            child.write(typed)
        child.end_input()
        child.wait()
    return child
