"""erllama's side of the benchmarks of several requests at once."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.child import (
    Answer,
    Config,
    Order,
    Orders,
    agent_prompts,
    longest_gap,
    random_prompt,
    stream_prompts,
)


def side(orders: Orders, config: Config) -> None:
    """Child: does what each order names."""
    asyncio.run(_side(orders, config))


async def _side(orders: Orders, config: Config) -> None:
    import erllama

    async with erllama.load(
        config["path"], n_ctx=config["n_ctx"], n_seq_max=config["n_seq"], flash_attn=True
    ) as model:
        n_vocab = model.info().n_vocab
        orders.answer({"n_vocab": n_vocab})
        while (order := await asyncio.to_thread(orders.next)) is not None:
            orders.answer(await _TASKS[order["task"]](model, order, n_vocab))


async def _streams(model: Any, order: Order, n_vocab: int) -> Answer:
    return await _all(model, stream_prompts(order, n_vocab), order["count"])


async def _agents(model: Any, order: Order, n_vocab: int) -> Answer:
    return await _all(model, agent_prompts(order, n_vocab), order["count"])


async def _all(model: Any, prompts: Sequence[Sequence[int]], count: int) -> Answer:
    """All prompts at once; the seconds until the last token of the last."""
    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_read(model, prompt, count)) for prompt in prompts]
    ended = max(task.result()[1] for task in tasks)
    texts = [task.result()[0] for task in tasks]
    assert all(len(text) == count for text in texts), [len(text) for text in texts]
    return {"seconds": ended - started, "texts": texts}


async def _read(model: Any, prompt: Sequence[int], count: int) -> tuple[list[int], float]:
    """The tokens, and when the last event came."""
    stream = model.stream(prompt, max_tokens=count, temperature=0)
    async for _ in stream:
        at = time.perf_counter()
    return (await stream.result()).tokens, at


async def _stall(model: Any, order: Order, n_vocab: int) -> Answer:
    """A long prompt beside a stream, and one alone; see `benchmarks.stall`."""
    alone, running, long = (
        random_prompt(order[length], order["seed"] + number, n_vocab)
        for number, length in enumerate(("prompt", "short", "prompt"))
    )
    first_alone = await _first(model, alone)
    times: list[float] = []
    begun, waited, later = asyncio.Event(), order["before"], asyncio.Event()

    async def read() -> None:
        async for _ in model.stream(running, max_tokens=order["count"], temperature=0):
            times.append(time.perf_counter())
            later.set()
            if len(times) == waited:
                begun.set()

    reader = asyncio.create_task(read())
    await begun.wait()
    started = time.perf_counter()
    first = await _first(model, long)
    over = reader.done()
    later.clear()
    if not over:
        await later.wait()
        reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reader
    gap = longest_gap(times, started, started + first)
    return {"gap": gap, "first": first, "alone": first_alone, "over": over}


async def _first(model: Any, prompt: Sequence[int]) -> float:
    """Seconds until the first event."""
    started = time.perf_counter()
    async for _ in model.stream(prompt, max_tokens=1, temperature=0):
        break
    return time.perf_counter() - started


_TASKS = {"streams": _streams, "agents": _agents, "stall": _stall}
