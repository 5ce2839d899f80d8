"""Tokens per second of a stream while a second model is being loaded and hashed.

Two processes with the same stream: in one it is alone; in the other a copy of the model is loaded,
hashed and unloaded again and again, from before the first token until after the last. The copy
differs in its last bytes, and its modification time is new at every load, so that no hash is
remembered.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import AsyncIterator
from typing import Any

from benchmarks.child import Answer, Config, Order, Orders
from benchmarks.harness import Figure, Options, Target, in_turns, middle, sides
from benchmarks.models import BenchModel
from benchmarks.stream_rate import PROMPT, stream_rate

NAME = "load_company"
TARGET = Target("at least", 0.8)
COUNT = 512
SIDES = ("alone", "company")


def run(options: Options) -> list[Figure]:
    return [_measure(options, model) for model in options.models]


def _measure(options: Options, model: BenchModel) -> Figure:
    ratios: list[float] = []
    rates: dict[str, list[float]] = {name: [] for name in SIDES}
    loads = 0
    count = options.times(COUNT, 8)
    order = {"prompt": PROMPT, "count": count, "at_least": 3 * count // 4, "sampling": "greedy"}
    for round_ in range(options.rounds_or(3)):
        with sides(
            dict.fromkeys(SIDES, f"{__name__}:erllama_side"),
            path=str(model.path),
            n_ctx=model.n_ctx,
        ) as pair:
            for turn, names in in_turns(SIDES, options.times(5, 2)):
                got = {name: pair[name].ask(**order, seed=1_000 * round_ + turn) for name in names}
                if turn == 0:
                    continue
                for name, answer in got.items():
                    rates[name].append(answer["rate"])
                ratios.append(rates["company"][-1] / rates["alone"][-1])
                loads += got["company"]["loads"]
    return Figure(
        NAME,
        f"{model.name}: stream beside loading/alone",
        middle(ratios),
        "of rate",
        TARGET,
        {
            "alone": middle(rates["alone"]),
            "beside_loading": middle(rates["company"]),
            "turns": len(ratios),
            "loads": loads,
            "spread": [min(ratios), max(ratios)],
        },
    )


def erllama_side(orders: Orders, config: Config) -> None:
    """Child: streams, alone or beside loading."""
    asyncio.run(_erllama_side(orders, config))


async def _erllama_side(orders: Orders, config: Config) -> None:
    import erllama

    async with erllama.Runtime() as runtime:
        model = await runtime.load_model(config["path"], n_ctx=config["n_ctx"])
        n_vocab = model.info().n_vocab
        with tempfile.TemporaryDirectory() as folder:
            copy = _copy(config["path"], folder)
            orders.answer({"n_vocab": n_vocab})
            while (order := await asyncio.to_thread(orders.next)) is not None:
                if config["side"] == "alone":
                    orders.answer(await stream_rate(model, order, n_vocab))
                else:
                    orders.answer(await _beside_loading(runtime, model, order, n_vocab, copy))


def _copy(path: str, folder: str) -> pathlib.Path:
    copy = pathlib.Path(shutil.copy(path, folder))
    with copy.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    return copy


async def _beside_loading(
    runtime: Any, model: Any, order: Order, n_vocab: int, copy: pathlib.Path
) -> Answer:
    async with _loading(runtime, copy) as loads:
        answer = await stream_rate(model, order, n_vocab)
        # the load that began before the last token counts
        return {**answer, "loads": loads[0]}


@contextlib.asynccontextmanager
async def _loading(runtime: Any, copy: pathlib.Path) -> AsyncIterator[list[int]]:
    """Load and unload `copy` all the time; gives how often that began."""
    begun = [0]
    over = False
    first = asyncio.Event()

    async def load_again() -> None:
        while not over:
            begun[0] += 1
            first.set()
            os.utime(copy)
            other = await runtime.load_model(copy, model_id="other", n_ctx=1_024)
            await other.unload()

    task = asyncio.create_task(load_again())
    await first.wait()
    try:
        yield begun
    finally:
        over = True
        await task
