"""Programs that end in the middle of a stream, each in its own way. Run in a child process.

Arguments: the way to end, "stub" or the path of a model. Each prints "streaming" before its end.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from erllama import Runtime, Stream
from erllama.backend.stub import StubBackend


async def streaming(model_path: str) -> tuple[Runtime, Stream, asyncio.Task[None]]:
    """A started runtime with a stream that is being read, and a long prompt that waits."""
    stub = model_path == "stub"
    runtime = Runtime(backend=StubBackend) if stub else Runtime()
    await runtime.start()
    model = await runtime.load_model(model_path, n_ctx=4_096, n_threads=1)
    stream = model.stream("hello")
    await anext(stream)
    reading = asyncio.create_task(read(stream))
    waiting = model.stream([1] * 4_000)
    await waiting.__aenter__()
    await asyncio.sleep(0)
    print("streaming", flush=True)
    globals()["kept"] = waiting
    return runtime, stream, reading


async def read(stream: Stream) -> None:
    async for _ in stream:
        pass


async def returns(path: str) -> None:
    await streaming(path)


async def raises(path: str) -> None:
    await streaming(path)
    raise LookupError("the program failed")


async def exits(path: str) -> None:
    await streaming(path)
    sys.exit(3)


async def interrupted(path: str) -> None:
    await streaming(path)
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.get_running_loop().create_future()


async def loads(path: str) -> None:
    """Ends while a model is being loaded."""
    runtime = Runtime(backend=StubBackend) if path == "stub" else Runtime()
    await runtime.start()
    globals()["kept"] = asyncio.create_task(runtime.load_model(path))
    await asyncio.sleep(0)
    print("streaming", flush=True)


async def stopped(path: str) -> None:
    runtime, _, reading = await streaming(path)
    await runtime.stop()
    await asyncio.gather(reading, return_exceptions=True)


def main(way: str, path: str) -> Any:
    """End in this way."""
    # a shell starts what runs in the background with Ctrl-C ignored, and that is inherited
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if way == "closes_the_loop":
        loop = asyncio.new_event_loop()
        globals()["held"] = loop.run_until_complete(streaming(path))
        loop.close()
        return
    if way == "leaves_the_loop_open":
        loop = asyncio.new_event_loop()
        globals()["held"] = loop, loop.run_until_complete(streaming(path))
        return
    asyncio.run(WAYS[way](path))


WAYS: dict[str, Callable[[str], Coroutine[Any, Any, None]]] = {
    "returns": returns,
    "raises": raises,
    "exits": exits,
    "interrupted": interrupted,
    "loads": loads,
    "stopped": stopped,
}
