"""How fast a request in mid-prefill ends, and what the next request notices of it.

A prompt of 4,096 tokens (less if the context is shorter) is cancelled at a random moment of its
prefill, in turns by `Stream.cancel()` and by cancelling the reading task.

    idle    from the cancel until the model's status shows no active request
    next    from the cancel to the first token of a short request made right after it, less what
            that request takes on an idle model
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from typing import Any

from benchmarks.child import Answer, Config, Order, Orders, random_prompt
from benchmarks.harness import Figure, Options, Side, Target, middle, percentile, sides
from benchmarks.models import BenchModel

NAME = "cancel_latency"
TARGET = Target("below", 60.0)
LONG = 4_096
SHORT = 16
MEASURES = ("idle", "next")


def run(options: Options) -> list[Figure]:
    return [figure for model in options.models for figure in _measure(options, model)]


def _measure(options: Options, model: BenchModel) -> list[Figure]:
    long = min(LONG, model.n_ctx - 1)
    taken: dict[str, list[float]] = {measure: [] for measure in MEASURES}
    prefill: list[float] = []
    own: list[float] = []
    too_late = 0
    for round_ in range(options.rounds_or(3)):
        moments = random.Random(round_)
        with sides(
            {"erllama": f"{__name__}:erllama_side"},
            path=str(model.path),
            n_ctx=model.n_ctx,
            long=long,
        ) as children:
            child = children["erllama"]
            prefill.append(child.ready["prefill"] * 1e3)
            own.append(child.ready["own"] * 1e3)
            for turn in range(options.times(40, 8)):
                measure = MEASURES[turn // 2 % 2]
                order = {
                    "by_task": bool(turn % 2),
                    "measure": measure,
                    "seed": 1_000 * round_ + turn,
                }
                got, late = _in_time(child, moments.random() * child.ready["prefill"], order)
                taken[measure].append(got["seconds"] * 1e3)
                too_late += late
    detail: dict[str, Any] = {
        "prompt": long,
        "prefill_ms": middle(prefill),
        "short_request_ms": middle(own),
        "came_too_late": too_late,
    }
    return [
        _figure(f"{model.name}: p99, cancel to idle", taken["idle"], detail),
        _figure(f"{model.name}: p99, cancel to next first token", taken["next"], detail),
    ]


def _in_time(child: Side, after: float, order: Order) -> tuple[Answer, int]:
    """Cancel before the prompt is done; also how often it was by then, and was asked again."""
    late = 0
    while (got := child.ask(after=after, **order))["done"]:  # faster than when it was timed
        after /= 2
        late += 1
    return got, late


def _figure(name: str, values: list[float], detail: dict[str, Any]) -> Figure:
    spread = {"median": middle(values), "worst": max(values), "cancels": len(values)}
    return Figure(NAME, name, percentile(values, 99), "ms", TARGET, {**spread, **detail})


def erllama_side(orders: Orders, config: Config) -> None:
    """Child: cancels long prompts."""
    asyncio.run(_erllama_side(orders, config))


async def _erllama_side(orders: Orders, config: Config) -> None:
    import erllama

    async with erllama.load(
        config["path"],
        n_ctx=config["n_ctx"],
        enabled=False,  # cold prompts, whatever was before
    ) as model:
        n_vocab = model.info().n_vocab
        long = random_prompt(config["long"], 0, n_vocab)
        await _first(model, long[:64])
        prefill = await _first(model, long)
        own = [await _first(model, random_prompt(SHORT, seed, n_vocab)) for seed in range(9)]
        orders.answer({"prefill": prefill, "own": middle(own)})
        while (order := await asyncio.to_thread(orders.next)) is not None:
            seconds, done = await _cancel(model, order, config["long"], n_vocab)
            if order["measure"] == "next":
                seconds -= middle(own)
            orders.answer({"seconds": seconds, "done": done})


async def _cancel(model: Any, order: Order, length: int, n_vocab: int) -> tuple[float, bool]:
    """Seconds from the cancel, and whether the long request was over before it."""
    long = random_prompt(length, order["seed"], n_vocab)
    short = random_prompt(SHORT, order["seed"] + 1, n_vocab)
    stream = model.stream(long, max_tokens=1, temperature=0)
    reader = asyncio.create_task(stream.result())
    await asyncio.sleep(order["after"])
    done = reader.done()
    cancelled = time.perf_counter()
    if order["by_task"]:
        reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reader
    else:
        await stream.cancel()
    if order["measure"] == "next":
        await _first(model, short)
    else:
        while model.status().active:  # noqa: ASYNC110 - there is nothing else to wait for
            await asyncio.sleep(0.0005)
    return time.perf_counter() - cancelled, done


async def _first(model: Any, prompt: list[int]) -> float:
    """Seconds until the first token."""
    started = time.perf_counter()
    async for _ in model.stream(prompt, max_tokens=1, temperature=0):
        break
    return time.perf_counter() - started
