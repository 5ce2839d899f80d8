"""Programs that fill a cache folder until they are killed. Run in a child process.

They say on stdout what they know: "+name" for a row that is on disk and will not be superseded,
"missing n bad n" about what an earlier one had said, "wrong" for an answer that is not right.
"""

from __future__ import annotations

import asyncio
import os
import pathlib
import random
import signal
import sys
from collections.abc import Callable
from typing import Any

from erllama import Model, Runtime
from erllama.backend.stub import StubBackend
from erllama.cache.publish import Stage
from tests.cache_runtime.rig import new_row, rig


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def publish_until(root: str, stage: str) -> None:
    """Publish three rows, and die while the fourth passes `stage`."""

    def at(passed: Stage) -> None:
        if armed and passed == stage:
            os.kill(os.getpid(), signal.SIGKILL)

    async def run() -> None:
        async with rig(pathlib.Path(root), at=at) as made:
            for i in range(3):
                await made.keep(new_row([i + 1] * 100))
            armed.append(True)
            await made.keep(new_row([4] * 100))

    armed: list[bool] = []
    asyncio.run(run())


def hold(root: str) -> None:
    """Have a cache folder open until stdin ends."""

    async def run() -> None:
        async with rig(pathlib.Path(root)) as made:
            await made.keep(new_row([1] * 100))
            say("open")
            await asyncio.to_thread(sys.stdin.read)

    asyncio.run(run())


def fill(root: str, seed: str, model_path: str) -> None:
    """Fill a folder as fast as can be; first look at what earlier runs said they had kept."""
    stub = model_path == "stub"
    known = [line.strip() for line in sys.stdin]
    options: dict[str, Any] = {"backend": StubBackend} if stub else {}

    async def run() -> None:
        async with Runtime(cache_dir=root, **options) as runtime:
            names = {row.id.name for row in runtime.view.index}
            report = await runtime.cache.verify()
            corrupt = runtime.cache.counters().corrupt_rows
            say(f"missing {len(set(known) - names)} bad {report.bad + corrupt}")
            cached = await runtime.load_model(model_path, model_id="cached", n_threads=1)
            plain = await runtime.load_model(
                model_path, model_id="plain", enabled=False, n_threads=1
            )
            await keep_going(runtime, cached, plain, random.Random(int(seed)), set(known))

    asyncio.run(run())


async def keep_going(
    runtime: Runtime, cached: Model, plain: Model, chance: random.Random, told: set[str]
) -> None:
    """Ask for ever, and tell of rows that nobody was told of: kills come while rows are made."""
    while True:
        # few prompts, so that later runs hit what earlier ones have kept
        first = random.Random(chance.randrange(300))
        tokens = [first.randrange(3, 250) for _ in range(200 + first.randrange(400))]
        done = await cached.complete(tokens, max_tokens=3, temperature=0)
        right = await plain.complete(tokens, max_tokens=3, temperature=0)
        if done.tokens != right.tokens:
            say(f"wrong {done.cache}")
        say(f"hit {done.cache.hit}")
        for row in list(runtime.view.index):
            lasting = row.n_tokens == 256 or row.has_logits
            if "disk" in row.tiers and lasting and row.id.name not in told:
                told.add(row.id.name)
                say(f"+{row.id.name}")


PROGRAMS: dict[str, Callable[..., None]] = {
    "publish_until": publish_until,
    "hold": hold,
    "fill": fill,
}


def main(name: str, *args: str) -> None:
    PROGRAMS[name](*args)
