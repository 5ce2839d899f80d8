"""The test kit that ships: a clock that stands still, probes, and checks on tasks and the loop."""

from __future__ import annotations

import asyncio
import gc
import heapq
import itertools
import time
from asyncio import events
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

from erllama.actor.actor import Actor
from erllama.actor.message import Down, ReplyTo

MOST_TURNS = 100_000


class ManualTimer:
    """A timer of `ManualClock`."""

    __slots__ = ("callback", "due")

    def __init__(self, due: float, callback: Callable[[], object]) -> None:
        self.due = due
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        self.callback = None


class ManualClock:
    """A clock that moves only when told to."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        self._timers: list[tuple[float, int, ManualTimer]] = []
        self._order = itertools.count()

    def now(self) -> float:
        return self._now

    def call_later(self, delay: float, callback: Callable[[], object]) -> ManualTimer:
        timer = ManualTimer(self._now + max(delay, 0.0), callback)
        heapq.heappush(self._timers, (timer.due, next(self._order), timer))
        return timer

    @property
    def pending(self) -> int:
        """Timers that have neither run nor been cancelled."""
        return sum(timer.callback is not None for _, _, timer in self._timers)

    async def advance(self, seconds: float) -> None:
        """Move on by `seconds`: run each due timer at its time and let the loop settle after it."""
        await settle()
        target = self._now + seconds
        while self._timers and self._timers[0][0] <= target:
            due, _, timer = heapq.heappop(self._timers)
            callback, timer.callback = timer.callback, None
            if callback is not None:
                self._now = max(self._now, due)
                callback()
                await settle()
        self._now = target


async def settle() -> None:
    """Let the loop run until no callback is ready. Neither timers nor threads are waited for.

    Raises:
        RuntimeError: the loop never comes to rest.
    """
    loop = asyncio.get_running_loop()
    if not isinstance(loop, asyncio.BaseEventLoop):  # another loop: no look inside, just turns
        for _ in range(100):
            await asyncio.sleep(0)
        return
    ready: Any = loop._ready  # type: ignore[attr-defined]
    for _ in range(MOST_TURNS):
        await asyncio.sleep(0)
        if not ready:
            return
    raise RuntimeError(f"the event loop did not come to rest in {MOST_TURNS} turns")


@asynccontextmanager
async def no_orphan_tasks() -> AsyncIterator[None]:
    """Check that the block leaves no asyncio task behind.

    Raises:
        AssertionError: tasks are left; it names them.
    """
    before = asyncio.all_tasks()
    yield
    await settle()
    # As a fixture this ends in another task than it began in, and that one is no orphan.
    current = {asyncio.current_task()}
    left = sorted(task.get_name() for task in asyncio.all_tasks() - before - current)
    if left:
        raise AssertionError(f"{len(left)} tasks were left behind: {', '.join(left)}")


@contextmanager
def forbid_blocked_loop(limit: float = 0.05) -> Iterator[None]:
    """Check that no callback of an event loop burns more than `limit` seconds of CPU time.

    It is the CPU time of the loop's thread that counts, so a busy machine makes no false alarm;
    a thread that merely sleeps makes none either. Garbage collection is not counted. A task's
    step, from one await to the next, is one callback.

    Raises:
        AssertionError: at the end of the block; it names the callbacks and the milliseconds.
    """
    burnt: list[tuple[str, float]] = []
    collecting = _CollectorTime()
    original = events.Handle._run

    def run(handle: Any) -> None:
        collected, begin = collecting.seconds, time.thread_time()
        try:
            original(handle)
        finally:
            spent = time.thread_time() - begin - (collecting.seconds - collected)
            if spent > limit:
                burnt.append((callback_name(handle), spent))

    events.Handle._run = run  # type: ignore[method-assign, assignment]
    gc.callbacks.append(collecting)
    try:
        yield
    finally:
        gc.callbacks.remove(collecting)
        events.Handle._run = original  # type: ignore[method-assign]
    if burnt:
        lines = "; ".join(f"{name} burnt {spent * 1000:.0f} ms" for name, spent in burnt)
        raise AssertionError(f"the event loop was blocked for over {limit * 1000:.0f} ms: {lines}")


class _CollectorTime:
    """Seconds of this thread's CPU time that went into garbage collection."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._begin = 0.0

    def __call__(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._begin = time.thread_time()
        else:
            self.seconds += time.thread_time() - self._begin


def callback_name(handle: events.Handle) -> str:
    """What a handle of the event loop runs: a task and its coroutine, or a function."""
    callback: Any = handle._callback  # type: ignore[attr-defined]
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        coro = owner.get_coro()
        return f"task {owner.get_name()!r} ({getattr(coro, '__qualname__', coro)})"
    return str(getattr(callback, "__qualname__", callback))


# Payloads that a Probe understands


@dataclass(frozen=True, slots=True)
class Crash:
    """Raise this error."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class Hang:
    """Never return from the handler; ignore `swallow` cancellations."""

    swallow: int = 0


@dataclass(frozen=True, slots=True)
class Exit:
    """Stop with this reason."""

    reason: object = "normal"


async def hang(swallow: int = 0) -> None:
    """Never return, and ignore the first `swallow` cancellations."""
    while True:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            if swallow == 0:
                raise
            swallow -= 1


class Probe(Actor):
    """An actor that writes down what happens to it and does what it is told to.

    It answers a call with the call's own payload, except for `Crash`, `Hang` and `Exit`, which it
    also takes as casts and urgent messages. An exception as payload of a call is raised.

    Args:
        journal: where to write; shared by several probes, it shows the order among them.
        label: how the probe calls itself there.

    Attributes:
        journal: entries such as ("init", label), ("call", label, payload), ("down", label, down).
    """

    def __init__(self, journal: list[tuple[Any, ...]] | None = None, label: str = "probe") -> None:
        self.journal = [] if journal is None else journal
        self.label = label

    def heard(self, kind: str) -> list[Any]:
        """The payloads of all entries of one kind, in order."""
        return [entry[2] for entry in self.journal if entry[0] == kind and len(entry) > 2]

    async def init(self) -> None:
        self.journal.append(("init", self.label))

    async def handle_call(self, payload: Any, reply: ReplyTo) -> Any:
        self.journal.append(("call", self.label, payload))
        await self._obey(payload)
        return payload

    async def handle_cast(self, payload: Any) -> None:
        self.journal.append(("cast", self.label, payload))
        await self._obey(payload)

    async def handle_urgent(self, payload: Any) -> None:
        self.journal.append(("urgent", self.label, payload))
        await self._obey(payload)

    async def handle_down(self, down: Down) -> None:
        self.journal.append(("down", self.label, down))

    async def terminate(self, reason: object) -> None:
        self.journal.append(("terminate", self.label, reason))

    async def _obey(self, payload: object) -> None:
        match payload:
            case Crash(error):
                raise error
            case Hang(swallow):
                await hang(swallow)
            case Exit(reason):
                self.stop_self(reason)
            case Exception():
                raise payload


class CrashingActor(Probe):
    """A probe whose `init` raises `error`."""

    def __init__(
        self,
        error: BaseException,
        journal: list[tuple[Any, ...]] | None = None,
        label: str = "crashing",
    ) -> None:
        super().__init__(journal, label)
        self.error = error

    async def init(self) -> None:
        await super().init()
        raise self.error
