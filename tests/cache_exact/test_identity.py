"""Rows are found by what they are: any change that gives them another meaning is a miss."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from erllama import PromptTooLong
from erllama.backend.llama import devices
from erllama.backend.llama.library import llama
from erllama.config import ModelConfig
from tests.cache_exact.room import PLAIN, Case, room
from tests.models import TINY, LongRope, cached_model

CASE = PLAIN[2]
LENGTH = 300


async def read_after(
    case: Case, tmp_path: Path, *, request: dict[str, Any] | None = None, **options: Any
) -> int:
    """Save a prompt, load the model again with other options; how many tokens are found then."""
    async with room(cache_dir=str(tmp_path)) as here:
        seat = await here.load(case)
        await seat.ask(seat.prompt(LENGTH), 2)
    async with room(cache_dir=str(tmp_path)) as here:
        seat = await here.load(case, **options)
        answer = await seat.ask(seat.prompt(LENGTH), 2, **(request or {}))
        return answer.completion.cache.read


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"n_ctx": 2_048},
        {"n_batch": 128, "n_ubatch": 64},
        {"n_ubatch": 256},
        {"max_queue": 7},
        {"n_threads": 2},
        {"n_threads_batch": 2},
        {"use_mmap": False},
        {"gpu_layers": 0},
        {"model_id": "another name"},
    ],
    ids=str,
)
async def test_rows_serve_a_context_that_computes_the_same_numbers(
    options: dict[str, Any], tmp_path: Path
) -> None:
    assert await read_after(CASE, tmp_path, **options) == LENGTH


@pytest.mark.parametrize(
    "options",
    [
        {"flash_attn": False},
        {"type_k": "q8_0"},
        {"type_v": "q8_0"},
        {"type_k": "f32"},
        {"type_k": "bf16", "type_v": "bf16"},
        {"kv_unified": True},
        {"rope_freq_base": 20_000.0},
        {"rope_freq_scale": 0.5},
        {"rope_scaling": "yarn", "rope_freq_scale": 0.5},
        {"fingerprint_mode": "gguf_chunked"},
        {"request": {"cache_salt": "tenant"}},
    ],
    ids=str,
)
async def test_rows_of_another_meaning_are_never_found(
    options: dict[str, Any], tmp_path: Path
) -> None:
    assert await read_after(CASE, tmp_path, **options) == 0


@pytest.mark.parametrize(
    "options", [{"gpu_layers": 0}, {"gpu_layers": 3}, {"tensor_split": (1.0, 2.0)}], ids=str
)
async def test_where_there_is_a_gpu_rows_depend_on_what_it_was_given(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lib = llama()
    monkeypatch.setattr(lib, "llama_supports_gpu_offload", lambda: True)
    monkeypatch.setattr(devices, "device_names", lambda: ("a GPU",))
    assert await read_after(CASE, tmp_path / "same") == LENGTH
    assert await read_after(CASE, tmp_path / "other", **options) == 0


async def test_rows_of_another_gpu_are_never_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama(), "llama_supports_gpu_offload", lambda: True)
    names = [("a GPU",), ("another GPU",), ("a GPU",)]
    reads = []
    for name in names:
        monkeypatch.setattr(devices, "device_names", lambda name=name: name)
        async with room(cache_dir=str(tmp_path)) as here:
            seat = await here.load(CASE)
            reads.append((await seat.ask(seat.prompt(LENGTH), 2)).completion.cache.read)
    assert reads == [0, 0, LENGTH]


async def test_without_a_gpu_the_cpu_computes_alone() -> None:
    assert devices.device_names() == ()
    assert devices.offload(ModelConfig()) == ()


async def test_rotary_factors_that_the_context_chooses_are_part_of_the_name(
    tmp_path: Path,
) -> None:
    """Contexts up to 512 tokens have the short factors, all others the long ones."""
    case = Case("longrope", "plain", LongRope())
    short, long = {"n_ctx": 512}, {"n_ctx": 1_024}
    reads: list[int] = []
    for options in (short, long, {"n_ctx": 256}, {"n_ctx": 2_048}, short):
        async with room(cache_dir=str(tmp_path)) as here:
            seat = await here.load(case, **options)
            cold = await seat.ask(seat.prompt(200), 20, cache_salt=f"cold {len(reads)}")
            assert cold.completion.cache.read == 0
            answer = await seat.ask(seat.prompt(200), 20)
        assert answer.record.logits == cold.record.logits
        reads.append(answer.completion.cache.read)
    assert reads == [0, 0, 200, 200, 200]


async def test_a_deterministic_context_of_the_original_length_has_the_factors_of_that_length() -> (
    None
):
    """The cell that it needs behind a full sequence must not make it a long one."""
    case = Case("longrope", "plain", LongRope())
    first = []
    for options in ({"n_ctx": 512}, {"n_ctx": 512, "deterministic": True}, {"n_ctx": 1_024}):
        async with room() as here:
            seat = await here.load(case, **options)
            answer = await seat.ask(seat.prompt(200), 1)
            first.append(answer.record.logits)
            longest = seat.model.info().n_ctx
    assert first[0] == first[1] != first[2]
    assert longest == 1_024
    async with room() as here:
        seat = await here.load(case, n_ctx=512, deterministic=True)
        assert seat.model.info().n_ctx == 511
        assert len((await seat.ask(seat.prompt(500), 12)).tokens) == 12
        with pytest.raises(PromptTooLong):
            await seat.ask(seat.prompt(512), 1)


async def test_other_weights_under_the_same_name_never_hit(tmp_path: Path) -> None:
    """A file that is replaced by one of another seed: same path, same size, other bytes."""
    path = tmp_path / "model.gguf"
    reads = []
    for seed in (0, 1, 0):
        source = await asyncio.to_thread(cached_model, TINY, "Q8_0", seed)
        await asyncio.to_thread(shutil.copyfile, source, path)
        async with room(cache_dir=str(tmp_path / "cache")) as here:
            model = await here.runtime.load_model(path, n_ctx=512, n_threads=1)
            prompt = [20 + 7 * i % 400 for i in range(LENGTH)]
            answer = await model.complete(prompt, max_tokens=2, temperature=0)
            reads.append(answer.cache.read)
    assert reads == [0, 0, LENGTH]


async def test_a_salt_is_a_wall_on_both_sides() -> None:
    async with room() as here:
        seat = await here.load(CASE)
        prompt = seat.prompt(LENGTH)
        one = await seat.ask(prompt, 20, cache_salt="one")
        other = await seat.ask([*one.context, 300], 2, cache_salt="other", parent_key=one.key)
        own = await seat.ask([*one.context, 300], 2, cache_salt="one", parent_key=one.key)
    assert other.completion.cache.read == 0
    assert own.completion.cache.read == LENGTH + 19


async def test_mixed_rows_of_another_number_of_threads_are_left_alone(tmp_path: Path) -> None:
    async with room(cache_dir=str(tmp_path)) as here:
        seat = await here.load(CASE)
        first = await seat.ask(seat.prompt(LENGTH), 60)
    async with room(cache_dir=str(tmp_path)) as here:
        seat = await here.load(CASE, n_threads=2)
        answer = await seat.ask([*first.context, 300], 2, parent_key=first.key)
    assert answer.completion.cache.read == LENGTH // 64 * 64
    assert answer.completion.cache.pure
