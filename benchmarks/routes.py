"""How far three requests travel through the code of `erllama/model/`.

For each route: moves, which are calls that lead from one file of `erllama/model/` to another (files
elsewhere in between do not count), the files met, and the messages of classes of that package that
reach the actor past its queue: what its parts, the compute thread and timers tell it.
Counted on the event loop's thread with a deterministic engine, so the counts do not depend on the
machine; a route runs several times and the median counts. Two checkouts are compared by running
the script in each: `python -m benchmarks.routes`.
"""

from __future__ import annotations

import asyncio
import collections
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any

import erllama
from erllama import Model, Runtime
from erllama.actor.mailbox import Mailbox
from erllama.backend.stub import StubBackend

ROOM = str(pathlib.Path(erllama.__file__).parent / "model")
REPEATS = 9
Route = Callable[[Model, int], Awaitable[None]]


class Trace:
    """What the loop's thread did in `erllama/model/` while the trace was on."""

    def __init__(self) -> None:
        self.moves = 0
        self.met: collections.Counter[str] = collections.Counter()
        self.to_itself: collections.Counter[str] = collections.Counter()
        self._put = Mailbox.put_system

    def __enter__(self) -> Trace:
        trace, put = self, self._put

        def put_system(mailbox: Mailbox[Any], item: Any) -> bool:
            payload = getattr(item, "payload", item)
            if type(payload).__module__.startswith("erllama.model"):
                trace.to_itself[type(payload).__name__] += 1
            return put(mailbox, item)

        Mailbox.put_system = put_system  # type: ignore[assignment, method-assign]
        sys.setprofile(self._called)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        Mailbox.put_system = self._put  # type: ignore[method-assign]

    def _called(self, frame: FrameType, event: str, _: Any) -> None:
        own = _file(frame) if event == "call" else ""
        if not own:
            return
        self.met[own] += 1
        caller = frame.f_back
        while caller is not None and not _file(caller):
            caller = caller.f_back
        if caller is not None and _file(caller) != own:
            self.moves += 1


def _file(frame: FrameType) -> str:
    path = frame.f_code.co_filename
    return path[len(ROOM) + 1 :] if path.startswith(ROOM) else ""


def _prompt(n: int) -> list[int]:
    return [n % 200, *(i % 199 for i in range(369))]


async def to_first_event(model: Model, n: int) -> None:
    """A prompt of 370 tokens to its first event."""
    stream = model.stream(_prompt(n), max_tokens=1, temperature=0)
    await anext(stream)
    await stream.aclose()


async def to_disk(model: Model, n: int) -> None:
    """A request of one token, until its rows are on disk."""
    await model.complete(_prompt(n), max_tokens=1, temperature=0)
    await model.evict()


async def cancelled(model: Model, n: int) -> None:
    """A request that is cancelled while its prompt is computed."""
    stream = model.stream(_prompt(n), max_tokens=5, temperature=0, prefill_progress=True)
    await anext(stream)
    await stream.aclose()


ROUTES: dict[str, tuple[Route, dict[str, Any]]] = {
    "a prompt of 370 tokens to its first event": (to_first_event, {}),
    "a finished request to its row on disk": (to_disk, {}),
    "a cancel in mid-prefill": (cancelled, {"n_batch": 64, "n_ubatch": 64}),
}


async def trace(route: Route, context: dict[str, Any]) -> tuple[float, int, float, set[str]]:
    """Moves, files met, messages between the parts of an actor, and their kinds."""
    moves, sent = [], []
    met: set[str] = set()
    kinds: set[str] = set()
    with tempfile.TemporaryDirectory() as folder:
        async with Runtime(backend=StubBackend, cache_dir=folder) as runtime:
            model = await runtime.load_model("stub.gguf", n_ctx=1_024, **context)
            await route(model, 0)
            for n in range(1, REPEATS + 1):
                with Trace() as traced:
                    await route(model, n)
                moves.append(traced.moves)
                sent.append(traced.to_itself.total())
                kinds |= set(traced.to_itself)
                met |= set(traced.met)
    return statistics.median(moves), len(met), statistics.median(sent), kinds


def main() -> None:
    """Print the counts."""
    for name, (route, context) in ROUTES.items():
        moves, files, sent, kinds = asyncio.run(trace(route, context))
        print(f"{name}: {moves:g} moves between {files} files, {sent:g} messages")
        print(f"  {', '.join(sorted(kinds))}")


if __name__ == "__main__":
    main()
