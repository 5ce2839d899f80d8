"""Running code in a process of its own: one that may compute with ggml, or may crash.

Only one operating-system thread of a process may compute with ggml at full speed, and a wrong call
into llama.cpp ends the process; so a test that computes, or that shows what kills, does it here.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_PROLOGUE = "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
# Without this an assertion of ggml's would look for a debugger to print a stack with.
_ENVIRONMENT = {"GGML_NO_BACKTRACE": "1"}

_CALL = """
import json, pickle, sys
function, args = pickle.load(sys.stdin.buffer)
print("\\n" + json.dumps(function(*args)), flush=True)
"""

STDERR_TAIL_LINES = 20


class ChildFailed(AssertionError):
    """A child process that should have ended well was killed or returned an error."""


@dataclass(frozen=True)
class CompletedChild:
    """How a child process ended.

    Args:
        returncode: its exit status; negative if a signal ended it, as in subprocess.
        stdout: all it wrote there.
        stderr: all it wrote there, llama.cpp's log and Python's fault handler included.
    """

    returncode: int
    stdout: str
    stderr: str

    @property
    def signal(self) -> signal.Signals | None:
        """The signal that ended it, or None."""
        return signal.Signals(-self.returncode) if self.returncode < 0 else None

    @property
    def stderr_tail(self) -> str:
        """The last lines of stderr."""
        return "\n".join(self.stderr.splitlines()[-STDERR_TAIL_LINES:])

    @property
    def value(self) -> Any:
        """What it returned: the last line of stdout, read as JSON.

        Raises:
            ChildFailed: it did not end with status 0.
        """
        self.check()
        return json.loads(self.stdout.splitlines()[-1])

    def check(self) -> None:
        """Raise ChildFailed, with the tail of stderr, unless it ended with status 0."""
        if self.returncode:
            how = self.signal.name if self.signal else f"exit status {self.returncode}"
            raise ChildFailed(
                f"the child process ended with {how}; its stderr:\n{self.stderr_tail}"
            )


def run_child(
    target: str | Callable[..., Any],
    *args: Any,
    timeout: float = 60.0,
    env: dict[str, str] | None = None,
) -> CompletedChild:
    """Run `target` in a new Python process with this one's module path, and wait for it.

    Args:
        target: a function at the top level of an importable module, whose return value must be
            JSON; or the text of a script, which prints its own.
        args: pickled for a function; turned into strings, as `sys.argv[1:]`, for a script.
        timeout: seconds after which the child is killed.
        env: environment variables to add.

    Raises:
        subprocess.TimeoutExpired: it took longer; what it wrote is in the exception.
    """
    if callable(target):
        code, argv, payload = _CALL, [], pickle.dumps((target, args))
    else:
        code, argv, payload = target, [str(arg) for arg in args], b""
    module_path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", _PROLOGUE + code, *argv],
        input=payload,
        capture_output=True,
        timeout=timeout,
        env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": module_path, **(env or {})},
        check=False,
    )
    return CompletedChild(
        done.returncode,
        done.stdout.decode(errors="replace"),
        done.stderr.decode(errors="replace"),
    )
