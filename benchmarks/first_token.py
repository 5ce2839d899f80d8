"""Time to the first token of `stream()` against two plain loops.

One loop cuts the prompt as erllama does (at multiples of 64, the rest by itself), so the
difference is what erllama costs. The other fills batches of 512, so that the difference between
the two loops is the price of rows that do not depend on the cutting.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.child import Answer, Config, Order, Orders, random_prompt
from benchmarks.harness import Figure, Options, Side, Target, in_turns, middle, percentile, sides
from benchmarks.models import BenchModel

NAME = "first_token"
TARGET = Target("below", 3.0)
LENGTHS = (16, 64, 500, 512, 1_000)
COUNT = 8
"""Tokens of a request: the stream goes on while its reader gets the first one."""

TARGETS = {
    "exact": "benchmarks.plain_loop:first_token_side",
    "batch": "benchmarks.plain_loop:first_token_side",
    "erllama": f"{__name__}:erllama_side",
}


def run(options: Options) -> list[Figure]:
    return [figure for model in options.models for figure in _measure(options, model)]


def _measure(options: Options, model: BenchModel) -> list[Figure]:
    lengths = (16, 100) if options.quick else LENGTHS
    taken: dict[int, list[dict[str, float]]] = {length: [] for length in lengths}
    for round_ in range(options.rounds_or(4)):
        with sides(TARGETS, path=str(model.path), n_ctx=model.n_ctx) as children:
            for turn, names in in_turns(tuple(TARGETS), options.times(9, 3)):
                for length in lengths:
                    milliseconds = _ask_all(children, names, length, 1_000 * round_ + turn)
                    if turn > 0:
                        taken[length].append(milliseconds)
    return [_figure(model, length, turns) for length, turns in taken.items()]


def _ask_all(
    children: dict[str, Side], names: Sequence[str], length: int, seed: int
) -> dict[str, float]:
    order = {"prompt": length, "count": COUNT, "seed": seed}
    return {name: children[name].ask(**order)["seconds"] * 1e3 for name in names}


def _figure(model: BenchModel, length: int, turns: list[dict[str, float]]) -> Figure:
    cost = [turn["erllama"] - turn["exact"] for turn in turns]
    exactness = [turn["exact"] - turn["batch"] for turn in turns]
    return Figure(
        NAME,
        f"{model.name}: stream() - plain loop, {length} tokens",
        middle(cost),
        "ms",
        TARGET,
        {
            "plain_exact_ms": middle([turn["exact"] for turn in turns]),
            "plain_batch_ms": middle([turn["batch"] for turn in turns]),
            "erllama_ms": middle([turn["erllama"] for turn in turns]),
            "price_of_exactness_ms": middle(exactness),
            "quartiles_ms": [percentile(cost, 25), percentile(cost, 75)],
            "turns": len(turns),
        },
    )


def erllama_side(orders: Orders, config: Config) -> None:
    """Child: the time from the call of `stream` to the first text in the reader's hands."""
    asyncio.run(_erllama_side(orders, config))


async def _erllama_side(orders: Orders, config: Config) -> None:
    import erllama

    async with erllama.load(
        config["path"],
        n_ctx=config["n_ctx"],
        enabled=False,  # cold prompts, whatever was before
    ) as model:
        n_vocab = model.info().n_vocab
        orders.answer({"n_vocab": n_vocab})
        while (order := await asyncio.to_thread(orders.next)) is not None:
            orders.answer(await _first_token(model, order, n_vocab))


async def _first_token(model: Any, order: Order, n_vocab: int) -> Answer:
    """Ask until the first token has a text: one that ends inside a character has none."""
    import erllama

    for attempt in range(100):
        prompt = random_prompt(order["prompt"], order["seed"] + attempt * 1_000_003, n_vocab)
        started, arrived, first = time.perf_counter(), 0.0, -1
        stream = model.stream(prompt, max_tokens=order["count"], temperature=0)
        async for event in stream:
            if not arrived and isinstance(event, erllama.Text):
                arrived, first = time.perf_counter(), event.token
        if (await stream.result()).tokens[0] == first:
            return {"seconds": arrived - started, "first": first}
    raise AssertionError("no prompt in a hundred was followed by whole text")
