"""Actors of the cache die under load: answers stay right, rows in files are found again."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import random
import threading
from typing import Any

import pytest

from erllama import EngineCrashed, Model, Runtime
from erllama.actor import kill
from erllama.actor.testing import settle
from erllama.backend.stub import StubBackend, StubEngine
from erllama.cache.reader import Reader
from erllama.errors import ActorDied, DecodeFailed
from tests.cache_runtime.rig import (
    PATIENCE_S,
    answer,
    cold,
    kept,
    pins,
    prompt,
    row_files,
    stub_runtime,
    temporaries,
)
from tests.crash.faults import ref_of

ACTORS = [
    "cache:ram", "cache:ram_file", "cache:disk", "cache:writers", "cache:arbiter", "cache",
]  # fmt: skip
PROMPTS = [prompt(seed) for seed in range(1, 5)]
MANY: dict[str, Any] = {"restart_intensity": 1_000}


async def expected_answers() -> list[list[int]]:
    return [await cold(tokens) for tokens in PROMPTS]


async def kill_actor(runtime: Runtime, name: str) -> None:
    """Kill an actor of the cache, and wait until the cache is whole again."""
    ref = ref_of(runtime, name)
    if ref is None:
        return
    kill(ref)
    await ref.wait_dead()


async def whole(runtime: Runtime) -> None:
    """Wait until every actor of the cache is up and the arbiter knows what the tiers hold."""
    for name in [*ACTORS[:-1], "cache:writers"]:
        while True:  # it may just be restarting along with one before it
            with contextlib.suppress(ActorDied):
                await (await runtime._registry.wait_for(name)).wait_started()
                break
            await asyncio.sleep(0)
    await runtime.cache.evict_bytes(0)


async def check(runtime: Runtime, model: Model, expected: list[list[int]]) -> None:
    """Answers are right, nothing is pinned, and what the index says is there is there."""
    await whole(runtime)
    for tokens, right in zip(PROMPTS, expected, strict=True):
        assert (await answer(model, tokens)).tokens == right
    await kept(runtime, model)
    assert pins(runtime) == 0
    assert (await runtime.cache.verify()).bad == 0
    counters = runtime.cache.counters()
    assert counters.ram_bytes <= 1 << 30
    assert set(runtime.view.ram) == {row.id for row in runtime.view.index if "ram" in row.tiers}
    assert min(getattr(counters, name) for name in counters.__struct_fields__) >= 0


async def traffic(model: Model, seed: int, expected: list[list[int]], n: int) -> None:
    chance = random.Random(seed)
    for _ in range(n):
        i = chance.randrange(len(PROMPTS))
        done = await answer(model, PROMPTS[i])
        assert done.tokens == expected[i], f"prompt {i} with {done.cache}"


@pytest.mark.parametrize("name", ACTORS)
async def test_an_actor_dies_under_load(tmp_path: pathlib.Path, name: str) -> None:
    expected = await expected_answers()
    folder, shm = tmp_path / "c", str(tmp_path / "shm")
    options: dict[str, Any] = {"ram_file_dir": shm, "ram_file_bytes": 1 << 20, **MANY}
    async with stub_runtime(folder, **options) as runtime:
        model = await runtime.load_model("stub.gguf")
        await traffic(model, 0, expected, 6)
        await kept(runtime, model)
        before = {row.id for row in runtime.view.index if "disk" in row.tiers}
        load = [asyncio.create_task(traffic(model, seed, expected, 8)) for seed in range(2)]
        for _ in range(3):
            await kill_actor(runtime, name)
            await whole(runtime)
        await asyncio.gather(*load)
        await check(runtime, model, expected)
        after = {row.id for row in runtime.view.index if "disk" in row.tiers}
        assert before <= after
        assert model.status().restarts == 0, "the model does not go down with it"
        assert temporaries(folder) == []
    there = {path.name for path in row_files(folder / "kv")}
    assert {row.name for row in after} <= there


@pytest.mark.parametrize(
    "seed", [1, 2, *(pytest.param(n, marks=pytest.mark.long) for n in range(3, 60))]
)
async def test_actors_die_at_random(tmp_path: pathlib.Path, seed: int) -> None:
    expected = await expected_answers()
    chance = random.Random(seed)
    options: dict[str, Any] = {
        "ram_file_dir": str(tmp_path / "shm"),
        "ram_file_bytes": 1 << 20,
        **MANY,
    }
    async with stub_runtime(tmp_path / "c", **options) as runtime:
        model = await runtime.load_model("stub.gguf")
        load = [asyncio.create_task(traffic(model, n, expected, 15)) for n in range(3)]
        while not all(task.done() for task in load):
            await kill_actor(runtime, chance.choice(ACTORS))
            for _ in range(chance.randrange(60)):
                await asyncio.sleep(0)
        await asyncio.gather(*load)
        await check(runtime, model, expected)
        assert model.status().restarts == 0


async def test_pins_do_not_outlive_a_model_that_dies_while_it_reads(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = await cold(PROMPTS[0])
    reading, go_on = asyncio.Event(), threading.Event()
    loop, fill = asyncio.get_running_loop(), Reader.fill

    def slow(self: Reader, target: object) -> None:
        loop.call_soon_threadsafe(reading.set)
        assert go_on.wait(PATIENCE_S)
        fill(self, target)  # type: ignore[arg-type]

    async with stub_runtime(tmp_path, **MANY) as runtime:
        model = await runtime.load_model("stub.gguf")
        await answer(model, PROMPTS[0])
        await kept(runtime, model)
        with monkeypatch.context() as patched:
            patched.setattr(Reader, "fill", slow)
            asking = asyncio.create_task(answer(model, PROMPTS[0]))
            await reading.wait()
            assert pins(runtime) > 0
            await kill_actor(runtime, model.id)
            with pytest.raises(EngineCrashed):
                await asking
            go_on.set()
        assert pins(runtime) == 0
        done = await answer(model, PROMPTS[0])
        assert (done.tokens, done.cache.hit) == (expected, "exact")


@pytest.mark.parametrize("call", ["save", "restore"])
async def test_a_model_dies_while_the_lane_saves_or_restores(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    expected = await cold(PROMPTS[0])
    there, go_on = asyncio.Event(), threading.Event()
    loop, original = asyncio.get_running_loop(), getattr(StubEngine, call)

    def slow(self: StubEngine, *args: object, **options: object) -> object:
        loop.call_soon_threadsafe(there.set)
        assert go_on.wait(PATIENCE_S)
        return original(self, *args, **options)

    async with stub_runtime(tmp_path, **MANY) as runtime:
        model = await runtime.load_model("stub.gguf")
        if call == "restore":
            await answer(model, PROMPTS[0])
            await kept(runtime, model)
        monkeypatch.setattr(StubEngine, call, slow)
        asking = asyncio.create_task(answer(model, PROMPTS[0]))
        await there.wait()
        ref = ref_of(runtime, model.id)
        assert ref is not None
        kill(ref)
        await settle()
        go_on.set()
        await ref.wait_dead()
        with pytest.raises(EngineCrashed):
            await asking
        monkeypatch.undo()
        for _ in range(2):
            assert (await answer(model, PROMPTS[0])).tokens == expected
        await kept(runtime, model)
        assert pins(runtime) == 0
        assert (await runtime.cache.verify()).bad == 0


async def test_an_engine_that_fails_to_save_or_restore_costs_no_answer(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = await cold(PROMPTS[0])

    def failing(*_: object, **__: object) -> None:
        raise DecodeFailed("the state is not as expected")

    async with stub_runtime(tmp_path, backend=StubBackend) as runtime:
        model = await runtime.load_model("stub.gguf")
        with monkeypatch.context() as patched:
            patched.setattr(StubEngine, "save", failing)
            assert (await answer(model, PROMPTS[0])).tokens == expected
            await kept(runtime, model)
            assert runtime.cache.counters().saves_dropped > 0
            assert runtime.cache.counters().rows == 0
        await answer(model, PROMPTS[0])
        await kept(runtime, model)
        monkeypatch.setattr(StubEngine, "restore", failing)
        done = await answer(model, PROMPTS[0])
        assert (done.cache.hit, done.tokens) == ("cold", expected)
        assert pins(runtime) == 0
