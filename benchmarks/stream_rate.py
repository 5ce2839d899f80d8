"""Tokens per second of `stream()` against the plain loop.

All generate the same number of tokens after a prompt of 64; the time runs from the first token to
the last, as the reader gets them. Greedily all must produce the same tokens.

`handed` is the plain loop on a thread whose tokens an event loop reads: how much of the distance
to the plain loop any program pays that computes beside its event loop.

Where as many threads compute as there are cores, the event loop's work is taken from theirs. So the
same is measured once more with a core to spare, one thread less on both sides.
"""

from __future__ import annotations

import asyncio
import operator
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.child import Answer, Config, Order, Orders, Rate, random_prompt
from benchmarks.harness import Figure, Options, Target, in_turns, middle, sides
from benchmarks.models import BenchModel

NAME = "stream_rate"
TARGET = Target("at least", 0.97)
PROMPT = 64
COUNT = 256
SAMPLINGS: dict[str, dict[str, Any]] = {"greedy": {"temperature": 0}, "default": {}}


SIDES = {
    "plain": "benchmarks.plain_loop:rate_side",
    "handed": "benchmarks.handed_loop:rate_side",
    "erllama": f"{__name__}:erllama_side",
}


def run(options: Options) -> list[Figure]:
    return [
        figure
        for model in options.models
        for sampling in SAMPLINGS
        for figure in (
            *_figures(model, sampling, _measure(options, model, sampling)),
            *_spare_core(options, model, sampling),
        )
    ]


def _spare_core(options: Options, model: BenchModel, sampling: str) -> Iterator[Figure]:
    """With one thread less than there are cores, where that leaves any."""
    threads = len(os.sched_getaffinity(0)) - 1
    if threads:
        names = ("plain", "erllama")
        turns = _measure(options, model, sampling, names, n_threads=threads)
        name = f"{model.name}: stream()/plain loop, {sampling}, a core to spare"
        yield _ratio(name, "erllama", "plain", turns, None)


def _measure(
    options: Options,
    model: BenchModel,
    sampling: str,
    names: Sequence[str] = tuple(SIDES),
    **config: Any,
) -> list[dict[str, Answer]]:
    """What each side answers, turn by turn.

    Args:
        config: of the sides, beside the model and its context.
    """
    targets = {name: SIDES[name] for name in names}
    turns: list[dict[str, Answer]] = []
    count = options.times(COUNT, 8)
    order = {"prompt": PROMPT, "count": count, "at_least": 3 * count // 4, "sampling": sampling}
    for round_ in range(options.rounds_or(5)):
        with sides(targets, path=str(model.path), n_ctx=model.n_ctx, **config) as children:
            for turn, order_of_sides in in_turns(names, options.times(9, 2)):
                seed = 1_000 * round_ + turn
                got = {name: children[name].ask(**order, seed=seed) for name in order_of_sides}
                if turn > 0:  # caches, pages and branch predictors are warmer from here on
                    turns.append(got)
    return turns


def _figures(model: BenchModel, sampling: str, turns: list[dict[str, Answer]]) -> Iterator[Figure]:
    target = TARGET if model.name == "m125" else None
    for side, against, wanted in (
        ("erllama", "plain", target),
        ("erllama", "handed", None),
        ("handed", "plain", None),
    ):
        name = f"{side}/{against} loop, {sampling}".replace("erllama", "stream()")
        yield _ratio(f"{model.name}: {name}", side, against, turns, wanted)


def _ratio(
    name: str, side: str, against: str, turns: list[dict[str, Answer]], target: Target | None
) -> Figure:
    ratios = [turn[side]["rate"] / turn[against]["rate"] for turn in turns]
    usual = [turn[against]["interval"] / turn[side]["interval"] for turn in turns]
    same = all(all(map(operator.eq, turn[side]["texts"], turn[against]["texts"])) for turn in turns)
    detail: dict[str, Any] = {
        **{one: middle([turn[one]["rate"] for turn in turns]) for one in (side, against)},
        "by_median_interval": middle(usual),
        "turns": len(ratios),
        "spread": [min(ratios), max(ratios)],
    }
    if "greedy" in name:
        detail["same_tokens"] = str(same)
    return Figure(NAME, name, middle(ratios), "of rate", target, detail)


def erllama_side(orders: Orders, config: Config) -> None:
    """Child: the rate of a stream's tokens after the first one."""
    asyncio.run(_erllama_side(orders, config))


async def _erllama_side(orders: Orders, config: Config) -> None:
    import erllama

    context = {"n_ctx": config["n_ctx"], "n_threads": config.get("n_threads")}
    async with erllama.load(config["path"], **context) as model:
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
