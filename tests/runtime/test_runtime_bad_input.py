"""Bad input: each kind gets its named error, and nobody else notices.

Every test runs beside a stream of another model (and of the same one, where it is loaded), which
must go on as if nothing had happened.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from erllama import (
    ConfigError,
    ContextConfig,
    Model,
    ModelAlreadyLoaded,
    ModelConfig,
    ModelLoadError,
    NotSupported,
    PromptTooLong,
    RequestError,
    Runtime,
    SamplingParams,
)
from tests.model.staging import PATIENCE_S, Stage, assert_as_new, decoding, fresh_tokens
from tests.models.broken import KILLED_AT_DECODE, KILLED_AT_LOAD, LOADED, break_model
from tests.models.cache import cached_model
from tests.models.child import run_child
from tests.models.shapes import TINY, TINY_BERT
from tests.runtime.programs import use_vocabulary_alone

GREEDY: dict[str, Any] = {"temperature": 0}
REAL: dict[str, Any] = {"n_ctx": 512, "n_threads": 1}


@contextlib.asynccontextmanager
async def beside_a_stream(**options: Any) -> AsyncIterator[tuple[Runtime, Model]]:
    """A model with a running stream; at the end the stream goes on and is what it should be."""
    stage = Stage()
    async with stage.runtime() as runtime:
        model = await runtime.load_model("stub.gguf", **options)
        stage.pause(lambda plan: decoding(plan) and plan.rows[0].pos > 10)
        stream = model.stream("hello", max_tokens=20, **GREEDY)
        reading = asyncio.create_task(stream.result())
        await stage.held.wait()
        yield runtime, model
        assert not reading.done()
        stage.resume()
        assert (await reading).tokens == await fresh_tokens("hello", max_tokens=20, **GREEDY)
        assert model.status().restarts == 0
        await assert_as_new(model)


# Prompts

HUGE = 2**40


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("", "prompt: is empty; give at least one character"),
        ([], "prompt: is empty; give at least one token"),
        (array.array("i"), "prompt: is empty"),
        ([1.5], "prompt: expected token ids, but 'float'"),
        (["a"], "prompt: expected token ids, but 'str'"),
        ([None], "prompt: expected token ids, but 'NoneType'"),
        ([[1]], "prompt: expected token ids, but 'list'"),
        ([2**31], "prompt: expected token ids, but signed integer is greater"),
        ([HUGE], "prompt: expected token ids, but"),
        ([-HUGE], "prompt: expected token ids, but"),
        (np.array([1.5]), "prompt: expected token ids, but"),
        (None, "prompt: expected text or a sequence of token ids, got NoneType"),
        (5, "prompt: expected text or a sequence of token ids, got int"),
        (b"hello", "prompt: expected text or a sequence of token ids, got bytes"),
        (bytearray(b"hello"), "prompt: expected text or a sequence of token ids, got bytearray"),
        pytest.param(  # its repr is an address
            memoryview(b"hell"),
            "prompt: expected text or a sequence of token ids, got memoryview",
            id="memoryview",
        ),
    ],
    ids=repr,
)
async def test_a_prompt_that_is_none_is_refused_before_it_is_sent(prompt: Any, says: str) -> None:
    async with beside_a_stream() as (_, model):
        with pytest.raises(RequestError) as refused:
            await model.complete(prompt)
        assert says in str(refused.value)
        with pytest.raises(RequestError):
            model.stream(prompt)


@pytest.mark.parametrize("bad", [-1, 258, 2**31 - 1, -(2**31)])
async def test_a_token_outside_the_vocabulary_is_refused(bad: int) -> None:
    async with beside_a_stream() as (_, model):
        asking = [
            asyncio.create_task(model.complete([1, bad, 2])),
            asyncio.create_task(model.stream([1, bad, 2]).result()),
        ]
        with pytest.raises(RequestError, match=rf"token id {bad} is not in .* from 0 to 257"):
            await model.detokenize([1, bad])
        # those that compute wait their turn, behind the stream
        assert not any(task.done() for task in asking)
    for task in asking:
        with pytest.raises(RequestError, match=rf"token id {bad} .* ids go from 0 to 257"):
            await task


async def test_numpy_ids_and_any_iterable_are_fine() -> None:
    async with Stage().model() as model:
        expected = (await model.complete([1, 2, 3], max_tokens=3, **GREEDY)).tokens
        for prompt in (np.array([1, 2, 3]), (1, 2, 3), range(1, 4), array.array("q", [1, 2, 3])):
            done = await model.complete(prompt, max_tokens=3, **GREEDY)  # type: ignore[arg-type]
            assert done.tokens == expected


async def test_a_prompt_longer_than_the_context_says_both_lengths() -> None:
    async with Stage().model(n_ctx=128) as model:
        with pytest.raises(PromptTooLong, match=r"has 129 tokens, the context holds 128.*n_ctx"):
            await model.complete([1] * 129)
        with pytest.raises(PromptTooLong, match=r"has 10,001 tokens"):
            await model.complete("x" * 10_000)
        assert (await model.complete([1] * 128)).finish_reason == "length"
        await assert_as_new(model)


@pytest.mark.parametrize("length", [1, 2_000])
async def test_half_of_a_surrogate_pair_is_refused(length: int) -> None:
    text = "x" * (length - 1) + "\ud800"
    async with Stage().model() as model:
        with pytest.raises(RequestError, match="surrogate pair"):
            await model.complete(text)
        with pytest.raises(RequestError, match="surrogate pair"):
            await model.stream(text).result()
        with pytest.raises(RequestError, match="surrogate pair"):
            await model.tokenize(text)
        assert model.status().restarts == 0
        await assert_as_new(model)


@pytest.mark.parametrize("text", [None, 5, b"bytes", ["a"], 1.5])
async def test_what_is_no_text_cannot_be_tokenized(text: Any) -> None:
    async with beside_a_stream() as (_, model):
        with pytest.raises(RequestError, match="text: expected a str, got"):
            await model.tokenize(text)


@pytest.mark.parametrize("tokens", [None, 5, "text", b"byte", [1.5], ["a"], [None], [HUGE]])
async def test_what_are_no_tokens_cannot_be_detokenized(tokens: Any) -> None:
    async with beside_a_stream() as (_, model):
        with pytest.raises(RequestError, match="tokens: expected"):
            await model.detokenize(tokens)


# Options

NUMBERS = (math.nan, math.inf, -math.inf, 10**400, -1, "1", None, [1], 1j, True)
OPTIONS: list[tuple[str, Any]] = [
    *(("max_tokens", bad) for bad in (0, -1, 2**31, 2**70, 1.5, "5", True, math.nan, [1])),
    *(("timeout", bad) for bad in (0, -1, math.nan, math.inf, 10**400, "5", True, [1], 31_536_001)),
    *(("prefill_progress", bad) for bad in (1, "yes", None)),
    *(("temperature", bad) for bad in (*NUMBERS, 100.1)),
    *(("top_k", bad) for bad in (-1, 2**31, 0.5, "1", None, True, math.nan)),
    *(("top_p", bad) for bad in (*NUMBERS[:-1], 0, 1.1, True)),
    *(("min_p", bad) for bad in (*NUMBERS, 1.1)),
    *(("seed", bad) for bad in (-1, 2**63, 1.5, "1", True, math.nan)),
    *(("sampling", bad) for bad in (None, {}, {"temperature": 0.0}, "greedy", 1)),
]


@pytest.mark.parametrize(("name", "bad"), OPTIONS, ids=repr)
async def test_an_option_outside_its_limits_is_refused_by_name(name: str, bad: Any) -> None:
    async with beside_a_stream() as (_, model):
        with pytest.raises(RequestError) as refused:
            await model.complete("hello", **{name: bad})
        assert name in str(refused.value)
        assert "expected" in str(refused.value) or "out of range" in str(refused.value)
        with pytest.raises(RequestError):
            model.stream("hello", **{name: bad})


@pytest.mark.parametrize(
    ("given", "nearest"),
    [
        ("max_token", "max_tokens"),
        ("temprature", "temperature"),
        ("topk", "top_k"),
        ("time_out", "timeout"),
    ],
)
async def test_an_unknown_option_is_a_type_error_that_names_the_nearest(
    given: str, nearest: str
) -> None:
    async with beside_a_stream() as (_, model):
        wrong: dict[str, Any] = {given: 1}
        with pytest.raises(TypeError, match=f"did you mean '{nearest}'"):
            await model.complete("hello", **wrong)
        with pytest.raises(TypeError, match=f"did you mean '{nearest}'"):
            model.stream("hello", **wrong)


async def test_sampling_and_one_of_its_options_exclude_each_other() -> None:
    async with beside_a_stream() as (_, model):
        with pytest.raises(RequestError, match=r"'temperature'.*give either"):
            await model.complete("hello", sampling=SamplingParams(), temperature=0.0)
    async with Stage().model() as model:
        params = SamplingParams(temperature=0.0)
        done = await model.complete("hello", sampling=params, max_tokens=5)
        assert done.tokens == await fresh_tokens("hello", max_tokens=5, **GREEDY)


# Loading


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"n_ctx": 63}, ConfigError, "n_ctx"),
        ({"n_ctx": -1}, ConfigError, "n_ctx"),
        ({"n_ctx": 2**40}, ConfigError, "n_ctx"),
        ({"n_batch": 0}, ConfigError, "n_batch"),
        ({"n_ubatch": 100}, ConfigError, "n_ubatch"),
        ({"n_threads": 0}, ConfigError, "n_threads"),
        ({"max_queue": 0}, ConfigError, "max_queue"),
        ({"type_k": "f17"}, ConfigError, "type_k"),
        ({"n_seq_max": 257}, ConfigError, "n_seq_max"),
        ({"context": ModelConfig()}, ConfigError, "ContextConfig"),
        ({"model": {"use_mmap": False}}, ConfigError, "ModelConfig"),
        ({"fingerprint": "mine"}, ConfigError, "fingerprint"),
        ({"model_id": ""}, ConfigError, "model_id"),
        ({"model_id": 5}, ConfigError, "model_id"),
        ({"context": ContextConfig(), "n_ctx": 1}, ConfigError, "n_ctx"),
    ],
    ids=repr,
)
async def test_an_option_of_loading_that_cannot_be_used_is_named(
    options: dict[str, Any], error: type[Exception], says: str
) -> None:
    async with beside_a_stream() as (runtime, _):
        with pytest.raises(error, match=says):
            await runtime.load_model("other.gguf", **options)
        assert [info.id for info in runtime.list_models()] == ["stub"]


@pytest.mark.parametrize("path", ["", "a\0b", b"a.gguf", None, 5, "~nobody-has-this-name/a.gguf"])
async def test_what_names_no_file_is_refused(path: Any) -> None:
    async with beside_a_stream() as (runtime, _):
        with pytest.raises(ConfigError, match="path: "):
            await runtime.load_model(path)


async def test_an_unknown_option_of_loading_is_a_type_error_that_names_the_nearest() -> None:
    async with beside_a_stream() as (runtime, _):
        with pytest.raises(TypeError, match="did you mean 'n_ctx'"):
            await runtime.load_model("a.gguf", nctx=512)  # type: ignore[call-arg]


async def test_an_id_is_used_once() -> None:
    async with beside_a_stream() as (runtime, _):
        with pytest.raises(ModelAlreadyLoaded, match=r"'stub'.*another model_id"):
            await runtime.load_model("stub.gguf")
        with pytest.raises(ModelAlreadyLoaded):
            await runtime.load_model("other.gguf", model_id="stub")


async def test_an_id_is_used_once_also_by_two_loads_at_the_same_time() -> None:
    stage = Stage()
    async with stage.runtime() as runtime:
        answers = await asyncio.gather(
            *(runtime.load_model("a.gguf") for _ in range(3)), return_exceptions=True
        )
        assert [type(answer) for answer in answers] == [
            Model,
            ModelAlreadyLoaded,
            ModelAlreadyLoaded,
        ]
        await assert_as_new(runtime.model("a"))


# The same on llama.cpp


@pytest.fixture
async def real(tiny_gguf: Path) -> AsyncIterator[tuple[Runtime, Model]]:
    """A real model that answers after the test what it answered before."""
    async with asyncio.timeout(PATIENCE_S), Runtime() as runtime:
        model = await runtime.load_model(tiny_gguf, model_id="tiny", **REAL)
        before = await model.complete("hello", max_tokens=8, **GREEDY)
        streaming = asyncio.create_task(model.complete("hello", max_tokens=200, **GREEDY))
        yield runtime, model
        assert (await streaming).tokens[:8] == before.tokens
        assert (await model.complete("hello", max_tokens=8, **GREEDY)).tokens == before.tokens
        assert [info.id for info in runtime.list_models()] == ["tiny"]
        assert model.status().restarts == 0


@pytest.mark.parametrize(
    ("prompt", "error", "says"),
    [
        ([512], RequestError, "512 is not in the vocabulary; ids go from 0 to 511"),
        ([-1], RequestError, "-1 is not in the vocabulary"),
        ([1] * 513, PromptTooLong, "513"),
        ("\ud800", RequestError, "surrogate"),
        ("x" * 2_000 + "\udfff", RequestError, "surrogate"),
        ("", RequestError, "empty"),
    ],
    ids=lambda value: repr(value)[:20],
)
async def test_a_real_model_refuses_a_prompt_and_goes_on(
    real: tuple[Runtime, Model], prompt: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        await real[1].complete(prompt)


async def test_a_real_model_refuses_to_detokenize_what_it_does_not_have(
    real: tuple[Runtime, Model],
) -> None:
    for bad in (-1, 512, 2**31 - 1):
        with pytest.raises(RequestError, match=f"{bad} is not in the vocabulary"):
            await real[1].detokenize([1, bad])


async def test_a_prompt_may_fill_the_context_of_a_real_model(real: tuple[Runtime, Model]) -> None:
    done = await real[1].complete([n % 500 for n in range(512)])
    assert (len(done.tokens), done.finish_reason) == (1, "length")


async def test_a_file_that_is_not_there_is_named(real: tuple[Runtime, Model]) -> None:
    with pytest.raises(ModelLoadError, match=r"not-there\.gguf"):
        await real[0].load_model("not-there.gguf")


async def test_a_directory_is_no_model(real: tuple[Runtime, Model], tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=tmp_path.name):
        await real[0].load_model(tmp_path)


BREAKERS = [
    "empty",
    "truncated_in_header",
    "truncated_in_data",
    "wrong_magic",
    "future_version",
    "unknown_architecture",
    "missing_tensor",
    "absurd_tensor_count",
]


def test_the_broken_files_here_are_those_that_can_be_refused() -> None:
    assert not {*BREAKERS} & {*KILLED_AT_LOAD, *KILLED_AT_DECODE, *LOADED}


@pytest.mark.parametrize("how", BREAKERS)
async def test_a_broken_file_is_refused_and_its_id_stays_free(
    real: tuple[Runtime, Model], how: str, tmp_path: Path, tiny_gguf: Path
) -> None:
    runtime, _ = real
    broken = await asyncio.to_thread(break_model, tiny_gguf, tmp_path / "broken.gguf", how)
    with pytest.raises(ModelLoadError, match=r"broken\.gguf"):
        await runtime.load_model(broken, model_id="id", **REAL)
    again = await runtime.load_model(tiny_gguf, model_id="id", **REAL)
    assert len((await again.complete("hello", max_tokens=2)).tokens) == 2
    await again.unload()


async def test_a_context_beyond_what_the_model_was_trained_for_is_refused(
    real: tuple[Runtime, Model], tiny_gguf: Path
) -> None:
    with pytest.raises(ConfigError, match=r"n_ctx: 8,193 exceeds the 8,192"):
        await real[0].load_model(tiny_gguf, model_id="id", n_ctx=8_193)


async def test_an_encoder_cannot_complete(real: tuple[Runtime, Model]) -> None:
    path = await asyncio.to_thread(cached_model, TINY_BERT)
    encoder = await real[0].load_model(path, model_id="bert", n_threads=1)
    assert not encoder.info().can_generate
    with pytest.raises(NotSupported, match="cannot generate"):
        await encoder.complete("hello")
    assert await encoder.tokenize("hello")
    await encoder.unload()


def test_a_vocabulary_alone_can_tokenize_and_not_complete(tiny_gguf: Path) -> None:
    # in a process of its own: llama.cpp ends it when it is asked for what such a model lacks
    words = run_child(use_vocabulary_alone, str(tiny_gguf)).value
    assert "vocab_only" in words["error"]
    assert (words["text"], words["n_ctx"]) == ("hello", 0)


async def test_a_real_load_that_is_cancelled_leaves_nothing(
    real: tuple[Runtime, Model], tiny_gguf: Path
) -> None:
    runtime, _ = real
    for turns in (0, 1, 5, 20, 60):
        loading = asyncio.create_task(runtime.load_model(tiny_gguf, model_id="id", **REAL))
        for _ in range(turns):
            await asyncio.sleep(0)
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
    again = await runtime.load_model(tiny_gguf, model_id="id", **REAL)
    assert len((await again.complete("hello", max_tokens=2)).tokens) == 2
    await again.unload()


def test_the_shape_of_the_tiny_model_is_what_these_tests_assume() -> None:
    assert (TINY.n_vocab, TINY.n_ctx_train) == (512, 8_192)
