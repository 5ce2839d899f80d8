"""What the KV cache gives and what it costs, beside llama-cpp-python's own caches.

A prompt is computed once, then asked again: as it is (an exact hit, nothing is computed), with 16
tokens behind it, and in a new process. Between two requests of one prompt comes a short one of
another, so that no side can go on from what its context happens to hold. Then what long replies
and conversations cost and leave, and the index alone where it holds many rows.

$ERLLAMA_BENCH_THREADS sets the compute threads of all sides: on a machine whose cores are taken,
one thread gives figures where two would wait for each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cache_engine import Notes
from benchmarks.cache_index import bytes_per_row, conversations, filled, long_prompt, lookup_s
from benchmarks.child import Answer, Config, Order, Orders, random_prompt
from benchmarks.harness import Figure, Options, Side, Target, middle, percentile
from benchmarks.models import BenchModel
from erllama.config import GRANULE

NAME = "cache_speed"
N_CTX = 4_096
PROMPT = 2_048
MORE = 16
REPLY = 2_100
"""More than the default `continued_interval`."""

BLOCKS = 100_000
TURNS, RESTARTS, PEER_TURNS = 5, 4, 3
FIRST_TOKEN_MS = {"ram": 10.0, "ram_file": 20.0, "disk": 20.0}
PEERS = ("LlamaRAMCache", "LlamaDiskCache")
Turns = list[dict[str, Any]]


def run(options: Options) -> list[Figure]:
    figures = [figure for model in options.models for figure in _measure(options, model)]
    return [*figures, *_index(options.times(BLOCKS, 2_000))]


def _measure(options: Options, model: BenchModel) -> Iterator[Figure]:
    length = min(options.times(PROMPT, 256), model.n_ctx // GRANULE * GRANULE - 2 * GRANULE)
    for tier in FIRST_TOKEN_MS:
        turns: Turns = []
        restarted: Turns = []
        for round_ in range(options.rounds_or(1)):
            with _folder(tier) as folder:
                config = _config(model, tier=tier, folder=folder, length=length)
                count = options.times(TURNS, 2)
                turns += _turns(f"{__name__}:erllama_side", config, round_, count)
                if tier != "ram":
                    restarted += _restarts(config, round_, options.times(RESTARTS))
        yield from _tier_figures(model, tier, turns, restarted)
    for peer in PEERS:
        with _folder("disk") as folder:
            config = _config(model, tier=peer, folder=folder, length=length)
            turns = _turns(f"{__name__}:peer_side", config, 0, options.times(PEER_TURNS))
        yield _peer_figure(model, peer, turns)
    yield _continued(model, options.times(REPLY, 140), 64 if options.quick else None)
    yield from _stored(options, model)


def _config(model: BenchModel, **more: Any) -> Config:
    threads = int(os.environ.get("ERLLAMA_BENCH_THREADS", "0")) or None
    n_ctx = min(N_CTX, model.n_ctx)
    return {"path": str(model.path), "n_ctx": n_ctx, "n_threads": threads, **more}


@contextlib.contextmanager
def _folder(tier: str) -> Iterator[str]:
    where = "/dev/shm" if tier == "ram_file" else None
    with tempfile.TemporaryDirectory(dir=where, prefix="erllama-bench-") as folder:
        yield folder


def _turns(target: str, config: Config, round_: int, count: int) -> Turns:
    with Side(target, config) as side:
        side.ask(op="cold", seed=round_)  # the first prompt of a process is not counted
        return [side.ask(op="all", seed=1_000 * (round_ + 1) + turn) for turn in range(count)]


def _restarts(config: Config, round_: int, count: int) -> Turns:
    """A prompt of before again, the first thing in a new process; as many processes."""
    turns = []
    for turn in range(count):
        with Side(f"{__name__}:erllama_side", config) as side:
            turns.append(side.ask(op="again", seed=1_000 * (round_ + 1) + turn % 2))
    return turns


def _index(n_rows: int) -> Iterator[Figure]:
    """What the index costs where it holds many rows; needs no model."""
    rows = conversations(n_rows)
    prompt = long_prompt(rows)
    best, median = lookup_s(filled(rows), prompt)
    name = f"lookup of {len(prompt):,} tokens among {n_rows:,} rows"
    yield Figure(NAME, name, median * 1e3, "ms", Target("below", 0.5), {"best": best * 1e3})
    yield Figure(
        NAME, "index memory a row, beside its tokens", bytes_per_row(rows), "bytes",
        Target("below", 600.0), {},
    )  # fmt: skip


def _stored(options: Options, model: BenchModel) -> Iterator[Figure]:
    """How often what conversations have in common is stored."""
    with _folder("ram") as folder:
        config = _config(model, tier="ram", folder=folder, length=0)
        with Side(f"{__name__}:erllama_side", config) as side:
            talk = side.ask(op="talk", seed=1, turns=options.times(10, 3))
        with Side(f"{__name__}:erllama_side", config) as side:
            shared = min(1_024, model.n_ctx // 2 // GRANULE * GRANULE)
            crowd = side.ask(op="crowd", seed=1, shared=shared, count=options.times(50, 3))
    yield Figure(
        NAME,
        f"{model.name}: ten turns, bytes stored/one copy of the context",
        talk["bytes"] / talk["once"],
        "",
        Target("below", 1.05),
        {"tokens": talk["tokens"], "rows": talk["rows"]},
    )
    yield Figure(
        NAME,
        f"{model.name}: fifty conversations, copies of their system prompt",
        crowd["copies"],
        "",
        Target("below", 1.001),
        {"shared": crowd["shared"], "conversations": crowd["count"]},
    )


def _tier_figures(model: BenchModel, tier: str, turns: Turns, restarted: Turns) -> Iterator[Figure]:
    def figure(
        name: str, values: Sequence[float], unit: str, target: Target, **more: Any
    ) -> Figure:
        detail = {**more, "quartiles": [percentile(values, 25), percentile(values, 75)]}
        return Figure(NAME, f"{model.name}, {tier}: {name}", middle(values), unit, target, detail)

    def all_of(key: str) -> list[float]:
        return [turn[key] for turn in turns]

    cold, limit = middle(all_of("cold_ms")), Target("below", FIRST_TOKEN_MS[tier])
    yield figure(
        "first token, same prompt",
        all_of("again_ms"),
        "ms",
        limit,
        cold_ms=cold,
        restore_ms=middle(all_of("restore_ms")),
        set_ms=middle(all_of("set_ms")),
        draw_ms=middle(all_of("draw_ms")),
    )
    if restarted:
        yield figure(
            "first token, same prompt, new process",
            [turn["again_ms"] for turn in restarted],
            "ms",
            limit,
            restore_ms=middle([turn["restore_ms"] for turn in restarted]),
            set_ms=middle([turn["set_ms"] for turn in restarted]),
        )
    yield figure(
        f"with {MORE} more, beside restore and their prefill",
        [turn["longer_ms"] - turn["again_ms"] - turn["slice_ms"] for turn in turns],
        "ms",
        Target("below", 3.0),
        longer_ms=middle(all_of("longer_ms")),
        slice_ms=middle(all_of("slice_ms")),
    )
    yield figure(
        "restore rate/memcpy",
        [turn["memcpy_ms"] / turn["restore_ms"] for turn in turns],
        "",
        Target("at least", 0.5),
        memcpy_ms=middle(all_of("memcpy_ms")),
        restore_ms=middle(all_of("restore_ms")),
        set_alone=middle([turn["memcpy_ms"] / turn["set_ms"] for turn in turns]),
        mb=turns[0]["bytes"] / 1e6,
    )
    yield figure(
        "finish save on the lane, per 100 MB of state",
        [turn["save_ms"] / turn["bytes"] * 1e8 for turn in turns],
        "ms",
        Target("below", 25.0),
        save_ms=middle(all_of("save_ms")),
    )


def _peer_figure(model: BenchModel, peer: str, turns: Turns) -> Figure:
    values = [turn["again_ms"] for turn in turns]
    return Figure(
        NAME,
        f"{model.name}, {peer}: first token, same prompt",
        middle(values),
        "ms",
        None,
        {
            "cold_ms": middle([turn["cold_ms"] for turn in turns]),
            "quartiles": [percentile(values, 25), percentile(values, 75)],
        },
    )


def _continued(model: BenchModel, n: int, interval: int | None) -> Figure:
    with _folder("ram") as folder:
        config = _config(model, tier="ram", folder=folder, length=n, interval=interval)
        with Side(f"{__name__}:erllama_side", config) as side:
            share = side.ask(op="reply", seed=1)
    return Figure(
        NAME,
        f"{model.name}: continued saves, share of the lane's time",
        share["save_ms"] / (share["save_ms"] + share["decode_ms"]) * 100,
        "%",
        Target("below", 1.0),
        {"saves": share["saves"], "save_ms": share["save_ms"], "decode_ms": share["decode_ms"]},
    )


# Children


def erllama_side(orders: Orders, config: Config) -> None:
    """Child: a runtime with one tier."""
    asyncio.run(_erllama_side(orders, config))


async def _erllama_side(orders: Orders, config: Config) -> None:
    import erllama

    tier, notes = config["tier"], Notes()
    quotas = {
        "ram_bytes": (1 << 30) if tier == "ram" else 0,
        "ram_file_bytes": (1 << 30) if tier == "ram_file" else 0,
        "ram_file_dir": config["folder"],
        "cache_dir": config["folder"] if tier == "disk" else None,
    }
    more = {"continued_interval": config["interval"]} if config.get("interval") else {}
    async with erllama.Runtime(backend=lambda: notes, **quotas) as runtime:
        model = await runtime.load_model(
            config["path"],
            n_ctx=config["n_ctx"],
            n_threads=config["n_threads"],
            tiers=(tier,),
            restore_margin=1_000.0,  # the restore is what is timed, also where it would not pay
            **more,
        )
        asked = Asked(runtime, model, notes, config["length"])
        orders.answer({})
        while (order := await asyncio.to_thread(orders.next)) is not None:
            orders.answer(await asked.answer(order))


class Asked:
    """Carries out the orders of one child."""

    def __init__(self, runtime: Any, model: Any, notes: Notes, length: int) -> None:
        self._runtime = runtime
        self._model = model
        self._notes = notes
        self._length = length
        self._n_vocab = model.info().n_vocab

    async def answer(self, order: Order) -> Answer:
        seed, op = order["seed"], order["op"]
        if op == "cold":
            return await self._cold(seed)
        if op == "again":
            return await self._again(seed)
        if op == "reply":
            return await self._reply(seed)
        if op == "talk":
            return await self._talk(seed, order["turns"])
        if op == "crowd":
            return await self._crowd(seed, order["shared"], order["count"])
        taken = await self._cold(seed)
        await self._other(seed)
        taken |= await self._again(seed)
        await self._other(seed + 1)
        taken |= await self._longer(seed)
        await self._other(seed + 2)
        return taken | await self._finish(seed)

    async def _cold(self, seed: int) -> Answer:
        ms, _, _ = await self._first_token(self._prompt(seed))
        return {"cold_ms": ms}

    async def _again(self, seed: int) -> Answer:
        """`restore_ms`: from the turn of the request to the state set; `set_ms` is a part of it."""
        ms, noted, completion = await self._first_token(self._prompt(seed))
        assert completion.cache.hit == "exact", completion.cache
        n_bytes = self._notes.token_bytes * self._length
        return {
            "again_ms": ms,
            "restore_ms": completion.timings.restore_ms,
            "set_ms": noted["restore"][0],
            "draw_ms": noted["draw"][0],
            "bytes": n_bytes,
            "memcpy_ms": memcpy_ms(n_bytes),
        }

    async def _longer(self, seed: int) -> Answer:
        prompt = [*self._prompt(seed), *random_prompt(MORE, seed + 7, self._n_vocab)]
        ms, noted, completion = await self._first_token(prompt)
        assert completion.cache.read == self._length, completion.cache
        return {"longer_ms": ms, "slice_ms": noted["prefill"][0]}

    async def _finish(self, seed: int) -> Answer:
        prompt = self._prompt(seed)
        self._notes.take()
        await self._model.complete(prompt, max_tokens=8, temperature=0)
        await self._settle()
        return {"save_ms": self._notes.take()["save"][-1]}

    async def _reply(self, seed: int) -> Answer:
        prompt = random_prompt(64, seed, self._n_vocab)
        self._notes.take()
        n = min(self._length, self._model.info().n_ctx - 65)
        completion = await self._model.complete(prompt, max_tokens=n, temperature=0.9, seed=1)
        await self._settle()  # the finish save may come after the answer
        noted = self._notes.take()
        # the last one is the finish save
        saves, decode = sum(noted.get("save", [0.0])[:-1]), sum(noted["decode"])
        count = self._runtime.cache.counters().saves_continued
        return {
            "save_ms": saves,
            "decode_ms": decode,
            "saves": count,
            "tokens": len(completion.tokens),
        }

    async def _talk(self, seed: int, turns: int) -> Answer:
        """A conversation; what it leaves after a collection, logits apart."""
        context, key = random_prompt(200, seed, self._n_vocab), None
        for turn in range(turns):
            if turn:
                context = [*context, *random_prompt(40, seed + turn, self._n_vocab)]
            done = await self._model.complete(context, max_tokens=40, parent_key=key, temperature=0)
            await self._settle()
            context, key = list(done.context_tokens), done.finish_key
        await self._runtime.cache.gc()
        rows = list(self._runtime.cache.rows())
        logits = 4 * self._n_vocab
        stored = sum(row.size - logits * (row.form == "tail") for row in rows)
        tokens = len(context) - 1
        once = tokens * self._notes.token_bytes
        return {"bytes": stored, "once": once, "tokens": tokens, "rows": len(rows)}

    async def _crowd(self, seed: int, shared: int, count: int) -> Answer:
        """Conversations that begin alike; how often their beginning is stored."""
        system = random_prompt(shared, seed, self._n_vocab)
        for i in range(count):
            own = random_prompt(20, seed + i + 1, self._n_vocab)
            await self._model.complete([*system, *own], max_tokens=4, temperature=0)
            await self._settle()
        rows = self._runtime.cache.rows()
        held = sum(max(min(row.start + row.tokens, shared) - row.start, 0) for row in rows)
        return {"copies": held / shared, "shared": shared, "count": count}

    async def _other(self, seed: int) -> None:
        """Something else in between, too short to be saved."""
        await self._model.complete(random_prompt(20, seed, self._n_vocab), max_tokens=1)
        await self._settle()

    async def _settle(self) -> None:
        """Wait until all is saved and written."""
        await self._model.evict()
        await self._runtime.cache.flush()

    def _prompt(self, seed: int) -> list[int]:
        return random_prompt(self._length, seed, self._n_vocab)

    async def _first_token(self, prompt: list[int]) -> tuple[float, dict[str, list[float]], Any]:
        """Milliseconds from the call to the first token, and what was noted meanwhile."""
        self._notes.take()
        started = time.perf_counter()
        completion = await self._model.complete(prompt, max_tokens=1, temperature=0)
        ms = (time.perf_counter() - started) * 1e3
        noted = self._notes.take()
        await self._settle()
        return ms, noted, completion


def memcpy_ms(n_bytes: int) -> float:
    """Milliseconds to copy so many bytes between buffers whose pages are warm."""
    import numpy as np

    source, target = np.ones(n_bytes, np.uint8), np.zeros(n_bytes, np.uint8)
    taken = []
    for _ in range(5):
        started = time.perf_counter()
        np.copyto(target, source)
        taken.append((time.perf_counter() - started) * 1e3)
    return middle(taken)


def peer_side(orders: Orders, config: Config) -> None:
    """Child: llama-cpp-python's `Llama` with one of its caches."""
    import llama_cpp

    llama = llama_cpp.Llama(
        config["path"],
        n_ctx=config["n_ctx"],
        n_batch=512,
        n_threads=config["n_threads"],
        n_threads_batch=config["n_threads"],
        verbose=False,
    )
    if config["tier"] == "LlamaRAMCache":
        llama.set_cache(llama_cpp.LlamaRAMCache(capacity_bytes=2 << 30))
    else:
        folder = str(Path(config["folder"]) / "cache")
        llama.set_cache(llama_cpp.LlamaDiskCache(folder, capacity_bytes=2 << 30))
    orders.answer({})
    n_vocab = llama.n_vocab()

    def ask(prompt: list[int]) -> float:
        """One token: with the end of the request, at which it saves, or up to the token alone."""
        started = time.perf_counter()
        first = 0.0
        for _ in llama.create_completion(prompt, max_tokens=1, temperature=0.0, stream=True):
            first = first or (time.perf_counter() - started) * 1e3
        return first

    for order in orders:
        prompt = random_prompt(config["length"], order["seed"], n_vocab)
        answer = {"cold_ms": ask(prompt)}
        if order["op"] == "all":
            llama.create_completion(random_prompt(20, order["seed"] + 1, n_vocab), max_tokens=1)
            answer["again_ms"] = ask(prompt)
        orders.answer(answer)
