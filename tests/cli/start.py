"""What a child process of these tests runs: `erllama`, on the stub engine if the environment says.

Its standard streams may be a terminal; it then becomes the controlling one, so that Ctrl-C typed
there is a signal here.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import signal
import sys
import termios
import time
from collections.abc import Callable
from typing import Any

from erllama.backend.base import Backend, Progress, Sampled, StepPlan, StepStatus
from erllama.backend.stub import BEGIN, StubBackend, StubEngine, StubLoading
from erllama.cli import info, main, run
from erllama.config import ContextConfig, ModelConfig
from erllama.errors import ModelLoadError
from erllama.model.handle import Model
from erllama.runtime import Runtime

VARIABLE = "ERLLAMA_TEST_STUB"
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if enable_thinking is defined %}<think={{ enable_thinking }}>{% endif %}<assistant>"
)
TOKENS = 3
MANY_TOKENS = 200
"""Fewer than may wait for a reader, so that they are drawn whether or not anybody reads."""

LONG_PIECE = b"long " * 200
"""Of which no pipe holds so many."""

_FOREVER_S = 3_600
_SAYS = {"prefill": b"reading\n", "flood": b"flooded\n"}


class Engine(StubEngine):
    """A stub that does as its mode says. Says "abort" on standard error when it is told to.

    Modes:
        pause: after 3 tokens a step ends only when it is aborted.
        prefill: so does the step that reads the prompt; says "reading" when it does.
        flood: as pause, after more text than a pipe holds; says "flooded" then.
        late: as pause, but only the second abort is obeyed.
        stuck: as pause, but no abort is.
        control: as pause, with tokens that a terminal would obey.
        short: ends by itself after 3 tokens.
    """

    mode = ""
    aborts = 0

    def abort(self, number: int) -> None:
        self.aborts += 1
        os.write(2, b"abort\n")
        if self.mode == "stuck" or (self.mode == "late" and self.aborts < 2):
            return
        super().abort(number)

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> array.array[int]:
        return array.array("i", [BEGIN] * add_special + list(text.encode()))

    def _compute(self, plan: StepPlan) -> StepStatus:
        limit = MANY_TOKENS if self.mode == "flood" else TOKENS
        paused = plan.prefill is None and self._drawn[plan.rows[0].seq] >= limit
        if self.mode == "short" or (not paused and self.mode != "prefill"):
            return super()._compute(plan)
        if self.mode in _SAYS:
            os.write(2, _SAYS[self.mode])
        return "aborted" if self._abort.wait(_FOREVER_S) else "done"

    def _sample(self, seq: int, seed: int) -> Sampled:
        sampled = super()._sample(seq, seed)
        if self.mode == "flood":
            return Sampled(seq, sampled.token, LONG_PIECE, False)
        if self.mode == "control":
            return Sampled(
                seq, sampled.token, "\x1b]0;title\x07\x9b31mred\r\n\tend".encode(), False
            )
        return sampled


class Loading(StubLoading):
    """Loads a stub; in the mode "loading", until that is given up."""

    def __init__(self, mode: str, backend: StubBackend, *arguments: Any) -> None:
        super().__init__(backend, *arguments)
        self._mode = mode

    def load(self, progress: Progress) -> None:
        while self._mode == "loading":
            if not progress(0.3):
                raise ModelLoadError("loading was given up")
            time.sleep(0.01)
        super().load(progress)

    def warm_up(self) -> Engine:
        engine = Engine(self._backend, self._model, self._context)
        engine.mode = self._mode
        return engine


class Stub(StubBackend):
    """Opens stubs of a mode."""

    def __init__(self, mode: str) -> None:
        super().__init__(end_after=TOKENS + 1 if mode == "short" else None)
        self._mode = mode

    def open(self, path: str, model: ModelConfig, context: ContextConfig) -> StubLoading:
        return Loading(self._mode, self, path, model, context)


def stub_runtime(mode: str) -> type[Runtime]:
    """A `Runtime` whose models are stubs with a chat template."""

    class StubRuntime(Runtime):
        def __init__(self, **options: Any) -> None:
            backend: Callable[[], Backend] = lambda: Stub(mode)  # noqa: E731
            super().__init__(**options, backend=backend)

        async def load_model(self, path: Any, **options: Any) -> Model:
            return await super().load_model(path, **options, chat_template=TEMPLATE)

    return StubRuntime


def take_terminal() -> None:
    for descriptor in range(3):
        with contextlib.suppress(OSError):
            if os.isatty(descriptor):
                fcntl.ioctl(descriptor, termios.TIOCSCTTY, 0)
                return


if __name__ == "__main__":
    take_terminal()
    # a shell starts what runs in the background with Ctrl-C ignored, and that is inherited
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if mode := os.environ.get(VARIABLE):
        run.Runtime = info.Runtime = stub_runtime(mode)  # type: ignore[attr-defined]
    main(sys.argv[1:])
