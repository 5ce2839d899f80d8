"""Adapters come and go while requests run; each request keeps those that it began with."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest

from erllama import (
    Adapter,
    EngineCrashed,
    Model,
    ModelLoadError,
    NotSupported,
    RequestError,
    load,
)
from erllama.actor.testing import settle
from erllama.backend.base import StepPlan
from erllama.model import adapters as adapters_module
from tests.contracts.rig import on_thread
from tests.model.staging import Stage, asked, assert_as_new, crash, fresh_tokens, running, until
from tests.models import TINY
from tests.models.lora import write_lora

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12}
PROMPT = [1 + i % 199 for i in range(100)]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Files that a stub takes for adapters."""
    found = [tmp_path / f"{name}.gguf" for name in "abc"]
    for path in found:
        path.write_bytes(path.name.encode())
    return found


async def tokens(model: Model, prompt: Any = PROMPT, **options: Any) -> list[int]:
    return (await model.complete(prompt, **{**GREEDY, **options})).tokens


def ids(plan: StepPlan) -> tuple[int, ...]:
    return tuple(use.id for use in plan.adapters)


async def test_an_adapter_is_in_force_from_its_loading_to_its_unloading(files: list[Path]) -> None:
    async with Stage().model() as model:
        base = await tokens(model)
        adapter = await model.load_adapter(files[0])
        assert model.adapters() == [adapter]
        assert (adapter.path, adapter.scale) == (str(files[0]), 1.0)
        changed = await tokens(model)
        assert changed != base
        await model.set_adapter_scale(adapter, 0.5)
        assert await tokens(model) not in (base, changed)
        assert model.adapters()[0].scale == 0.5
        await model.set_adapter_scale(adapter, 0)
        assert await tokens(model) == base
        await model.set_adapter_scale(adapter, 1)
        assert await tokens(model) == changed
        await model.unload_adapter(adapter)
        assert model.adapters() == []
        assert await tokens(model) == base
        await assert_as_new(model)


async def test_a_request_keeps_the_adapters_that_it_began_with(files: list[Path]) -> None:
    stage = Stage()
    async with stage.model(n_seq_max=4) as model:
        expected = [await tokens(model, max_tokens=40)]
        for path in files[:2]:
            await model.load_adapter(path)
            expected.append(await tokens(model, max_tokens=40))
        for adapter in model.adapters():
            await model.unload_adapter(adapter)
        await model.evict()
        stage.pause(lambda plan: bool(plan.rows) and plan.rows[0].pos == 105)
        tasks = [asked(model, PROMPT, max_tokens=40)]
        await stage.held.wait()
        await settle()
        first = asyncio.create_task(model.load_adapter(files[0]))
        stage.resume()
        await first
        stage.pause(lambda plan: bool(plan.rows) and plan.rows[0].pos > 105)
        tasks.append(asked(model, PROMPT, max_tokens=40))
        await stage.held.wait()
        stage.resume()
        await model.load_adapter(files[1])
        tasks.append(asked(model, PROMPT, max_tokens=40))
        await settle()
        for adapter in model.adapters():
            await model.unload_adapter(adapter)
        assert [(await task).tokens for task in tasks] == expected
        await assert_as_new(model)


async def test_requests_of_different_adapters_never_share_a_step_and_take_turns(
    files: list[Path],
) -> None:
    stage = Stage()
    async with stage.model(n_seq_max=4) as model:
        adapter = await model.load_adapter(files[0], scale=0)
        stage.pause(lambda plan: bool(plan.rows))
        tasks = [asked(model, [n, *PROMPT], max_tokens=30) for n in (1, 2)]
        await stage.held.wait()
        await settle()
        await model.set_adapter_scale(adapter, 1)
        tasks += [asked(model, [n, *PROMPT], max_tokens=30) for n in (1, 2)]
        await settle()
        stage.resume()
        found = [(await task).tokens for task in tasks]
        assert found[:2] != found[2:]
        assert found[0] == await fresh_tokens([1, *PROMPT], max_tokens=30, temperature=0)
        turns = [ids(plan) for plan in stage.plans if plan.rows]
        with_it = [i for i, turn in enumerate(turns) if turn == (adapter.id,)]
        both = turns[with_it[0] : turns.index((), with_it[0])]
        assert 0 < len(both) <= 8
        await assert_as_new_without(model, adapter)


async def assert_as_new_without(model: Model, adapter: Adapter) -> None:
    await model.unload_adapter(adapter)
    await assert_as_new(model)


async def test_rows_of_the_cache_are_told_apart_by_adapter_and_scale(files: list[Path]) -> None:
    async with Stage().model(n_seq_max=2, restore_margin=1_000.0) as model:
        await model.prefill(PROMPT)
        await model.evict()
        assert await model.cached_prefix(PROMPT) > 0
        adapter = await model.load_adapter(files[0])
        assert await model.cached_prefix(PROMPT) == 0
        await model.prefill(PROMPT)
        await model.evict()
        warm = await model.cached_prefix(PROMPT)
        assert warm > 0
        await model.set_adapter_scale(adapter, 0.5)
        assert await model.cached_prefix(PROMPT) == 0
        await model.unload_adapter(adapter)
        again = await model.load_adapter(files[0])
        assert await model.cached_prefix(PROMPT) == warm
        await assert_as_new_without(model, again)


async def test_a_session_does_not_go_on_with_what_another_adapter_has_computed(
    files: list[Path],
) -> None:
    async with Stage().model(n_seq_max=2) as model:
        first = await model.complete(PROMPT, session_id="s", **GREEDY)
        adapter = await model.load_adapter(files[0])
        following = [*first.context_tokens, 4, 5]
        second = await model.complete(following, session_id="s", **GREEDY)
        expected = await tokens(model, following, cache_salt="apart")
        assert second.cache.hit != "sticky"
        assert second.tokens == expected
        await model.end_session("s")
        await assert_as_new_without(model, adapter)


async def test_an_adapter_is_freed_behind_the_last_request_that_has_it(files: list[Path]) -> None:
    stage = Stage()
    async with stage.model(n_seq_max=2) as model:
        adapter = await model.load_adapter(files[0])
        (engine,) = stage.backend.engines
        stage.pause(lambda plan: bool(plan.rows))
        task = asked(model, PROMPT, max_tokens=20)
        await stage.held.wait()
        await settle()
        unloading = asyncio.create_task(model.unload_adapter(adapter))
        await unloading
        await settle()
        assert adapter.id in engine._adapters
        stage.resume()
        await task
        await until(lambda: not engine._adapters)
        with pytest.raises(RequestError, match="not loaded"):
            await model.unload_adapter(adapter)
        with pytest.raises(RequestError, match="not loaded"):
            await model.set_adapter_scale(adapter, 1)
        await assert_as_new(model)


async def test_adapters_are_back_after_a_crash(files: list[Path]) -> None:
    stage = Stage()
    async with stage.runtime() as runtime:
        model = await runtime.load_model("stub.gguf")
        adapter = await model.load_adapter(files[0], scale=0.5)
        expected = await tokens(model)
        await crash(runtime, "stub")
        assert await tokens(model) == expected
        assert model.adapters() == [adapter]
        assert len(stage.backend.engines) == 2
        await assert_as_new_without(model, adapter)


async def test_a_model_does_not_come_back_with_another_file_for_an_adapter(
    files: list[Path],
) -> None:
    stage = Stage()
    async with running(stage.backend, restart_intensity=2) as runtime:
        model = await runtime.load_model("stub.gguf")
        await model.load_adapter(files[0])
        files[0].write_bytes(b"another")
        await crash(runtime, "stub")
        await until(lambda: model.status().phase == "failed")
        with pytest.raises(EngineCrashed):
            await tokens(model)


async def test_a_file_that_cannot_be_used_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    async with Stage().model() as model:
        with pytest.raises(ModelLoadError, match="no such file"):
            await model.load_adapter(tmp_path / "none.gguf")
        wrong: Any
        for wrong in ("", "a\0b", 5, None, b"path"):
            with pytest.raises(RequestError, match="path"):
                await model.load_adapter(wrong)
        for wrong in (math.nan, math.inf, 1e7, "1", None, True):
            with pytest.raises(RequestError, match="scale"):
                await model.load_adapter("a.gguf", scale=wrong)
        for wrong in (1, "a", None):
            with pytest.raises(RequestError, match="load_adapter"):
                await model.unload_adapter(wrong)
        assert model.adapters() == []
        await assert_as_new(model)


async def test_there_is_a_limit_to_adapters(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters_module, "MOST", 2)
    async with Stage().model() as model:
        for path in files[:2]:
            await model.load_adapter(path)
        with pytest.raises(RequestError, match="unload one"):
            await model.load_adapter(files[2])


async def test_a_model_that_does_not_generate_takes_none(files: list[Path]) -> None:
    async with Stage().model(vocab_only=True) as model:
        with pytest.raises(NotSupported, match="adapters"):
            await model.load_adapter(files[0])


async def test_a_real_adapter_changes_a_real_model_and_only_its_own_requests(
    tiny_gguf: Path, tmp_path: Path
) -> None:
    path = await on_thread(lambda: write_lora(tmp_path / "a.gguf", TINY))
    options: dict[str, Any] = {"n_ctx": 512, "n_seq_max": 2, "n_threads": 1, "deterministic": True}
    prompt = [7 + 5 * i % 89 for i in range(100)]
    async with load(tiny_gguf, **options) as model:
        base = await tokens(model, prompt, max_tokens=40)
        running_one = asked(model, prompt, max_tokens=40)
        adapter = await model.load_adapter(path)
        changed = await asked(model, prompt, max_tokens=40)
        assert (await running_one).tokens == base
        assert changed.tokens != base
        assert await tokens(model, prompt, max_tokens=40) == changed.tokens
        await model.unload_adapter(adapter)
        assert await tokens(model, prompt, max_tokens=40) == base


async def test_an_embedding_keeps_the_adapters_that_it_was_asked_for_with(
    files: list[Path],
) -> None:
    stage = Stage()
    async with stage.model(embeddings=True) as model:
        expected = [await model.embed(PROMPT)]
        adapter = await model.load_adapter(files[0])
        for scale in (0.5, 1.0):
            await model.set_adapter_scale(adapter, scale)
            expected.append(await model.embed(PROMPT))
        assert len(set(map(tuple, expected))) == 3
        stage.pause(lambda plan: bool(plan.rows))
        tasks: list[asyncio.Task[Any]] = [asked(model, [1, *PROMPT], max_tokens=4)]
        await stage.held.wait()
        found = []
        for change in (
            model.set_adapter_scale(adapter, 0.5),
            model.unload_adapter(adapter),
            model.tokenize("x"),
        ):
            found.append(asyncio.create_task(model.embed(PROMPT)))
            await settle()
            tasks.append(asyncio.create_task(change))
            await settle()
        stage.resume()
        await asyncio.gather(*tasks)
        assert [await one for one in reversed(found)] == expected
        await assert_as_new(model)
