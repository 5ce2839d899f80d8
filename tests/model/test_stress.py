"""Everything at once on real models: each answer is the one that its request gets alone."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

import erllama
from erllama import Completion, Model, Runtime
from erllama.backend.llama.room import Room
from tests.cache_runtime.rig import unpinned
from tests.model.staging import floor_of, until
from tests.model.stress import Answered, World, compare, run
from tests.models import TINY
from tests.models.cache import cached_model

N_CTX = 512
OPTIONS: dict[str, Any] = {
    "n_ctx": N_CTX,
    "n_batch": 192,
    "n_ubatch": 64,
    "n_threads": 1,
    "reader_stall_s": 0.02,
    "session_idle_s": 0.1,
    "decode_stall_ms": 20.0,
    "restore_margin": 1_000.0,
}
MODELS = ["bundled", "q8_0"]


def path_of(name: str) -> Path:
    return erllama.bundled_model() if name == "bundled" else cached_model(TINY, "Q8_0")


def the_same(one: Answered, alone: Completion) -> None:
    assert one.done.tokens == alone.tokens, (one.ask, one.done.cache)
    assert (one.done.text, one.done.finish_reason) == (alone.text, alone.finish_reason)
    assert one.done.stop_sequence == alone.stop_sequence
    assert one.seen == alone.text


def the_beginning(one: Answered, alone: Completion) -> None:
    assert one.done.tokens == alone.tokens[: len(one.done.tokens)], one.ask
    assert one.done.finish_reason in ("cancelled", alone.finish_reason)


def whole(one: Answered) -> None:
    """What can be said of any answer."""
    done, n = one.done, one.ask.options["max_tokens"]
    assert done.text == one.seen
    assert len(done.tokens) == n if done.finish_reason == "length" else len(done.tokens) <= n
    assert done.context_tokens == [*one.ask.prompt, *done.tokens]
    assert done.stop_sequence is None or done.stop_sequence not in done.text


async def assert_nothing_is_left(runtime: Runtime, model: Model) -> None:
    await model.evict()
    await until(lambda: model.status().phase == "idle")
    status = model.status()
    assert (status.active, status.pending, status.sessions, status.restarts) == (0, 0, 0, 0)
    floor = floor_of(model)
    floor.check_integrity()
    assert not floor.all_jobs()
    await unpinned(runtime)  # what was cancelled while its rows were read
    assert runtime.cache.counters().saves_dropped == 0
    assert (await runtime.cache.verify()).bad == 0


async def stress(seed: int, name: str, requests: int = 6, **options: Any) -> World:
    """Eight clients of a model with three sequences."""
    async with Runtime() as runtime:
        model = await runtime.load_model(path_of(name), **{"n_seq_max": 3, **OPTIONS, **options})
        longest = min(model.info().n_ctx, options.get("longest", N_CTX)) - 8
        world = World(random.Random(seed), model, n_vocab=model.info().n_vocab, longest=longest)
        await run(world, clients=8, requests=requests, patience_s=60.0)
        await assert_nothing_is_left(runtime, model)
    assert len(world.answered) > 10
    for one in world.answered:
        whole(one)
    return world


async def compare_with_lone_runs(world: World, name: str) -> None:
    async with Runtime() as runtime:
        alone = await runtime.load_model(
            path_of(name), **OPTIONS, n_seq_max=1, deterministic=True, enabled=False
        )
        await compare(world.answered, alone, the_same)
        await compare(world.cancelled, alone, the_beginning)


@pytest.fixture
def few_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shared buffer that cannot hold two long requests: llama.cpp says that there is no slot."""
    monkeypatch.setattr(Room, "total", property(lambda room: room.cells + 128))


@pytest.mark.parametrize("name", MODELS)
async def test_each_of_many_is_answered_what_it_is_answered_alone(name: str) -> None:
    world = await stress(1, name, deterministic=True)
    await compare_with_lone_runs(world, name)


async def test_each_of_many_that_share_a_buffer_is_answered_in_full() -> None:
    await stress(2, "bundled", kv_unified=True)


async def test_each_of_many_that_do_not_fit_the_buffer_together_is_answered_in_full(
    few_cells: None,
) -> None:
    await stress(3, "bundled", kv_unified=True)


@pytest.mark.long
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("seed", range(100, 130))
async def test_each_of_many_is_answered_what_it_is_answered_alone_again(
    name: str, seed: int
) -> None:
    world = await stress(seed, name, requests=20, deterministic=True)
    await compare_with_lone_runs(world, name)


@pytest.mark.long
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("seed", range(200, 230))
async def test_each_of_many_that_do_not_fit_the_buffer_together_is_answered_in_full_again(
    few_cells: None, name: str, seed: int
) -> None:
    await stress(seed, name, requests=20, kv_unified=True)
