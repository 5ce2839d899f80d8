"""64 clients on 8 sequences for ten minutes (`--soak-minutes`).

Each client sends one request after the other, of mixed lengths; half of the longer prompts begin
alike. The clients are equals: all work through the same lengths, each in an order of its own. One
request in five is cancelled at a random moment: in the queue, in its prompt, or in its text.

    errors      anything but a whole text of the length asked for, or a cancel
    leaked      sequences that are not free at the end: of 8 streams started at once so many have
                to wait for another one's end
    memory      resident set, median of the last third over that of the first; the cache may keep
                so little that it is full soon
    Jain index  (sum x)^2 / (n sum x^2) of the tokens that each client got or had computed
                (Jain, Chiu, Hawe 1984): 1 if all have the same, 1/n if one has all
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.child import Answer, Config, Orders, random_prompt
from benchmarks.harness import Figure, Options, Side, Target, middle, percentile
from benchmarks.models import BenchModel
from benchmarks.peers import long_enough

NAME = "soak"
CLIENTS = 64
N_SEQ = 8
N_CTX = 1_024
LENGTHS = ((16, 48), (64, 8), (100, 32), (200, 64), (300, 24), (500, 16))
"""Tokens in and out."""

COMMON = 128
"""Tokens with which the prompts begin that begin alike."""

CANCELLED = 0.2
CACHE_BYTES = 64 << 20
QUICK_S = 3.0
SAMPLES = 30
ENOUGH_S = 90.0
"""For the requests that run at the end, and for the sequences to be free."""


def run(options: Options) -> list[Figure]:
    return [figure for model in long_enough(options) for figure in _measure(options, model)]


def _measure(options: Options, model: BenchModel) -> list[Figure]:
    seconds = QUICK_S if options.quick else options.soak_minutes * 60
    config = {"path": str(model.path), "clients": options.times(CLIENTS, 2 * N_SEQ)}
    with Side(f"{__name__}:erllama_side", config) as child:
        memory = [child.ask(seconds=seconds / SAMPLES)["memory"] for _ in range(SAMPLES)]
        got = child.ask(seconds=0)
    return list(_figures(model.name, got, memory))


def _figures(model: str, got: Answer, memory: list[float]) -> list[Figure]:
    third = len(memory) // 3
    level = middle(memory[-third:]) / middle(memory[:third])
    work = got["work"]
    requests: dict[str, Any] = {name: got[name] for name in ("finished", "cancelled")}
    shares: dict[str, Any] = {"least": min(work), "most": max(work)}
    sizes: dict[str, Any] = {"first_mb": memory[0] / 1e6, "last_mb": memory[-1] / 1e6}
    known: dict[str, Any] = {"kinds": "; ".join(sorted(set(got["errors"]))) or "none"}
    return [
        _figure(
            model, "errors", len(got["errors"]), "requests", Target("below", 1), requests | known
        ),
        _figure(model, "leaked sequences", got["leaked"], "sequences", Target("below", 1)),
        _figure(model, "memory, last third/first", level, "times", Target("below", 1.05), sizes),
        _figure(
            model, "Jain index of equals", jain(work), "of 1", Target("at least", 0.95), shares
        ),
        _latency(model, "first token", got["first"]),
        _latency(model, "gap", got["gaps"]),
    ]


def _figure(
    model: str,
    name: str,
    value: float,
    unit: str,
    target: Target | None = None,
    detail: dict[str, Any] | None = None,
) -> Figure:
    return Figure(NAME, f"{model}: {name}", value, unit, target, detail or {})


def _latency(model: str, name: str, seconds: Sequence[float]) -> Figure:
    milliseconds = [value * 1e3 for value in seconds] or [0.0]
    detail: dict[str, Any] = {
        "p50": percentile(milliseconds, 50),
        "worst": max(milliseconds),
        "count": len(seconds),
    }
    return _figure(model, f"p99, {name}", percentile(milliseconds, 99), "ms", None, detail)


def jain(shares: Sequence[float]) -> float:
    """Jain's index of fairness; 1 where nobody has anything.

    >>> jain([5, 5]), jain([5, 0])
    (1.0, 0.5)
    """
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0


def erllama_side(orders: Orders, config: Config) -> None:
    """Child: runs the clients between the first order and the one of no seconds."""
    asyncio.run(_erllama_side(orders, config))


async def _erllama_side(orders: Orders, config: Config) -> None:
    import erllama

    async with erllama.Runtime(ram_bytes=CACHE_BYTES) as runtime:
        model = await runtime.load_model(config["path"], n_ctx=N_CTX, n_seq_max=N_SEQ)
        crowd = Crowd(model, config["clients"])
        orders.answer({})
        async with asyncio.TaskGroup() as group:
            for number in range(config["clients"]):
                group.create_task(crowd.client(number))
            while (order := await asyncio.to_thread(orders.next)) is not None:
                if order["seconds"]:
                    await asyncio.sleep(order["seconds"])
                    orders.answer({"memory": _resident()})
                else:
                    orders.answer(await crowd.end())


def _told_to_end() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _resident() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


class Crowd:
    """The clients and what happened to them."""

    def __init__(self, model: Any, clients: int) -> None:
        self._model = model
        self._n_vocab = model.info().n_vocab
        self._common = random_prompt(COMMON, 0, self._n_vocab)
        self._usual_s = 1.0
        self._over = False
        self._running = 0
        self._work = [0] * clients
        self._first: list[float] = []
        self._gaps: list[float] = []
        self._errors: list[str] = []
        self._finished = self._cancelled = 0

    async def client(self, number: int) -> None:
        """Send requests until the end."""
        source = random.Random(number)
        self._running += 1
        while not self._over:
            for length, count in source.sample(LENGTHS, len(LENGTHS)):
                if not self._over:
                    await self._request(number, source, length, count)
        self._running -= 1

    async def end(self) -> Answer:
        """Let the requests that run come to their end; then what happened."""
        self._over = True
        async with asyncio.timeout(ENOUGH_S):
            while self._running or self._busy():  # noqa: ASYNC110 - nothing else to wait for
                await asyncio.sleep(0.01)
        return {
            "work": self._work,
            "first": self._first,
            "gaps": self._gaps,
            "errors": self._errors,
            "finished": self._finished,
            "cancelled": self._cancelled,
            "leaked": await self._leaked(),
        }

    def _busy(self) -> bool:
        status = self._model.status()
        return bool(status.active or status.pending)

    async def _request(self, number: int, source: random.Random, length: int, count: int) -> None:
        task = asyncio.create_task(self._read(number, self._prompt(source, length), count))
        if source.random() < CANCELLED:
            after = source.random() * self._usual_s
            await asyncio.wait([task], timeout=after)
            task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            if _told_to_end():  # the client itself, not its request
                raise
            self._cancelled += 1
        except Exception as error:
            self._errors.append(f"{type(error).__name__}: {error}"[:200])
        else:
            self._finished += 1

    def _prompt(self, source: random.Random, length: int) -> list[int]:
        prompt = random_prompt(length, source.getrandbits(32), self._n_vocab)
        alike = length > COMMON and source.random() < 0.5
        return self._common + prompt[COMMON:] if alike else prompt

    async def _read(self, number: int, prompt: list[int], count: int) -> None:
        started = time.perf_counter()
        stream = self._model.stream(prompt, max_tokens=count, temperature=0)
        times: list[float] = []
        async for _ in stream:
            times.append(time.perf_counter())
            self._work[number] += 1 if len(times) > 1 else len(prompt) + 1
        tokens = (await stream.result()).tokens
        if len(tokens) != count:
            raise AssertionError(f"{len(tokens)} tokens in place of {count}")
        self._first.append(times[0] - started)
        self._gaps += (after - before for before, after in itertools.pairwise(times))
        self._usual_s += 0.05 * (times[-1] - started - self._usual_s)

    async def _leaked(self) -> int:
        """Of streams on all sequences at once, how many begin only after another one's end."""
        begun, late, ended = set[int](), set[int](), False

        async def read(number: int) -> None:
            nonlocal ended
            prompt = random_prompt(16, number, self._n_vocab)
            async for _ in self._model.stream(prompt, max_tokens=128, temperature=0):
                if number not in begun:
                    begun.add(number)
                    late.update({number} if ended else ())
            ended = True

        async with asyncio.TaskGroup() as group:
            for number in range(N_SEQ):
                group.create_task(read(number))
        return len(late)
