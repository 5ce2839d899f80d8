"""The longest gap of a stream, with and without grammars beside it that take long to follow.

One process, in turns: the stream alone; beside eight clients that send a grammar of many readings
again and again, with a timeout of a second (it is refused at admission, by the steps that it
takes); and beside one request with a grammar that stays within its steps, and whose masks take
long. Each text of a grammar is a new one, so nothing is remembered of it. The model leaves a core
to what is measured here: what compiles would take the time of its threads otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from benchmarks.child import Answer, Config, Order, Orders
from benchmarks.harness import Figure, Options, Side, Target, in_turns, middle
from benchmarks.models import BenchModel

NAME = "grammar_company"
COUNT = 128
CLIENTS = 8
TIMEOUT_S = 1.0
REFUSED = "root ::= (" + ".? " * 10 + '){0,140} "z"'
FOLLOWED = 'root ::= ([a-z]? ){60} "!"'
COMPANY = {"alone": ("", 0), "refused": (REFUSED, CLIENTS), "followed": (FOLLOWED, 1)}
TARGETS = {"refused": Target("below", 1.5), "followed": None}


def run(options: Options) -> list[Figure]:
    return [figure for model in options.models for figure in _measure(options, model)]


def _measure(options: Options, model: BenchModel) -> list[Figure]:
    got: dict[str, list[Answer]] = {name: [] for name in COMPANY}
    config = {"path": str(model.path), "n_ctx": model.n_ctx, "side": "erllama"}
    order = {"count": options.times(COUNT, 16)}
    for _ in range(options.rounds_or(2)):
        with Side(f"{__name__}:erllama_side", config) as side:
            for turn, names in in_turns(tuple(COMPANY), options.times(6, 2)):
                answers = {name: side.ask(**order, company=name, seed=turn) for name in names}
                if turn:
                    for name, answer in answers.items():
                        got[name].append(answer)
    return [_figure(model, name, got) for name in TARGETS]


def _figure(model: BenchModel, name: str, got: dict[str, list[Answer]]) -> Figure:
    alone = [one["gap"] for one in got["alone"]]
    beside = [one["gap"] for one in got[name]]
    ratios = [one / other for one, other in zip(beside, alone, strict=True)]
    detail: dict[str, Any] = {
        "beside_ms": middle(beside) * 1e3,
        "alone_ms": middle(alone) * 1e3,
        "worst_beside_ms": max(beside) * 1e3,
        "worst_alone_ms": max(alone) * 1e3,
        "median_gap_beside_ms": middle([one["median"] for one in got[name]]) * 1e3,
        "median_gap_alone_ms": middle([one["median"] for one in got["alone"]]) * 1e3,
        "requests": sum(one["requests"] for one in got[name]),
        "turns": len(ratios),
        "spread": [min(ratios), max(ratios)],
    }
    what = f"{model.name}: longest gap, beside {name} grammars/alone"
    return Figure(NAME, what, middle(ratios), "times", TARGETS[name], detail)


def erllama_side(orders: Orders, config: Config) -> None:
    """Child: a stream, alone or beside grammars."""
    asyncio.run(_erllama_side(orders, config))


async def _erllama_side(orders: Orders, config: Config) -> None:
    import erllama

    async with erllama.Runtime() as runtime:
        model = await runtime.load_model(
            config["path"],
            n_ctx=config["n_ctx"],
            n_seq_max=CLIENTS + 2,
            n_threads=max(1, len(os.sched_getaffinity(0)) - 1),
        )
        orders.answer({})
        new = itertools.count(1)
        while (order := await asyncio.to_thread(orders.next)) is not None:
            async with _company(model, *COMPANY[order["company"]], new) as requests:
                answer = await _gaps(model, order)
            orders.answer({**answer, "requests": requests[0]})


async def _gaps(model: Any, order: Order) -> Answer:
    from erllama.types import Text

    stream = model.stream(
        "The stream", max_tokens=order["count"], seed=order["seed"], ignore_eos=True
    )
    times = [time.perf_counter() async for event in stream if isinstance(event, Text)]
    gaps = [after - before for before, after in itertools.pairwise(times)]
    return {"gap": max(gaps), "median": middle(gaps)}


@contextlib.asynccontextmanager
async def _company(
    model: Any, grammar: str, clients: int, new: Iterator[int]
) -> AsyncIterator[list[int]]:
    """So many clients that ask again and again; gives how often they did."""
    import erllama

    asked = [0]
    over = False

    async def ask_again() -> None:
        while not over:
            asked[0] += 1
            text = f"{grammar}\nr{next(new)} ::= [a]"
            with contextlib.suppress(erllama.ErllamaError):
                await model.complete("x", grammar=text, max_tokens=64, timeout=TIMEOUT_S)

    tasks = [asyncio.create_task(ask_again()) for _ in range(clients)]
    try:
        yield asked
    finally:
        over = True
        await asyncio.gather(*tasks)
