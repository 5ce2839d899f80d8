"""How late the event loop runs what is due, while erllama works.

A ticker asks for a wake-up every millisecond and notes how late it comes. Each phase has a
process of its own:

    idle       nothing happens: what the ticker and the machine's timers add by themselves
    busy       another process burns every core: what the machine's scheduler adds
    first      the first load of a process, with the import of llama.cpp, hashing and warm-up
    load       later loads, hash not remembered
    prefill    prompts are computed
    decode     a stream is read

What is no fault of erllama's show the same phases without it: a plain loop over llama.cpp on a
thread, and an event loop that does nothing but tick beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.child import Config, Orders, random_prompt
from benchmarks.harness import Figure, Options, Target, percentile, sides
from benchmarks.models import BenchModel

NAME = "loop_delay"
P99 = Target("below", 5.0)
WORST = Target("below", 25.0)
TICK_S = 0.001
BARE = ("bare load", "bare prefill", "bare decode")
REFERENCES = ("idle", "busy", *BARE)
PHASES = ("first", "load", "prefill", "decode")


def run(options: Options) -> list[Figure]:
    return [
        figure
        for model in options.models
        for phase in (*REFERENCES, *PHASES)
        for figure in _measure(options, model, phase)
    ]


def _measure(options: Options, model: BenchModel, phase: str) -> list[Figure]:
    late: list[float] = []
    each: list[float] = []
    stolen_ms: list[float] = []
    seconds = options.times(5) if not options.quick else 0.05
    # one load is short, so it takes more processes to see its worst
    rounds = options.rounds or options.times(10 if phase == "first" else 3)
    for round_ in range(rounds):
        with (
            _burners(phase == "busy"),
            sides(
                {phase: f"{__name__}:{'bare_side' if phase in BARE else 'ticking_side'}"},
                path=str(model.path),
                n_ctx=model.n_ctx,
                prompt=min(2_048, model.n_ctx // 2),
                seconds=seconds,
            ) as children,
        ):
            before = _stolen_ms()
            got = children[phase].ask(seed=round_)["late"]
            stolen_ms.append(_stolen_ms() - before)
            late += got
            each.append(max(got))
    reference = phase in REFERENCES
    detail: dict[str, Any] = {"median": percentile(late, 50), "ticks": len(late)}
    return [
        Figure(
            NAME,
            f"{model.name}: {phase}, p99 lateness",
            percentile(late, 99),
            "ms",
            None if reference else P99,
            detail,
        ),
        Figure(
            NAME,
            f"{model.name}: {phase}, worst lateness",
            max(late),
            "ms",
            None if reference else WORST,
            {"worst_of_each_process": each, "stolen_ms": stolen_ms},
        ),
    ]


def _stolen_ms() -> float:
    """What the host has kept from this machine's cores so far; 0 where it does not say."""
    try:
        cores = pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()
    except OSError:
        return 0.0
    return int(cores[8]) * 1e3 / os.sysconf("SC_CLK_TCK") if len(cores) > 8 else 0.0


@contextlib.contextmanager
def _burners(wanted: bool) -> Iterator[None]:
    """Keep every core busy from outside."""
    count = len(os.sched_getaffinity(0)) if wanted else 0
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


class Ticker:
    """Wakes up every millisecond and notes, in milliseconds, how late."""

    def __init__(self) -> None:
        self.late: list[float] = []
        self._loop = asyncio.get_running_loop()
        self._due = 0.0
        self._handle: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        self._ask()

    def __exit__(self, *_: object) -> None:
        if self._handle is not None:
            self._handle.cancel()

    def _ask(self) -> None:
        self._due = self._loop.time() + TICK_S
        self._handle = self._loop.call_at(self._due, self._tick)

    def _tick(self) -> None:
        self.late.append((self._loop.time() - self._due) * 1e3)
        self._ask()


def ticking_side(orders: Orders, config: Config) -> None:
    """Child: ticks during one phase."""
    asyncio.run(_ticking_side(orders, config))


async def _ticking_side(orders: Orders, config: Config) -> None:
    import erllama

    ticker = Ticker()
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(shutil.copy(config["path"], folder))
        async with erllama.Runtime() as runtime:
            if config["side"] in ("load", "prefill", "decode"):
                await runtime.load_model(
                    config["path"], model_id="m", n_ctx=config["n_ctx"], enabled=False
                )
            orders.answer({})
            while (order := await asyncio.to_thread(orders.next)) is not None:
                ticker.late.clear()
                await ticked(config["side"], runtime, ticker, config, copy, order["seed"])
                orders.answer({"late": ticker.late})


def bare_side(orders: Orders, config: Config) -> None:
    """Child: ticks while a thread calls llama.cpp, and nothing else happens."""
    asyncio.run(_bare_side(orders, config))


async def _bare_side(orders: Orders, config: Config) -> None:
    from benchmarks.plain_loop import PlainLoop, exact_slices  # imports llama.cpp

    ticker = Ticker()
    thread = ThreadPoolExecutor(1)
    run = functools.partial(asyncio.get_running_loop().run_in_executor, thread)
    plain = await run(PlainLoop, config["path"], config["n_ctx"])
    plain.choose("greedy")
    orders.answer({})
    while (order := await asyncio.to_thread(orders.next)) is not None:
        ticker.late.clear()
        prompt = random_prompt(config["prompt"], order["seed"], plain.n_vocab)
        until = time.perf_counter() + config["seconds"]
        while not _over(ticker, until):
            if config["side"] == "bare decode":
                first = await run(plain.first_token, prompt[:16], [16])
                with ticker:
                    await run(plain.generate, first, config["n_ctx"] // 2)
                continue
            with ticker:
                if config["side"] == "bare load":
                    other = await run(PlainLoop, config["path"], config["n_ctx"])
                    await run(other.close)
                else:
                    await run(plain.first_token, prompt, exact_slices(len(prompt)))
        orders.answer({"late": ticker.late})


async def ticked(
    phase: str, runtime: Any, ticker: Ticker, config: Config, copy: pathlib.Path, seed: int = 0
) -> None:
    """Tick during one phase: for the seconds of the configuration, and once at least."""
    await _PHASES[phase](runtime, ticker, config, copy, seed)


def _over(ticker: Ticker, until: float) -> bool:
    """Whether the time is up; on a busy machine it lasts until the first tick."""
    return bool(ticker.late) and time.perf_counter() > until


async def _idle(_runtime: Any, ticker: Ticker, config: Config, *_: object) -> None:
    with ticker:
        await asyncio.sleep(config["seconds"])


async def _first(
    runtime: Any, ticker: Ticker, config: Config, copy: pathlib.Path, _seed: int
) -> None:
    with ticker:
        await runtime.load_model(copy, model_id="copy", n_ctx=config["n_ctx"], enabled=False)


async def _load(
    runtime: Any, ticker: Ticker, config: Config, copy: pathlib.Path, _seed: int
) -> None:
    until = time.perf_counter() + config["seconds"]
    with ticker:
        while not _over(ticker, until):
            os.utime(copy)  # its hash is not remembered any more
            model = await runtime.load_model(
                copy, model_id="copy", n_ctx=config["n_ctx"], enabled=False
            )
            await model.unload()


async def _prefill(
    runtime: Any, ticker: Ticker, config: Config, _copy: pathlib.Path, seed: int
) -> None:
    model = runtime.model("m")
    prompt = random_prompt(config["prompt"], seed, model.info().n_vocab)
    until = time.perf_counter() + config["seconds"]
    with ticker:
        while not _over(ticker, until):
            await model.complete(prompt, max_tokens=1, temperature=0)


async def _decode(
    runtime: Any, ticker: Ticker, config: Config, _copy: pathlib.Path, seed: int
) -> None:
    model = runtime.model("m")
    prompt = random_prompt(16, seed, model.info().n_vocab)
    until = time.perf_counter() + config["seconds"]
    # not in the prefill: the first event says that decoding has begun
    while not _over(ticker, until):
        with contextlib.ExitStack() as ticking:
            started = False
            async for _ in model.stream(prompt, max_tokens=config["n_ctx"] // 2):
                if not started:
                    started = True
                    ticking.enter_context(ticker)
                if _over(ticker, until):
                    break


_PHASES: dict[str, Callable[..., Awaitable[None]]] = {
    "idle": _idle,
    "busy": _idle,
    "first": _first,
    "load": _load,
    "prefill": _prefill,
    "decode": _decode,
}
