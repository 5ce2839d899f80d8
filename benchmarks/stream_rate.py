"""Tokens per second of `stream()` against the plain loop.

Both generate the same number of tokens after a prompt of 64; the time runs from the first token
to the last, as the reader gets them. Greedily both must produce the same tokens.
"""

from __future__ import annotations

import asyncio
import operator
import time
from typing import Any

from benchmarks.child import Answer, Config, Order, Orders, Rate, random_prompt
from benchmarks.harness import Figure, Options, Target, in_turns, middle, sides
from benchmarks.models import BenchModel

NAME = "stream_rate"
TARGET = Target("at least", 0.97)
PROMPT = 64
COUNT = 256
SAMPLINGS: dict[str, dict[str, Any]] = {"greedy": {"temperature": 0}, "default": {}}


def run(options: Options) -> list[Figure]:
    return [
        _measure(options, model, sampling) for model in options.models for sampling in SAMPLINGS
    ]


def _measure(options: Options, model: BenchModel, sampling: str) -> Figure:
    ratios: list[float] = []
    usual: list[float] = []
    rates: dict[str, list[float]] = {"plain": [], "erllama": []}
    same = True
    count = options.times(COUNT, 8)
    for round_ in range(options.rounds_or(5)):
        with sides(
            {"plain": "benchmarks.plain_loop:rate_side", "erllama": f"{__name__}:erllama_side"},
            path=str(model.path),
            n_ctx=model.n_ctx,
        ) as pair:
            order = {"prompt": PROMPT, "count": count, "at_least": 3 * count // 4}
            for turn, names in in_turns(("plain", "erllama"), options.times(9, 2)):
                seed = 1_000 * round_ + turn
                got = {
                    name: pair[name].ask(**order, sampling=sampling, seed=seed) for name in names
                }
                if turn == 0:  # caches, pages and branch predictors are warmer from here on
                    continue
                plain, ours = got["plain"], got["erllama"]
                rates["plain"].append(plain["rate"])
                rates["erllama"].append(ours["rate"])
                ratios.append(ours["rate"] / plain["rate"])
                usual.append(plain["interval"] / ours["interval"])
                same = same and all(map(operator.eq, plain["texts"], ours["texts"]))
    detail: dict[str, Any] = {
        "plain": middle(rates["plain"]),
        "erllama": middle(rates["erllama"]),
        "by_median_interval": middle(usual),
        "turns": len(ratios),
        "spread": [min(ratios), max(ratios)],
    }
    if sampling == "greedy":
        detail["same_tokens"] = str(same)
    return Figure(
        NAME,
        f"{model.name}: stream()/plain loop, {sampling}",
        middle(ratios),
        "of rate",
        TARGET if model.name == "m125" else None,
        detail,
    )


def erllama_side(orders: Orders, config: Config) -> None:
    """Child: the rate of a stream's tokens after the first one."""
    asyncio.run(_erllama_side(orders, config))


async def _erllama_side(orders: Orders, config: Config) -> None:
    import erllama

    async with erllama.load(config["path"], n_ctx=config["n_ctx"]) as model:
        n_vocab = model.info().n_vocab
        orders.answer({"n_vocab": n_vocab})
        while (order := await asyncio.to_thread(orders.next)) is not None:
            orders.answer(await stream_rate(model, order, n_vocab))


async def stream_rate(model: Any, order: Order, n_vocab: int) -> Answer:
    """Read one stream as fast as it comes.

    Returns:
        What `Rate.answer` says.
    """
    import erllama

    options = SAMPLINGS[order["sampling"]]
    rate = Rate()
    while rate.tokens < order["at_least"]:
        prompt = random_prompt(order["prompt"], rate.seed(order), n_vocab)
        stream = model.stream(prompt, max_tokens=order["count"], **options)
        times: list[float] = []
        first = None
        async for event in stream:  # texts, and Done with the last token
            times.append(time.perf_counter())
            first = event if first is None else first
        text: list[int] = (await stream.result()).tokens
        # a token that ends inside a character has no text of its own
        silent = text.index(first.token) if isinstance(first, erllama.Text) else len(text) - 1
        rate.add(text, len(text) - 1 - silent, times)
    return rate.answer()
