"""What decides which tokens come: the prompt, the options and the seed, and nothing else."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from erllama import EngineCrashed, Model, Runtime, Text
from erllama.actor.testing import settle
from erllama.backend.stub import StubBackend
from erllama.sampling import draw_seed
from tests.model.staging import PATIENCE_S, Stage, crash, running

# one thread: on a busy machine, threads that wait for each other take a hundred times longer
REAL: dict[str, Any] = {"n_ctx": 512, "n_threads": 1}

LONG = [n % 250 for n in range(300)]


async def tokens(model: Model, prompt: Any = "hello", **options: Any) -> list[int]:
    return (await model.complete(prompt, **{"max_tokens": 12, **options})).tokens


async def stub_tokens(
    prompt: Any, *, load: dict[str, Any] | None = None, **options: Any
) -> list[int]:
    async with running(StubBackend()) as runtime:
        return await tokens(await runtime.load_model("a.gguf", **(load or {})), prompt, **options)


async def test_the_same_seed_gives_the_same_tokens_and_another_one_others() -> None:
    async with Stage().model() as model:
        assert await tokens(model, seed=1) == await tokens(model, seed=1)
        assert await tokens(model, seed=1) != await tokens(model, seed=2)


@pytest.mark.parametrize("options", [{"seed": 0}, {"seed": 2**63 - 1}, {"temperature": 0}])
async def test_tokens_do_not_depend_on_the_slicing(options: dict[str, Any]) -> None:
    assert await stub_tokens(LONG, load={"n_batch": 64}, **options) == await stub_tokens(
        LONG, load={"n_batch": 512}, **options
    )


async def test_each_draw_is_keyed_by_the_seed_and_the_position_of_its_token() -> None:
    stage = Stage()
    async with stage.model() as model:
        await tokens(model, [1] * 70, seed=9, max_tokens=3)
    draws = [draw.seed for plan in stage.plans for draw in plan.draws]
    assert draws == [draw_seed(9, position) for position in (70, 71, 72)]
    assert len(set(draws)) == 3


async def test_tokens_do_not_depend_on_the_requests_before() -> None:
    alone = await stub_tokens("hello", seed=7)
    async with Stage().model() as model:
        for other in range(3):
            await tokens(model, f"other {other}", seed=other)
        assert await tokens(model, seed=7) == alone


async def test_a_stream_draws_what_a_completion_draws() -> None:
    async with Stage().model() as model:
        stream = model.stream("hello", max_tokens=12, seed=7)
        streamed = [event.token async for event in stream if isinstance(event, Text)]
        assert streamed == await tokens(model, seed=7)


async def test_tokens_do_not_depend_on_a_crash_between_two_runs() -> None:
    async with Stage().runtime() as runtime:
        model = await runtime.load_model("a.gguf")
        before = await tokens(model, seed=7)
        await crash(runtime, "a")
        assert await tokens(model, seed=7) == before
        assert model.status().restarts == 1


async def test_an_unseeded_run_can_be_repeated_from_its_completion() -> None:
    async with Stage().model() as model:
        first = await model.complete("hello", max_tokens=12)
        assert await tokens(model, seed=first.seed) == first.tokens
        other = await model.complete("hello", max_tokens=12)
        assert other.seed != first.seed
        assert other.tokens != first.tokens


async def test_a_stream_that_was_not_seeded_tells_its_seed_too() -> None:
    async with Stage().model() as model:
        first = await model.stream("hello", max_tokens=12).result()
        assert await tokens(model, seed=first.seed) == first.tokens


async def test_greedy_needs_no_seed() -> None:
    async with Stage().model() as model:
        greedy = await tokens(model, temperature=0, seed=1)
        assert await tokens(model, temperature=0, seed=2) == greedy
        assert await tokens(model, temperature=0) == greedy


# The same on a real model


async def real_tokens(path: Path, prompt: Any, load: dict[str, Any], **options: Any) -> list[int]:
    async with asyncio.timeout(PATIENCE_S), Runtime() as runtime:
        model = await runtime.load_model(path, **REAL, **load)
        return await tokens(model, prompt, **options)


@pytest.mark.parametrize("options", [{"seed": 3}, {"temperature": 0}])
async def test_a_real_model_gives_the_same_tokens_however_its_prompt_is_sliced(
    tiny_gguf: Path, options: dict[str, Any]
) -> None:
    sliced = await real_tokens(tiny_gguf, LONG, {"n_batch": 64, "n_ubatch": 64}, **options)
    assert sliced == await real_tokens(tiny_gguf, LONG, {"n_batch": 512}, **options)
    assert len(sliced) == 12


async def test_a_real_model_gives_the_same_tokens_whatever_came_before(tiny_gguf: Path) -> None:
    alone = await real_tokens(tiny_gguf, "hello", {}, seed=7)
    async with asyncio.timeout(PATIENCE_S), Runtime() as runtime:
        model = await runtime.load_model(tiny_gguf, **REAL)
        assert await tokens(model, LONG, seed=1) != alone
        assert await tokens(model, seed=7) == alone
        assert await tokens(model, seed=8) != alone
        greedy = await tokens(model, temperature=0)
        stream = model.stream("hello", max_tokens=50, seed=3)
        async for _ in stream:
            break
        assert await tokens(model, seed=7) == alone
        crashing = asyncio.create_task(tokens(model, LONG))
        await settle()
        await crash(runtime, model.id)
        with pytest.raises(EngineCrashed):
            await crashing
        assert await tokens(model, temperature=0) == greedy
        assert await tokens(model, seed=7) == alone


@pytest.mark.parametrize("temperature", [1e-300, 1e-30, 100.0])
async def test_a_real_model_survives_every_temperature(tiny_gguf: Path, temperature: float) -> None:
    options: dict[str, Any] = {"temperature": temperature, "seed": 1}
    drawn = await real_tokens(tiny_gguf, "hello", {}, **options)
    assert all(0 <= token < 512 for token in drawn)
    assert await real_tokens(tiny_gguf, "hello", {}, **options) == drawn
    if temperature < 1e-20:
        assert drawn == await real_tokens(tiny_gguf, "hello", {}, temperature=0)
