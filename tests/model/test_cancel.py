"""Every way to end a request early, at every moment of its life.

After each the model is idle, nothing waits, and the next request gets what a new model answers.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from erllama import CallTimeout, Completion, Model, Runtime, Stream, Text
from erllama.actor.testing import settle
from erllama.backend.base import StepOutcome, StepPlan
from erllama.backend.stub import StubEngine
from tests.model.staging import (
    PATIENCE_S,
    Stage,
    When,
    always,
    assert_as_new,
    decoding,
    fresh_tokens,
    never,
    prefilling,
    until,
)

GREEDY: dict[str, Any] = {"temperature": 0}
LONG = "a long prompt " * 20


async def by_cancel(stream: Stream) -> None:
    assert (await stream.cancel()).finish_reason == "cancelled"


async def by_aclose(stream: Stream) -> None:
    await stream.aclose()


async def by_leaving_the_block(stream: Stream) -> None:
    async with stream:
        pass


async def by_cancelling_the_reader(stream: Stream) -> None:
    async def read() -> None:
        async for _ in stream:
            pass

    reader = asyncio.create_task(read())
    await settle()
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert (await stream.result()).finish_reason == "cancelled"


async def by_cancelling_the_wait_for_the_result(stream: Stream) -> None:
    waiter = asyncio.create_task(stream.result())
    await settle()
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert (await stream.result()).finish_reason == "cancelled"


async def by_cancelling_twice(stream: Stream) -> None:
    first, second = await asyncio.gather(stream.cancel(), stream.cancel())
    assert first == second
    assert await stream.cancel() == first
    await stream.aclose()


WAYS: list[Callable[[Stream], Awaitable[None]]] = [
    by_cancel,
    by_aclose,
    by_leaving_the_block,
    by_cancelling_the_reader,
    by_cancelling_the_wait_for_the_result,
    by_cancelling_twice,
]
MOMENTS: dict[str, When] = {
    "in its first slice": prefilling,
    "in a later slice": lambda plan: plan.prefill is not None and plan.prefill.pos >= 64,
    "in its tail": lambda plan: plan.prefill is not None and plan.prefill.logits,
    "in its first token": decoding,
    "in its fifth token": lambda plan: bool(plan.rows) and plan.rows[0].pos >= len(LONG) + 5,
}


async def started(stream: Stream) -> None:
    """Submit a stream without keeping anything of it."""
    await stream._start()


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_running_step_is_cut_short(
    way: Callable[[Stream], Awaitable[None]], moment: str
) -> None:
    stage = Stage()
    async with stage.model(n_batch=64) as model:
        stage.hang(MOMENTS[moment])
        stream = model.stream(LONG, **GREEDY)
        await started(stream)
        await stage.held.wait()
        n_steps = len(stage.plans)
        await way(stream)
        assert len(stage.plans) == n_steps, "no step was begun after the end"
        stage.resume()
        await assert_as_new(model)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_a_request_in_the_queue_ends_at_once(
    way: Callable[[Stream], Awaitable[None]],
) -> None:
    stage = Stage()
    async with stage.model() as model:
        stage.pause(always)
        others = [asyncio.create_task(model.complete("other", max_tokens=2, **GREEDY))]
        await stage.held.wait()
        stream = model.stream("waits", **GREEDY)
        await started(stream)
        others.append(asyncio.create_task(model.complete("other", max_tokens=2, **GREEDY)))
        await settle()
        await way(stream)
        assert model.status().pending == 1
        stage.resume()
        first, second = await asyncio.gather(*others)
        assert first.tokens == second.tokens
        assert not any(b"waits" in prompt_bytes(plan) for plan in stage.plans)
        await assert_as_new(model)


def prompt_bytes(plan: StepPlan) -> bytes:
    return bytes(t for t in plan.prefill.tokens if t < 256) if plan.prefill else b""


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_a_request_whose_model_still_loads_ends_at_once(
    way: Callable[[Stream], Awaitable[None]],
) -> None:
    stage = Stage()
    async with stage.runtime() as runtime:
        stage.pause_loading()
        loading = asyncio.create_task(runtime.load_model("stub.gguf"))
        await stage.load_held.wait()
        stream = runtime.model("stub").stream("early")
        await started(stream)
        await way(stream)
        assert runtime.model("stub").status().pending == 0
        stage.resume()
        model = await loading
        assert stage.plans == []
        await assert_as_new(model)


async def test_a_request_whose_text_is_being_tokenized_ends_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Stage()
    async with stage.model() as model:
        begun, go_on = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        original = StubEngine.tokenize

        def slow(self: StubEngine, text: str, **options: Any) -> Any:
            if len(text) > 1_024:
                loop.call_soon_threadsafe(begun.set)
                asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(PATIENCE_S)
            return original(self, text, **options)

        monkeypatch.setattr(StubEngine, "tokenize", slow)
        stream = model.stream("x" * 2_000)
        await started(stream)
        await begun.wait()
        assert (await stream.cancel()).finish_reason == "cancelled"
        assert model.status().pending == 0
        go_on.set()
        await assert_as_new(model)
        assert not any(len(prompt_bytes(plan)) > 100 for plan in stage.plans)


async def test_a_cancel_that_overtakes_its_request_ends_it_before_it_waits() -> None:
    stage = Stage()
    async with stage.model() as model:
        stage.pause(always)
        other = asyncio.create_task(model.complete("other", max_tokens=1))
        await stage.held.wait()
        stream = model.stream("late")
        # no turn of the loop between the two: the cancel is served first
        done = await stream.cancel()
        assert (done.finish_reason, done.tokens, done.text) == ("cancelled", [], "")
        assert not other.done()
        stage.resume()
        await other
        await assert_as_new(model)


async def test_a_full_queue_still_takes_a_cancel() -> None:
    stage = Stage()
    async with stage.model(max_queue=1) as model:
        stage.pause(always)
        others = [asyncio.create_task(model.complete("other", max_tokens=1)) for _ in range(2)]
        await stage.held.wait()
        await settle()
        waiting = [other for other in others if not other.done()]
        assert len(waiting) == 2
        waiting[1].cancel()
        await settle()
        assert model.status().pending == 0
        another = asyncio.create_task(model.complete("another", max_tokens=1))
        stage.resume()
        await asyncio.gather(waiting[0], another)
        await assert_as_new(model)


@pytest.mark.parametrize("moment", MOMENTS)
async def test_cancelling_a_task_that_completes_ends_the_request(moment: str) -> None:
    stage = Stage()
    async with stage.model(n_batch=64) as model:
        stage.hang(MOMENTS[moment])
        task = asyncio.create_task(model.complete(LONG, **GREEDY))
        await stage.held.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        stage.resume()
        await assert_as_new(model)


@pytest.mark.parametrize("turns", range(8))
async def test_a_task_that_is_cancelled_some_turns_after_it_asked_leaves_nothing(
    turns: int,
) -> None:
    stage = Stage()
    async with stage.model() as model:
        stage.hang(decoding)
        task = asyncio.create_task(model.complete("never mind"))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        stage.resume()
        await assert_as_new(model)


async def test_a_timeout_scope_around_a_completion_ends_it() -> None:
    stage = Stage()
    async with stage.model() as model:
        stage.hang(decoding)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await model.complete("hello")
        stage.resume()
        await assert_as_new(model)


async def test_leaving_the_loop_by_break_ends_the_request() -> None:
    stage = Stage()
    async with stage.model() as model:
        stage.hang(lambda plan: bool(plan.rows) and plan.rows[0].pos > 10)
        seen = []
        stream = model.stream("hello", **GREEDY)
        async for event in stream:
            seen.append(event)
            if len(seen) == 3:
                break
        done = await stream.result()
        stage.resume()
        assert done.finish_reason == "cancelled"
        assert done.tokens[:3] == await fresh_tokens("hello", max_tokens=3, **GREEDY)
        await assert_as_new(model)


async def test_leaving_the_loop_over_the_texts_by_break_ends_the_request() -> None:
    stage = Stage()
    async with stage.model() as model:
        stream = model.stream("hello", **GREEDY)
        async for _ in stream.text():
            stage.hang(always)
            break
        assert (await stream.result()).finish_reason == "cancelled"
        stage.resume()
        await assert_as_new(model)


@pytest.mark.parametrize("moment", MOMENTS)
async def test_dropping_the_last_reference_ends_the_request(moment: str) -> None:
    stage = Stage()
    async with stage.model(n_batch=64) as model:
        stage.hang(MOMENTS[moment])
        stream = model.stream(LONG, **GREEDY)
        await started(stream)
        await stage.held.wait()
        stage.hang(never)  # from the next step on: the one that hangs must be aborted
        del stream
        gc.collect()
        await model.complete("next", max_tokens=1)
        await assert_as_new(model)


async def test_a_stream_that_is_dropped_by_another_thread_ends_too() -> None:
    stage = Stage()
    async with stage.model() as model:
        stage.hang(decoding)
        box = [model.stream("hello")]
        await started(box[0])
        await stage.held.wait()
        stage.hang(never)
        await asyncio.to_thread(box.clear)
        await model.complete("next", max_tokens=1)
        await assert_as_new(model)


async def test_a_cancel_after_the_end_changes_nothing() -> None:
    async with Stage().model() as model:
        stream = model.stream("hello", max_tokens=3, **GREEDY)
        events = [event async for event in stream]
        done = await stream.result()
        assert await stream.cancel() == done
        await stream.aclose()
        assert done.finish_reason == "length"
        assert len(events) == 4
        await assert_as_new(model)


async def test_a_stream_that_was_closed_before_it_began_computes_nothing() -> None:
    stage = Stage()
    async with stage.model() as model:
        stream = model.stream("hello")
        await stream.aclose()
        events = [event async for event in stream]
        assert [getattr(event, "completion", None) for event in events] == [await stream.result()]
        assert (await stream.result()).finish_reason == "cancelled"
        assert stage.plans == []
        await assert_as_new(model)


async def test_a_stream_that_nobody_awaits_sends_nothing() -> None:
    stage = Stage()
    async with stage.model() as model:
        model.stream("hello")
        await settle()
        assert stage.plans == []
        await assert_as_new(model)


async def test_one_of_many_is_cancelled_and_the_others_do_not_notice() -> None:
    stage = Stage()
    async with stage.model() as model:
        stage.pause(always)
        streams = [model.stream(f"stream {n}", max_tokens=5, **GREEDY) for n in range(10)]
        for stream in streams:
            await started(stream)
        await stage.held.wait()
        await settle()
        cancelled = [streams[0], streams[4], streams[9]]
        ends = [asyncio.create_task(stream.cancel()) for stream in cancelled]
        await settle()
        assert model.status().pending == 7
        stage.resume()
        assert {(await end).finish_reason for end in ends} == {"cancelled"}
        for n, stream in enumerate(streams):
            if stream not in cancelled:
                expected = await fresh_tokens(f"stream {n}", max_tokens=5, **GREEDY)
                assert (await stream.result()).tokens == expected
        await assert_as_new(model)


async def test_a_cancelled_request_keeps_what_it_had() -> None:
    stage = Stage()
    async with stage.model() as model:
        stage.hang(lambda plan: bool(plan.rows) and plan.rows[0].pos >= 10)
        stream = model.stream("hello", **GREEDY)
        await started(stream)
        await stage.held.wait()
        done = await stream.cancel()
        events = [event async for event in stream]
        stage.resume()
        assert done.tokens == await fresh_tokens("hello", max_tokens=5, **GREEDY)
        assert done.context_tokens == [257, *b"hello", *done.tokens]
        assert "".join(e.text for e in events if isinstance(e, Text)) == done.text
        await assert_as_new(model)


async def test_an_engine_that_cannot_abort_ends_a_request_with_its_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = StubEngine.__init__

    def unable(self: StubEngine, *arguments: Any) -> None:
        original(self, *arguments)
        self.capabilities = msgspec.structs.replace(self.capabilities, abort=False)

    monkeypatch.setattr(StubEngine, "__init__", unable)
    stage = Stage()
    async with stage.model() as model:
        stage.pause(decoding)
        stream = model.stream("hello", **GREEDY)
        await started(stream)
        await stage.held.wait()
        ending = asyncio.create_task(stream.cancel())
        await settle()
        assert not ending.done()
        stage.resume()
        assert (await ending).finish_reason == "cancelled"
        assert sum(1 for plan in stage.plans if plan.rows) == 1
        await assert_as_new(model)


# The same on a real model


@pytest.fixture
def outcomes(monkeypatch: pytest.MonkeyPatch) -> list[StepOutcome]:
    """The outcomes of all steps of llama.cpp engines."""
    from erllama.backend.llama.engine import LlamaEngine

    seen: list[StepOutcome] = []
    original = LlamaEngine.step

    def step(self: LlamaEngine, plan: StepPlan) -> StepOutcome:
        outcome = original(self, plan)
        seen.append(outcome)
        return outcome

    monkeypatch.setattr(LlamaEngine, "step", step)
    return seen


@pytest.mark.parametrize("how", ["cancel", "task", "timeout", "drop"])
async def test_a_long_prefill_of_a_real_model_is_cut(
    tiny_gguf: Path, how: str, outcomes: list[StepOutcome]
) -> None:
    prompt = [n % 500 for n in range(4_095)]
    async with asyncio.timeout(PATIENCE_S), Runtime() as runtime:
        model = await runtime.load_model(tiny_gguf, n_ctx=4_096, n_batch=4_096, n_threads=1)
        before = await model.complete("hello", max_tokens=8, **GREEDY)
        outcomes.clear()
        await end_early(model, prompt, how)
        after = await model.complete("hello", max_tokens=8, **GREEDY)
        assert outcomes[0].status == "aborted"
        assert [outcome.status for outcome in outcomes[1:]] == ["done"] * 8
        assert after.tokens == before.tokens
        assert model.status().restarts == 0


async def end_early(model: Model, prompt: list[int], how: str) -> None:
    if how == "timeout":
        with pytest.raises(CallTimeout, match="timeout"):
            await model.complete(prompt, timeout=0.01)
    elif how == "task":
        task = asyncio.create_task(model.complete(prompt))
        await until_running(model)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        stream = model.stream(prompt)
        await started(stream)
        await until_running(model)
        if how == "cancel":
            done: Completion = await stream.cancel()
            assert (done.finish_reason, done.tokens) == ("cancelled", [])


async def until_running(model: Model) -> None:
    await until(lambda: model.status().phase == "running")
