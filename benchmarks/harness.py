"""Running benchmarks: child processes that take turns, and what is made of their figures.

A round is a set of fresh processes, one per side, all loaded at the same time. Within a round the
sides take turns of one request each, A B A B and B A B A, with a rest before each turn: so drift
of the machine hits all sides alike. A side that is not in its turn waits for a line of input.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import IO, Any, Literal, Self, TypeVar

from benchmarks.models import BenchModel

ROOT = pathlib.Path(__file__).parent.parent
REST_S = 0.03
"""Before each turn: longer than idle compute threads spin before they sleep."""

START_S = 120.0
TURN_S = 120.0
END_S = 20.0

T = TypeVar("T")
Detail = float | int | str | list[float]


@dataclass(frozen=True)
class Options:
    """What to run on and how much.

    Args:
        models: those of the lines that need one.
        rounds: fresh sets of processes per line; None: as many as the line thinks right.
        quick: the least that goes through all the code; the figures mean nothing.
        peers: compare with programs that have to be built first.
        soak_minutes: how long `soak` runs.
    """

    models: Sequence[BenchModel]
    rounds: int | None = None
    quick: bool = False
    peers: bool = True
    soak_minutes: float = 10.0

    def times(self, usual: int, quick: int = 1) -> int:
        """How often to do something: `quick` times in a quick run."""
        return quick if self.quick else usual

    def rounds_or(self, usual: int) -> int:
        """How many rounds."""
        return self.rounds or self.times(usual)


@dataclass(frozen=True)
class Target:
    """What a figure should be."""

    kind: Literal["at least", "below"]
    limit: float

    def met(self, value: float) -> bool:
        return value >= self.limit if self.kind == "at least" else value < self.limit

    def __str__(self) -> str:
        return f"{self.kind} {self.limit:g}"


@dataclass(frozen=True)
class Figure:
    """One measured figure.

    Args:
        benchmark: the module that measured it.
        name: what it is.
        value: in `unit`.
        target: what it should be; None: it is there for comparison.
        detail: the figures that it was made from.
    """

    benchmark: str
    name: str
    value: float
    unit: str
    target: Target | None = None
    detail: dict[str, Detail] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        return None if self.target is None else self.target.met(self.value)

    def as_json(self) -> dict[str, Any]:
        target = None if self.target is None else str(self.target)
        return {**asdict(self), "target": target, "met": self.met}

    def __str__(self) -> str:
        verdict = {None: "", True: "met", False: "MISSED"}[self.met]
        target = "" if self.target is None else f"({self.target}) {verdict}"
        details = ", ".join(f"{key} {_short(value)}" for key, value in self.detail.items())
        return f"{self.name:<52} {self.value:9.3f} {self.unit:<10} {target:<22} {details}"


class ChildFailed(Exception):
    """A child process ended, or did not answer in time."""


class Side:
    """One child process.

    Args:
        target: "module:function", called in the child as `benchmarks.child` says.
        config: handed to it.
    """

    def __init__(self, target: str, config: dict[str, Any]) -> None:
        self._target = target
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.child", target, json.dumps(config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=environment(),
            text=True,
        )
        try:
            self.ready = self._read(START_S)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, **order: Any) -> dict[str, Any]:
        """Give an order and wait for the answer.

        Raises:
            ChildFailed: the child ended, or took longer than `TURN_S`.
        """
        time.sleep(REST_S)
        stdin = self._process.stdin
        assert stdin is not None
        with contextlib.suppress(BrokenPipeError):  # then there is no answer either
            stdin.write(json.dumps(order) + "\n")
            stdin.flush()
        return self._read(TURN_S)

    def close(self) -> None:
        """End the child, by the end of its orders; by force if that does not help."""
        try:
            self._process.communicate(timeout=END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        self._stderr.close()

    def _read(self, timeout: float) -> dict[str, Any]:
        stdout = self._process.stdout
        assert stdout is not None
        watchdog = threading.Timer(timeout, self._process.kill)
        watchdog.start()
        try:
            line = stdout.readline()
        finally:
            watchdog.cancel()
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        code = self._process.wait()
        self._stderr.seek(0)
        said = self._stderr.read().decode(errors="replace").strip()[-2_000:]
        raise ChildFailed(f"{self._target} ended with status {code}: {said}")


@contextlib.contextmanager
def sides(targets: dict[str, str], **config: Any) -> Iterator[dict[str, Side]]:
    """Child processes by name, started one after the other, ended together."""
    with contextlib.ExitStack() as stack:
        yield {
            name: stack.enter_context(Side(target, config | {"side": name}))
            for name, target in targets.items()
        }


def in_turns(names: Sequence[T], turns: int) -> Iterator[tuple[int, Sequence[T]]]:
    """Number and order of each turn: every second one backwards."""
    for turn in range(turns):
        yield turn, list(names) if turn % 2 == 0 else list(reversed(names))


def environment() -> dict[str, str]:
    """A child's environment: this one's, with this tree first on the path."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path}


def percentile(values: Sequence[float], percent: float) -> float:
    """The least value that `percent` of all do not exceed (nearest rank)."""
    ranked = sorted(values)
    rank = max(-(-len(ranked) * percent // 100), 1)
    return ranked[int(rank) - 1]


def middle(values: Sequence[float]) -> float:
    """The median."""
    return statistics.median(values)


def machine() -> dict[str, Detail]:
    """What the figures were measured on."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _cpu(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "llama_cpp_python": metadata.version("llama-cpp-python"),
        "llama_cpp": _llama_build(),
        "load_average": round(os.getloadavg()[0], 2),
    }


def _llama_build() -> str:
    code = (
        "from llama_cpp import llama_cpp as l;"
        "v = l.llama_version().decode() if hasattr(l, 'llama_version') else '';"
        "print(v, l.llama_print_system_info().decode())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout.strip()


def _cpu() -> str:
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _short(value: Detail) -> str:
    if isinstance(value, list):
        return "[" + " ".join(f"{item:.4g}" for item in value) + "]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
