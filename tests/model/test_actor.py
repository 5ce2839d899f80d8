"""The model actor: what waits, what is computed, and in which slices."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from erllama import (
    CallTimeout,
    Completion,
    Model,
    PrefillProgress,
    QueueFull,
    Text,
)
from erllama.actor.testing import ManualClock, settle
from erllama.backend.base import StepPlan
from erllama.clock import LoopClock
from erllama.errors import DecodeFailed
from tests.model.staging import (
    PATIENCE_S,
    Stage,
    always,
    assert_as_new,
    decoding,
    fresh_tokens,
    prefilling,
    settled,
)

GREEDY: dict[str, Any] = {"temperature": 0}


def asked(model: Model, prompt: str, **options: Any) -> asyncio.Task[Completion]:
    return asyncio.create_task(model.complete(prompt, **{"max_tokens": 1, **GREEDY, **options}))


def prompt_of(plan: StepPlan) -> bytes:
    assert plan.prefill is not None
    return bytes(token for token in plan.prefill.tokens if token < 256)


# What comes out


async def test_a_completion_says_what_was_asked_and_what_came() -> None:
    async with Stage().model() as model:
        done = await model.complete("hello", max_tokens=5, seed=11)
    assert done.usage.prompt_tokens == 6
    assert done.usage.completion_tokens == len(done.tokens) == 5
    assert done.text == bytes(done.tokens).decode()
    assert done.context_tokens == [257, *b"hello", *done.tokens]
    assert (done.finish_reason, done.seed) == ("length", 11)
    timings = done.timings
    assert timings.total_ms >= timings.ttft_ms >= timings.prefill_ms >= 0
    assert timings.total_ms == pytest.approx(
        timings.queue_ms + timings.prefill_ms + timings.decode_ms
    )


async def test_a_model_that_ends_by_itself_says_stop() -> None:
    async with Stage(end_after=4).model() as model:
        done = await model.complete("hello")
    assert (done.finish_reason, len(done.tokens), len(done.text)) == ("stop", 4, 3)


async def test_a_stream_gives_the_same_tokens_one_by_one_and_then_the_completion() -> None:
    async with Stage().model() as model:
        whole = await model.complete("hello", max_tokens=9, **GREEDY)
        events = [event async for event in model.stream("hello", max_tokens=9, **GREEDY)]
    *texts, done = events
    assert [event.token for event in texts if isinstance(event, Text)] == whole.tokens
    assert "".join(event.text for event in texts if isinstance(event, Text)) == whole.text
    assert done.completion.tokens == whole.tokens  # type: ignore[union-attr]


async def test_without_max_tokens_a_generation_goes_on_until_the_context_is_full() -> None:
    async with Stage().model(n_ctx=128) as model:
        done = await model.complete([1] * 100)
    # the last token is sampled from the last cell and needs none of its own
    assert (len(done.tokens), done.finish_reason) == (29, "length")


async def test_a_prompt_may_fill_the_whole_context() -> None:
    async with Stage().model(n_ctx=128) as model:
        done = await model.complete([1] * 128, max_tokens=50)
    assert (len(done.tokens), done.finish_reason) == (1, "length")


async def test_token_ids_are_taken_as_they_are() -> None:
    async with Stage().model() as model:
        done = await model.complete([5, 6, 7], max_tokens=2)
        assert done.context_tokens[:3] == [5, 6, 7]
        assert await model.tokenize("hi") == [257, *b"hi"]
        assert await model.tokenize("hi", add_special=False) == [*b"hi"]
        assert await model.detokenize([257, *b"hi"]) == "hi"
        assert await model.detokenize([]) == ""


async def test_long_texts_are_tokenized_off_the_loop_with_the_same_result() -> None:
    text = "long enough " * 200
    async with Stage().model() as model:
        tokens = await model.tokenize(text)
        assert tokens == [257, *text.encode()]
        assert await model.detokenize(tokens) == text
        done = await model.complete(text, max_tokens=3, **GREEDY)
        assert done.tokens == (await model.complete(tokens, max_tokens=3, **GREEDY)).tokens


# Slices


@pytest.mark.parametrize(
    ("n_batch", "n_tokens", "slices"),
    [
        (512, 1, [(0, 1)]),
        (512, 64, [(0, 64)]),
        (512, 65, [(0, 64), (64, 1)]),
        (512, 512, [(0, 512)]),
        (512, 1000, [(0, 512), (512, 448), (960, 40)]),
        (64, 200, [(0, 64), (64, 64), (128, 64), (192, 8)]),
        (100, 200, [(0, 64), (64, 64), (128, 64), (192, 8)]),
    ],
)
async def test_a_prompt_is_cut_at_multiples_of_64_and_its_tail_runs_by_itself(
    n_batch: int, n_tokens: int, slices: list[tuple[int, int]]
) -> None:
    stage = Stage()
    async with stage.model(n_batch=n_batch) as model:
        await model.complete([3] * n_tokens, max_tokens=1)
    assert stage.slices() == slices
    assert all(not (plan.prefill and plan.rows) for plan in stage.plans)


async def test_each_step_after_the_prompt_computes_one_token_and_draws_the_next() -> None:
    stage = Stage()
    async with stage.model() as model:
        done = await model.complete([3] * 70, max_tokens=4)
    steps = [plan for plan in stage.plans if plan.rows]
    assert [(row.pos, row.token) for plan in steps for row in plan.rows] == list(
        zip(range(70, 73), done.tokens[:3], strict=True)
    )
    assert all(len(plan.rows) == len(plan.draws) == 1 for plan in steps)
    assert [len(plan.draws) for plan in stage.plans if plan.prefill] == [0, 1]


async def test_no_step_begins_before_the_one_before_it_is_over() -> None:
    stage = Stage()
    async with stage.model() as model:
        stage.pause(always)
        tasks = [asked(model, "one"), asked(model, "two")]
        await stage.held.wait()
        await settle()
        assert len(stage.plans) == 1
        stage.resume()
        await asyncio.gather(*tasks)
    assert [plan.number for plan in stage.plans] == [1, 2]


async def test_the_progress_of_a_prompt_is_shown_when_it_is_asked_for() -> None:
    async with Stage().model(n_batch=64) as model:
        stream = model.stream([3] * 150, max_tokens=1, prefill_progress=True)
        progress = [event async for event in stream if isinstance(event, PrefillProgress)]
        silent = [event async for event in model.stream([3] * 150, max_tokens=1)]
    assert progress == [PrefillProgress(done, 150) for done in (64, 128, 150)]
    assert not any(isinstance(event, PrefillProgress) for event in silent)


# The queue


async def test_requests_are_computed_in_the_order_in_which_they_came() -> None:
    stage = Stage()
    names = [f"request {n}" for n in range(40)]
    async with stage.model() as model:
        await asyncio.gather(*(asked(model, name) for name in names))
    assert [prompt_of(plan).decode() for plan in stage.plans] == names


async def test_a_long_text_that_is_still_tokenized_keeps_its_place() -> None:
    stage = Stage()
    async with stage.model() as model:
        stage.pause(always)
        first = asked(model, "first")
        await stage.held.wait()
        tasks = [asked(model, "x" * 2_000), asked(model, "short")]
        await settle()
        stage.resume()
        await asyncio.gather(first, *tasks)
    assert [prompt_of(plan)[:5] for plan in stage.plans if plan.begin] == [
        b"first",
        b"xxxxx",
        b"short",
    ]


async def test_one_request_too_many_is_refused_and_told_when_to_come_back() -> None:
    stage = Stage()
    async with stage.model(max_queue=3) as model:
        stage.pause(always)
        active = asked(model, "active")
        await stage.held.wait()
        waiting = [asked(model, f"waiting {n}") for n in range(3)]
        await settle()
        assert (model.status().active, model.status().pending) == (1, 3)
        with pytest.raises(QueueFull, match="max_queue") as refused:
            await model.complete("too many")
        assert refused.value.retry_after > 0
        stage.resume()
        answers = await settled(active, *waiting)
        assert all(isinstance(answer, Completion) for answer in answers)
        await assert_as_new(model)


@pytest.mark.parametrize("max_queue", [1, 100, 256])
async def test_a_thousand_requests_in_one_turn_meet_an_exact_bound(max_queue: int) -> None:
    stage = Stage()
    async with stage.model(max_queue=max_queue) as model:
        stage.pause(always)
        tasks = [asked(model, f"request {n}") for n in range(1_000)]
        await stage.held.wait()
        await settle()
        assert model.status().pending == max_queue
        stage.resume()
        answers = await settled(*tasks)
        refused = [answer for answer in answers if isinstance(answer, QueueFull)]
        # one is computed, max_queue wait: the first ones, and no others
        assert len(refused) == 999 - max_queue
        assert all(error.retry_after > 0 for error in refused)
        assert [isinstance(answer, Completion) for answer in answers] == [
            n <= max_queue for n in range(1_000)
        ]
        await assert_as_new(model)


async def test_requests_that_come_while_the_model_loads_are_queued_and_carried_out() -> None:
    stage = Stage()
    async with stage.runtime() as runtime:
        stage.pause_loading()
        loading = asyncio.create_task(runtime.load_model("stub.gguf", max_queue=2))
        await stage.load_held.wait()
        model = runtime.model("stub")
        early = [asked(model, "one"), asked(model, "two")]
        text = asyncio.create_task(model.tokenize("a"))
        await settle()
        status = model.status()
        assert (status.phase, status.active, status.pending) == ("loading", 0, 2)
        with pytest.raises(QueueFull):
            await model.complete("three")
        stage.resume()
        await loading
        answers = await asyncio.gather(*early)
        assert [bytes(a.context_tokens[1:4]) for a in answers] == [b"one", b"two"]
        assert await text == [257, ord("a")]


# Time


async def test_a_timeout_ends_a_request_that_is_being_computed(clock: ManualClock) -> None:
    stage = Stage()
    async with stage.model() as model:
        stage.hang(decoding)
        late = asyncio.create_task(model.complete("hello", timeout=2.0))
        await stage.held.wait()
        await clock.advance(2.1)
        with pytest.raises(CallTimeout, match=r"1 tokens were generated"):
            await late
        stage.resume()
        await assert_as_new(model)


async def test_a_timeout_counts_in_the_queue() -> None:
    stage = Stage()
    async with stage.model() as model:
        stage.pause(always)
        active = asked(model, "active")
        await stage.held.wait()
        with pytest.raises(CallTimeout, match="still waiting"):
            await model.complete("late", timeout=0.02)
        assert model.status().pending == 0
        stage.resume()
        await active
        assert len(stage.plans) == 1


async def test_a_timeout_counts_while_the_model_loads() -> None:
    stage = Stage()
    async with stage.runtime() as runtime:
        stage.pause_loading()
        loading = asyncio.create_task(runtime.load_model("stub.gguf"))
        await stage.load_held.wait()
        with pytest.raises(CallTimeout, match="still waiting"):
            await runtime.model("stub").complete("late", timeout=0.02)
        stage.resume()
        model = await loading
        assert stage.plans == []
        await assert_as_new(model)


async def test_a_stream_that_timed_out_gives_its_text_and_then_the_error(
    clock: ManualClock,
) -> None:
    stage = Stage()
    async with stage.model() as model:
        stage.hang(lambda plan: bool(plan.rows) and plan.rows[0].pos > 8)
        stream = model.stream("hello", timeout=2.0, **GREEDY)
        seen: list[Any] = []

        async def read() -> None:
            async for event in stream:
                seen.append(event)  # noqa: PERF401 (what came before the error counts)

        reading = asyncio.create_task(read())
        await stage.held.wait()
        await clock.advance(2.1)
        with pytest.raises(CallTimeout):
            await reading
        assert [event.token for event in seen if isinstance(event, Text)] == (
            await fresh_tokens("hello", max_tokens=4, **GREEDY)
        )
        with pytest.raises(CallTimeout):
            await stream.result()
        assert [event async for event in stream] == []


async def test_the_timer_of_a_request_goes_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    timers: list[asyncio.TimerHandle] = []
    original = LoopClock.call_later

    def call_later(self: LoopClock, delay: float, callback: Any) -> Any:
        timer: Any = original(self, delay, callback)
        if delay > 9 * PATIENCE_S:
            timers.append(timer)
        return timer

    monkeypatch.setattr(LoopClock, "call_later", call_later)
    async with Stage().model() as model:
        await model.complete("hello", max_tokens=1, timeout=10 * PATIENCE_S)
        await model.stream("hello", timeout=10 * PATIENCE_S).cancel()
        assert [timer.cancelled() for timer in timers] == [True]


# An engine that refuses


async def test_a_step_that_the_engine_refuses_fails_its_request_and_no_other() -> None:
    stage = Stage()
    async with stage.model() as model:
        stage.fail(lambda plan: DecodeFailed("no") if b"bad" in bytes_of(plan) else None)
        answers = await settled(asked(model, "good"), asked(model, "bad"), asked(model, "good"))
        assert isinstance(answers[1], DecodeFailed)
        assert answers[0].tokens == answers[2].tokens
        assert model.status().restarts == 0
        await assert_as_new(model)


def bytes_of(plan: StepPlan) -> bytes:
    return prompt_of(plan) if prefilling(plan) else b""


# What a model shows


async def test_the_status_follows_a_request() -> None:
    stage = Stage()
    async with stage.model() as model:
        assert model.status().phase == "idle"
        stage.pause(decoding)
        task = asked(model, "hello", max_tokens=3)
        await stage.held.wait()
        status = model.status()
        assert (status.phase, status.active, status.pending) == ("running", 1, 0)
        assert status.heartbeat_age_s >= 0
        assert status.prefill_tokens_per_s > 0
        stage.resume()
        await task
        assert model.status().decode_tokens_per_s > 0
        await assert_as_new(model)


async def test_the_info_of_a_model_says_what_it_runs_in() -> None:
    async with Stage().model(n_ctx=256, n_batch=128) as model:
        info = model.info()
    assert (info.id, info.path) == ("stub", "stub.gguf")
    assert (info.n_ctx, info.n_batch, info.n_seq_max, info.granule) == (256, 128, 1, 64)
    assert (info.can_generate, info.can_abort) == (True, True)
    assert len(info.fingerprint) == 64
