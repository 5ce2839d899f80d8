"""Embedding through the model's actor: shared fairly, ended on demand, and never in the way."""

from __future__ import annotations

import asyncio
import itertools
import math
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from erllama import (
    CallTimeout,
    ConfigError,
    DecodeFailed,
    EngineCrashed,
    EngineStuck,
    Model,
    ModelNotFound,
    NotSupported,
    PromptTooLong,
    QueueFull,
    RequestError,
    load,
)
from erllama.actor.testing import ManualClock, settle
from erllama.backend import stub
from erllama.backend.base import EmbedPlan, StepPlan
from tests.model.staging import PATIENCE_S, Stage, asked, assert_as_new, fresh_tokens, until
from tests.models import TINY_BERT, cached_model

BOUND_S, GRACE_S = 5.0, 10.0


class EmbedStage(Stage):
    """A stage whose calls of `embed` are written down and held.

    Attributes:
        calls: the plans of all calls.
        order: these and the plans of steps, as the lane had them.
        wrong: what the next calls raise.
    """

    def __init__(self) -> None:
        self.journal: list[tuple[str, StepPlan]] = []
        super().__init__(on_embed=self._on_embed, shared=self.journal)
        self.calls: list[EmbedPlan] = []
        self.order: list[str] = []
        self.wrong: Exception | None = None
        self._hanging = self._blocking = False
        self._gate = threading.Event()

    def hang_embed(self) -> None:
        """Calls that end only when they are aborted."""
        self._hanging = True
        self.held.clear()

    def block_embed(self) -> None:
        """Calls that obey nothing until `free_embed`."""
        self._blocking = True
        self._gate.clear()
        self.held.clear()

    def free_embed(self) -> None:
        self._hanging = self._blocking = False
        self._gate.set()

    def lengths(self) -> list[list[int]]:
        return [[len(tokens) for tokens in plan.inputs] for plan in self.calls]

    def _on_embed(self, plan: EmbedPlan) -> None:
        self.calls.append(plan)
        self.order += ["step"] * (len(self.journal) - self.order.count("step")) + ["embed"]
        if self._hanging or self._blocking:
            self._tell(self.held)
        if self._blocking and not self._gate.wait(PATIENCE_S):
            raise TimeoutError("a blocked call was never freed")
        if self.wrong is not None:
            raise self.wrong
        self.backend.row_s = 3_600.0 if self._hanging else 0.0


def ids(n: int, length: int = 10) -> list[int]:
    return [n, *(i % 250 for i in range(1, length))]


def expected(tokens: Sequence[int]) -> list[float]:
    """What the stub's vector is, normalised."""
    digest = stub._digest(tokens)
    values = [byte / 127.5 - 1 for byte in digest]
    length = math.hypot(*values)
    return [value / length for value in values]


def embedding(model: Model, prompt: Any, **options: Any) -> asyncio.Task[Any]:
    return asyncio.create_task(model.embed(prompt, **options))


def model_on(stage: Stage, **options: Any) -> Any:
    return stage.model(**{"embeddings": True, "n_seq_max": 2, "n_ubatch": 64, **options})


async def test_a_prompt_has_a_vector_and_several_have_theirs_in_order() -> None:
    async with model_on(EmbedStage()) as model:
        assert await model.embed(ids(1)) == pytest.approx(expected(ids(1)), abs=1e-6)
        many = [ids(n, 5 + n) for n in range(7)]
        vectors = await model.embed(many)
        for tokens, vector in zip(many, vectors, strict=True):
            assert vector == pytest.approx(expected(tokens), abs=1e-6)
        assert await model.embed([ids(1)]) == [await model.embed(ids(1))]
        text = await model.embed("some text")
        assert text == await model.embed(await model.tokenize("some text"))
        await assert_as_new(model)


async def test_vectors_have_length_one_unless_told_not_to() -> None:
    async with model_on(EmbedStage()) as model:
        normal, raw = await model.embed(ids(1)), await model.embed(ids(1), normalize=False)
        assert math.hypot(*normal) == pytest.approx(1)
        length = math.hypot(*raw)
        assert length != pytest.approx(1)
        assert normal == pytest.approx([value / length for value in raw])


async def test_scores_are_never_normalised() -> None:
    async with model_on(EmbedStage(), pooling="rank") as model:
        (score,) = await model.embed(ids(1))
        assert score == pytest.approx(stub._digest(ids(1))[0] / 127.5 - 1)
        assert model.info().pooling == "rank"


async def test_inputs_share_calls_up_to_the_sequences_and_the_rows() -> None:
    stage = EmbedStage()
    async with model_on(stage, n_seq_max=3) as model:
        await model.embed([ids(n, length) for n, length in enumerate((10, 20, 30, 40, 30))])
        assert stage.lengths() == [[10, 20, 30], [40], [30]]


async def test_inputs_of_different_callers_share_calls() -> None:
    stage = EmbedStage()
    async with model_on(stage) as model:
        stage.block_embed()
        tasks = [embedding(model, ids(n)) for n in range(5)]
        await stage.held.wait()
        await settle()
        stage.free_embed()
        for n, task in enumerate(tasks):
            assert await task == pytest.approx(expected(ids(n)), abs=1e-6)
        assert len(stage.calls) == 3


async def test_an_input_over_n_ubatch_is_computed_in_parts() -> None:
    stage = EmbedStage()
    async with model_on(stage, n_ctx=512) as model:
        tokens = ids(1, 300)
        assert await model.embed(tokens) == pytest.approx(expected(tokens), abs=1e-6)
        assert stage.lengths() == [[64], [64], [64], [64], [44]]


async def test_a_long_text_is_tokenized_beside_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []
    original = stub.StubEngine.tokenize

    def note(engine: Any, text: str, **options: Any) -> Any:
        threads.append(threading.current_thread().name)
        return original(engine, text, **options)

    async with model_on(EmbedStage(), n_ctx=4_096) as model:
        text = "word " * 600
        tokens = await model.tokenize(text)
        monkeypatch.setattr(stub.StubEngine, "tokenize", note)
        assert await model.embed(text) == pytest.approx(expected(tokens), abs=1e-6)
        assert threads
        assert threading.current_thread().name not in threads
        with pytest.raises(PromptTooLong, match="n_ctx"):
            await model.embed("word " * 6_000)
        await assert_as_new(model)


# Beside requests


async def test_streams_go_on_between_calls() -> None:
    stage = EmbedStage()
    async with model_on(stage, n_ctx=1_024) as model:
        stage.pause(lambda plan: bool(plan.rows))
        stream = asked(model, ids(1), max_tokens=60)
        await stage.held.wait()
        task = embedding(model, [ids(n) for n in range(40)])
        await settle()
        stage.resume()
        vectors = await task
        generated = await stream
        assert generated.tokens == await fresh_tokens(ids(1), max_tokens=60, temperature=0)
        assert len(vectors) == 40
        while_both = stage.order[stage.order.index("embed") :]
        assert len(while_both) >= 39
        assert all(pair != ("embed", "embed") for pair in itertools.pairwise(while_both))
        await assert_as_new(model)


async def test_a_long_input_gives_way_to_a_prompt_that_comes() -> None:
    stage = EmbedStage()
    async with model_on(stage, n_ctx=1_024) as model:
        stage.block_embed()
        task = embedding(model, ids(1, 640))
        await stage.held.wait()
        request = asked(model, ids(2), max_tokens=3)
        await settle()
        stage.free_embed()
        await request
        calls = len(stage.calls)
        await task
        assert calls < len(stage.calls) == 10


async def test_no_caller_waits_for_all_inputs_of_another() -> None:
    stage = EmbedStage()
    async with model_on(stage, n_seq_max=1) as model:
        stage.block_embed()
        long = embedding(model, [ids(n) for n in range(30)])
        await stage.held.wait()
        short = embedding(model, ids(99))
        await settle()
        stage.free_embed()
        await short
        assert not long.done()
        assert len(await long) == 30


# Ending


async def test_a_cancelled_call_is_cut_short() -> None:
    stage = EmbedStage()
    async with model_on(stage) as model:
        stage.hang_embed()
        task = embedding(model, ids(1))
        await stage.held.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        stage.free_embed()
        assert await model.embed(ids(2)) == pytest.approx(expected(ids(2)), abs=1e-6)
        await assert_as_new(model)


async def test_a_call_of_several_callers_is_nobodys_to_lose() -> None:
    stage = EmbedStage()
    async with model_on(stage, n_seq_max=3) as model:
        stage.block_embed()
        first = embedding(model, ids(0))
        await stage.held.wait()
        tasks = [embedding(model, ids(n)) for n in (1, 2)]
        await settle()
        stage.held.clear()
        stage._gate.set()
        await first
        stage._gate.clear()
        await stage.held.wait()
        tasks[0].cancel()
        await settle()
        stage.free_embed()
        assert await tasks[1] == pytest.approx(expected(ids(2)), abs=1e-6)
        assert len(stage.calls) == 2
        await assert_as_new(model)


async def test_a_caller_that_waits_may_go() -> None:
    stage = EmbedStage()
    async with model_on(stage, n_seq_max=1) as model:
        stage.block_embed()
        first, second = embedding(model, ids(1)), embedding(model, ids(2))
        await stage.held.wait()
        await settle()
        assert (model.status().phase, model.status().pending) == ("running", 2)
        second.cancel()
        await settle()
        stage.free_embed()
        await first
        assert stage.lengths() == [[10]]
        await assert_as_new(model)


async def test_a_timeout_ends_the_wait_and_the_work(clock: ManualClock) -> None:
    stage = EmbedStage()
    async with model_on(stage) as model:
        stage.hang_embed()
        task = embedding(model, ids(1), timeout=2.0)
        await stage.held.wait()
        await settle()
        await clock.advance(2.1)
        with pytest.raises(CallTimeout, match="after 2 s"):
            await task
        stage.free_embed()
        await until(lambda: model.status().phase == "idle")
        await assert_as_new(model)


async def test_unloading_answers_those_who_wait() -> None:
    stage = EmbedStage()
    async with model_on(stage, n_seq_max=1) as model:
        stage.hang_embed()
        tasks = [embedding(model, ids(n)) for n in range(2)]
        await stage.held.wait()
        await settle()
        await model.unload()
        for task in tasks:
            with pytest.raises(ModelNotFound, match="unloaded"):
                await task


async def test_a_full_queue_refuses() -> None:
    stage = EmbedStage()
    async with model_on(stage, max_queue=2) as model:
        stage.block_embed()
        tasks = [embedding(model, ids(n)) for n in range(2)]
        await stage.held.wait()
        await settle()
        with pytest.raises(QueueFull, match="max_queue"):
            await model.embed(ids(3))
        stage.free_embed()
        await asyncio.gather(*tasks)
        await assert_as_new(model)


# Refusals


@pytest.mark.parametrize("options", [{"embeddings": False}, {"vocab_only": True}])
async def test_a_model_that_cannot_embed_says_so(options: dict[str, Any]) -> None:
    options = {"embeddings": False, **options}
    async with model_on(EmbedStage(), **options) as model:
        with pytest.raises(NotSupported, match="embeddings=True"):
            await model.embed(ids(1))
        assert not model.info().can_embed
        assert model.info().pooling is None


async def test_inputs_that_cannot_be_used_are_refused_and_harm_nothing() -> None:
    async with model_on(EmbedStage(), n_ctx=128) as model:
        wrong: list[tuple[Any, str, type[Exception]]] = [
            ([300], "id 300 is not in the vocabulary", RequestError),
            ([-1], "id -1 is not in the vocabulary", RequestError),
            ([1] * 129, "has 129 tokens, at most 128", PromptTooLong),
            ([[1], [1] * 129], r"prompt\[1\]: has 129", PromptTooLong),
            ("half \ud800", "surrogate", RequestError),
            ("", "is empty", RequestError),
            ({"a": 1}, "prompt", RequestError),
        ]
        for prompt, said, kind in wrong:
            with pytest.raises(kind, match=said):
                await model.embed(prompt)
        for timeout in (0, -1, "soon", math.nan):
            with pytest.raises(RequestError, match="timeout"):
                await model.embed([1], timeout=timeout)
        await assert_as_new(model)


async def test_a_pooling_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigError, match="'mean', 'cls', 'last', 'rank'"):
        async with model_on(EmbedStage(), pooling="max"):
            raise AssertionError("it was taken")


# Failures


async def test_a_call_that_the_engine_refuses_fails_alone() -> None:
    stage = EmbedStage()
    async with model_on(stage) as model:
        stage.wrong = DecodeFailed("not these")
        with pytest.raises(DecodeFailed, match="not these"):
            await model.embed(ids(1))
        stage.wrong = None
        assert await model.embed(ids(1)) == pytest.approx(expected(ids(1)), abs=1e-6)
        assert model.status().restarts == 0
        await assert_as_new(model)


async def test_a_vector_that_is_not_finite_fails_its_caller_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = EmbedStage()
    original: Callable[..., bytes] = stub._vector
    nan = b"\x00\x00\xc0\x7f" * 32
    monkeypatch.setattr(stub, "_vector", lambda t, *n: nan if t[0] == 1 else original(t, *n))
    async with model_on(stage) as model:
        stage.block_embed()
        first = embedding(model, ids(0))
        await stage.held.wait()
        bad, good = embedding(model, ids(1)), embedding(model, ids(2))
        await settle()
        stage.free_embed()
        with pytest.raises(DecodeFailed, match="not finite"):
            await bad
        assert await good == pytest.approx(expected(ids(2)), abs=1e-6)
        await first
        assert len(stage.calls) == 2
        await assert_as_new(model)


async def test_an_engine_that_fails_is_loaded_again() -> None:
    stage = EmbedStage()
    async with model_on(stage) as model:
        stage.wrong = ValueError("broken")
        with pytest.raises(EngineCrashed):
            await model.embed(ids(1))
        stage.wrong = None
        assert await model.embed(ids(1)) == pytest.approx(expected(ids(1)), abs=1e-6)
        assert model.status().restarts == 1
        await assert_as_new(model)


async def test_a_call_that_hangs_is_aborted_and_requests_go_on(clock: ManualClock) -> None:
    stage = EmbedStage()
    async with model_on(stage, step_timeout_s=BOUND_S) as model:
        stage.hang_embed()
        bad = embedding(model, ids(1))
        await stage.held.wait()
        request = asked(model, ids(2), max_tokens=4)
        await settle()
        stage._hanging = False
        await clock.advance(BOUND_S + 0.01)
        with pytest.raises(EngineStuck, match="step_timeout_s"):
            await bad
        assert (await request).tokens == await fresh_tokens(ids(2), max_tokens=4, temperature=0)
        assert model.status().restarts == 0
        await assert_as_new(model)


async def test_a_call_that_ignores_the_abort_makes_its_model_stuck_until_it_is_back(
    clock: ManualClock,
) -> None:
    stage = EmbedStage()
    async with stage.runtime() as runtime:
        model = await runtime.load_model("stub.gguf", embeddings=True, step_timeout_s=BOUND_S)
        stage.block_embed()
        tasks = [embedding(model, ids(n)) for n in range(2)]
        tasks.append(asked(model, ids(3)))
        await stage.held.wait()
        await settle()
        await clock.advance(BOUND_S + 0.01)
        await clock.advance(GRACE_S + 0.01)
        for task in tasks:
            with pytest.raises(EngineStuck, match="restart the process"):
                await task
        assert model.status().phase == "stuck"
        with pytest.raises(EngineStuck, match="restart the process"):
            await model.embed(ids(1))
        stage.free_embed()
        await until(lambda: model.status().restarts == 1)
        assert await model.embed(ids(1)) == pytest.approx(expected(ids(1)), abs=1e-6)
        await assert_as_new(model)


# Real models


async def test_an_encoder_embeds_text() -> None:
    path = await asyncio.to_thread(cached_model, TINY_BERT)
    async with load(path, n_seq_max=4, n_threads=1) as model:
        info = model.info()
        assert (info.can_generate, info.can_embed, info.pooling) == (False, True, "mean")
        first, other, again = await model.embed(["one text", "quite another", "one text"])
        assert len(first) == TINY_BERT.n_embd
        assert math.hypot(*first) == pytest.approx(1)
        assert math.dist(first, again) < 0.01 < math.dist(first, other)
        with pytest.raises(PromptTooLong):
            await model.embed([5] * 513)
        with pytest.raises(NotSupported):
            await model.complete("text")


async def test_a_decoder_embeds_while_it_generates(tiny_gguf: Path) -> None:
    options: dict[str, Any] = {"n_ctx": 512, "n_seq_max": 2, "n_threads": 1}
    prompt = [7 + 5 * i % 89 for i in range(100)]
    async with load(tiny_gguf, **options) as model:
        alone = await model.complete(prompt, max_tokens=30, temperature=0)
    async with load(tiny_gguf, embeddings=True, **options) as model:
        request = asked(model, prompt, max_tokens=30)
        vectors = await model.embed([prompt[:n] for n in (10, 20, 100, 20)])
        assert (await request).tokens == alone.tokens
        assert math.dist(vectors[1], vectors[3]) < 0.01 < math.dist(vectors[1], vectors[2])
        assert model.info().pooling == "last"
