"""Schemas and expressions that might end the process, tried in a child process first.

The compiler behind them is native code. What it was not seen to survive (`erllama.sampling.hazard`)
is compiled in a child that is started when the first such request comes, and only if the child
survives within bounds of memory and processor time, here.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import selectors
import struct
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from erllama.errors import InvalidGrammar
from erllama.sampling import Grammar

_MODULE = "erllama.backend.trial_child"
HEADER = struct.Struct("<II")
"""Of a request: the length of the kind and of the text, in bytes of UTF-8."""

SURVIVED = b"+"
"""The answer; also the first thing that a child says."""

_DEADLINE_S = 60.0  # by the clock, should the limit of processor time not end it
_LOOK_S = 0.05  # how often to look whether the request still wants it
_REMEMBERED = 1_024
_STOPPED = "the runtime was stopped"
_DIED = "ends the compiler, or takes it too long or too much memory; make it simpler or shorter"


class Trial:
    """One child process and what it has survived. May be used from any thread.

    Args:
        module: what the child runs.
    """

    def __init__(self, module: str = _MODULE) -> None:
        self._module = module
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._closed = False
        self._survived: OrderedDict[bytes, bool] = OrderedDict()

    @property
    def pid(self) -> int | None:
        """Of the child, while there is one."""
        child = self._child
        return None if child is None else child.pid

    def check(self, stage: Grammar, pause: Callable[[], object]) -> None:
        """Refuse what the child does not survive; remembered.

        Args:
            pause: called while the child is at it; an exception of it ends the child.

        Raises:
            InvalidGrammar: names the field.
        """
        key = hashlib.sha256(f"{stage.kind}:{stage.text}".encode(errors="surrogatepass")).digest()
        with self._lock:
            survived = self._survived.get(key)
            if survived is None:
                survived = self._survived[key] = self._tried(stage, pause)
            self._survived.move_to_end(key)
            if len(self._survived) > _REMEMBERED:
                self._survived.popitem(last=False)
        if not survived:
            path = "" if stage.kind == "json_schema" else None
            raise InvalidGrammar(_DIED, field=stage.kind, text=stage.text, path=path)

    def close(self) -> None:
        """End the child, and try no more."""
        self._closed = True
        if self._child is not None:
            self._child.kill()  # whoever waits for it sees that, and lets go of the lock
        if self._lock.acquire(timeout=_DEADLINE_S):
            self._end(self._child)
            self._lock.release()

    def _tried(self, stage: Grammar, pause: Callable[[], object]) -> bool:
        child = self._child
        try:
            if child is None or child.poll() is not None:
                self._end(child)
                child = self._started(stage)
                if not self._answers(child, pause):
                    raise self._not_started(stage, "it ended at once")
            self._ask(child, stage)
            if self._answers(child, pause):
                return True
        except BaseException:  # whatever it is: what the child answers is no answer any more
            self._end(self._child)
            raise
        self._end(child)
        if self._closed:
            raise self._not_started(stage, _STOPPED)
        return False

    def _started(self, stage: Grammar) -> subprocess.Popen[bytes]:
        """A new process; not forked, as threads of this one hold locks."""
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(part for part in sys.path if part),
            "OPENBLAS_NUM_THREADS": "1",  # whose stacks count as memory
        }
        try:
            child = subprocess.Popen(
                [sys.executable, "-m", self._module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
        except (OSError, ValueError, TypeError) as error:
            raise self._not_started(stage, str(error)) from None
        self._child = child
        if self._closed:
            raise self._not_started(stage, _STOPPED)
        return child

    def _not_started(self, stage: Grammar, reason: str) -> InvalidGrammar:
        path = "" if stage.kind == "json_schema" else None
        return InvalidGrammar(
            f"has to be tried in a child process, which cannot be started ({reason}); make it "
            "simpler, or allow child processes",
            field=stage.kind,
            path=path,
        )

    @staticmethod
    def _ask(child: subprocess.Popen[bytes], stage: Grammar) -> None:
        kind, text = stage.kind.encode(), stage.text.encode(errors="surrogatepass")
        if child.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                child.stdin.write(HEADER.pack(len(kind), len(text)) + kind + text)
                child.stdin.flush()

    @staticmethod
    def _answers(child: subprocess.Popen[bytes], pause: Callable[[], object]) -> bool:
        """Whether the child writes an answer; it ends, or is late, otherwise."""
        if child.stdout is None:
            return False
        answers, give_up = child.stdout.fileno(), time.monotonic() + _DEADLINE_S
        with selectors.DefaultSelector() as selector:
            selector.register(answers, selectors.EVENT_READ)
            while time.monotonic() < give_up:
                if selector.select(_LOOK_S):
                    return os.read(answers, 1) == SURVIVED
                pause()
        return False

    def _end(self, child: subprocess.Popen[bytes] | None) -> None:
        if child is None:
            return
        child.kill()
        child.wait()
        if self._child is child:
            self._child = None
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
