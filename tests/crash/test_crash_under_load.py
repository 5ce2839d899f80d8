"""Whatever breaks under load: every request is answered, every handle is freed once, and the
models are back with the same answers as before."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from erllama import Completion, EngineCrashed, Model, Runtime
from erllama.backend.stub import StubBackend, StubEngine
from tests.crash.faults import (
    FAULTS,
    KINDS,
    PATIENCE_S,
    EngineKind,
    Fault,
    Freed,
    Traffic,
    answer_of,
    backend_options,
    freed,
    lane_exits,
    nodes,
)

__all__ = ["freed"]  # a fixture


@contextlib.asynccontextmanager
async def two_models(kind: EngineKind, path: Path) -> AsyncIterator[tuple[Runtime, list[Model]]]:
    options = backend_options(kind, StubBackend())
    async with (
        asyncio.timeout(PATIENCE_S),
        Runtime(restart_intensity=1_000, **options) as runtime,
    ):
        models = [
            await runtime.load_model(path, model_id=name, n_ctx=512, n_threads=1) for name in "ab"
        ]
        yield runtime, models


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_fault_under_load_is_survived(
    kind: EngineKind, fault: Fault, tiny_gguf: Path, freed: Freed
) -> None:
    async with two_models(kind, tiny_gguf) as (runtime, models):
        before = [await answer_of(model) for model in models]
        traffic = Traffic(models)
        await traffic.flowing(runtime)
        await fault(runtime, freed)
        await traffic.answers()
        assert [await answer_of(model) for model in models] == before
        assert sum(node.restarts for node in nodes(runtime)) >= 1
        assert all(status.phase == "idle" for status in runtime.status().models)
        restarts = sum(status.restarts for status in runtime.status().models)
        assert len(freed.closed) == restarts, "each crashed incarnation was freed, no other"
    freed.check()
    assert len(freed.closed) == restarts + 2


@pytest.mark.parametrize("kind", KINDS)
async def test_a_killed_model_tells_those_who_waited_and_only_those(
    kind: EngineKind, tiny_gguf: Path, freed: Freed
) -> None:
    async with two_models(kind, tiny_gguf) as (runtime, models):
        mine, others = Traffic(models[:1]), Traffic(models[1:])
        await mine.flowing(runtime)
        await FAULTS[0](runtime, freed)
        assert all(isinstance(answer, EngineCrashed) for answer in await mine.answers())
        assert all(isinstance(answer, Completion) for answer in await others.answers())
        assert [status.restarts for status in runtime.status().models] == [1, 0]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
async def test_random_faults_in_a_row_are_survived(
    kind: EngineKind, seed: int, tiny_gguf: Path, freed: Freed
) -> None:
    await many_faults(kind, seed, tiny_gguf, freed, rounds=8)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kind", KINDS)
async def test_many_random_faults_in_a_row_are_survived(
    kind: EngineKind, seed: int, tiny_gguf: Path, freed: Freed
) -> None:
    await many_faults(kind, seed + 1_000, tiny_gguf, freed, rounds=60)


async def many_faults(
    kind: EngineKind, seed: int, path: Path, freed: Freed, *, rounds: int
) -> None:
    dice = random.Random(seed)
    async with two_models(kind, path) as (runtime, models):
        before = [await answer_of(model) for model in models]
        for _ in range(rounds):
            traffic = Traffic(models, each=dice.randrange(1, 5))
            for _ in range(dice.randrange(30)):
                await asyncio.sleep(0)
            faults = dice.sample(FAULTS, dice.randrange(1, 3))
            await asyncio.gather(*(fault(runtime, freed) for fault in faults))
            await traffic.answers()
        assert [await answer_of(model) for model in models] == before
    freed.check()


async def test_a_lane_that_went_down_is_replaced_by_a_new_one(freed: Freed) -> None:
    async with two_models(StubEngine, Path("m.gguf")) as (runtime, models):
        generation = runtime.status().lane.generation
        await lane_exits(runtime, freed)
        assert len(await answer_of(models[0])) == 8
        status = runtime.status()
        assert (status.lane.alive, status.lane.generation) == (True, generation + 1)
        assert status.tree.children[0].restarts == 1
