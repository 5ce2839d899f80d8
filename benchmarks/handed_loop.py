"""The plain loop on a thread, its tokens read from an event loop.

The least that a program does which computes beside its event loop: no scheduler, no cancelling, no
cache, no checks; each token goes through `call_soon_threadsafe` into a queue. What lies between
this and the plain loop is the price of asyncio on this machine, not of erllama.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

from benchmarks.child import Answer, Config, Order, Orders, Rate, random_prompt
from benchmarks.plain_loop import PlainLoop, exact_slices


def rate_side(orders: Orders, config: Config) -> None:
    """Child: the rate of the tokens after the first one, as the event loop gets them."""
    asyncio.run(_rate_side(orders, config))


async def _rate_side(orders: Orders, config: Config) -> None:
    handed = HandedLoop()
    orders.answer({"n_vocab": await handed.open(config)})
    while (order := await asyncio.to_thread(orders.next)) is not None:
        orders.answer(await _rate(handed, order))


async def _rate(handed: HandedLoop, order: Order) -> Answer:
    rate = Rate()
    while rate.tokens < order["at_least"]:
        times: list[float] = []
        text: list[int] = []
        async for token in handed.stream(order, rate.seed(order)):
            times.append(time.perf_counter())
            text.append(token)
        rate.add(text, len(text) - 1, times)
    return rate.answer()


class HandedLoop:
    """A plain loop whose native calls are all made by one thread."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._loop = asyncio.get_running_loop()
        self._plain: PlainLoop | None = None

    async def open(self, config: Config) -> int:
        """Load the model; gives the size of its vocabulary."""
        self._plain = await self._loop.run_in_executor(
            self._thread, PlainLoop, config["path"], config["n_ctx"]
        )
        return self._plain.n_vocab

    async def stream(self, order: Order, seed: int) -> AsyncIterator[int]:
        """The tokens behind a random prompt."""
        queue: asyncio.Queue[int | None] = asyncio.Queue()
        task = self._loop.run_in_executor(self._thread, self._run, order, seed, queue)
        while (token := await queue.get()) is not None:
            yield token
        await task

    def _run(self, order: Order, seed: int, queue: asyncio.Queue[int | None]) -> None:
        plain = self._plain
        assert plain is not None
        plain.choose(order["sampling"])
        prompt = random_prompt(order["prompt"], seed, plain.n_vocab)
        first = plain.first_token(prompt, exact_slices(len(prompt)))
        tell = self._loop.call_soon_threadsafe
        tell(queue.put_nowait, first)
        for token in plain.tokens(first, order["count"] - 1):
            tell(queue.put_nowait, token)
        tell(queue.put_nowait, None)
