"""Many requests at once on one model: who is computed when, and that no answer depends on it."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from erllama import CallTimeout, Completion, PromptTooLong, QueueFull, Text
from erllama.actor.testing import ManualClock, settle
from erllama.backend.stub import StubEngine
from tests.model.staging import (
    PATIENCE_S,
    Stage,
    always,
    asked,
    assert_as_new,
    decoding,
    fresh_tokens,
    prefilling,
    rows_of,
    until,
)

GREEDY: dict[str, Any] = {"temperature": 0}


def prompt(n: int, length: int = 20) -> list[int]:
    """The prompt of request `n`, unlike all others from its first token on."""
    return [n, *(i % 250 for i in range(1, length))]


def begins(stage: Stage) -> list[int]:
    """The sequence of each prompt, in the order in which they were begun."""
    return [begin.seq for plan in stage.plans if plan.prefill for begin in plan.begin]


@pytest.mark.parametrize("n_seq_max", [1, 4, 8])
async def test_many_requests_get_the_answers_that_each_would_get_alone(n_seq_max: int) -> None:
    stage = Stage()
    async with stage.model(n_seq_max=n_seq_max) as model:
        tasks = [asked(model, prompt(n, 3 + 17 * n), max_tokens=20 + n) for n in range(12)]
        answers = await asyncio.gather(*tasks)
        for n, answer in enumerate(answers):
            assert answer.tokens == await fresh_tokens(
                prompt(n, 3 + 17 * n), max_tokens=20 + n, **GREEDY
            )
        await assert_as_new(model)
    assert max(len(plan.rows) for plan in stage.plans) == n_seq_max
    assert all(not (plan.rows and plan.prefill) for plan in stage.plans)


async def test_the_text_of_a_seed_does_not_depend_on_company_or_sequence() -> None:
    sampled: dict[str, Any] = {"temperature": 1.0, "seed": 7, "max_tokens": 12}
    async with Stage().model() as model:
        alone = await model.complete(prompt(0), **sampled)
    stage = Stage()
    async with stage.model(n_seq_max=4, enabled=False) as model:
        stage.pause(always)
        first = asked(model, prompt(9), max_tokens=9)
        await stage.held.wait()
        others = [asked(model, prompt(n), max_tokens=6) for n in (1, 2)]
        same = asyncio.create_task(model.complete(prompt(0), **sampled))
        stage.resume()
        await asyncio.gather(first, *others)
        assert (await same).tokens == alone.tokens
        await assert_as_new(model)


async def test_streams_of_several_readers_come_token_by_token_side_by_side() -> None:
    stage = Stage()
    seen: list[int] = []
    async with stage.model(n_seq_max=4) as model:
        stage.pause(always)

        async def read(n: int) -> None:
            async for event in model.stream(prompt(n), max_tokens=10, **GREEDY):
                if isinstance(event, Text):
                    seen.append(n)  # noqa: PERF401 (the order among the readers counts)

        readers = [asyncio.create_task(read(n)) for n in range(4)]
        await stage.held.wait()
        await settle()
        stage.resume()
        await asyncio.gather(*readers)
        await assert_as_new(model)
    # all four prompts are done before anybody is through, and then each step has all four
    assert [rows_of(plan) for plan in stage.plans if len(plan.rows) == 4]
    firsts = [seen.index(n) for n in range(4)]
    lasts = [len(seen) - 1 - seen[::-1].index(n) for n in range(4)]
    assert max(firsts) < min(lasts)


async def test_decode_rows_come_in_rising_order_of_sequences() -> None:
    stage = Stage()
    async with stage.model(n_seq_max=8) as model:
        await asyncio.gather(*(asked(model, prompt(n), max_tokens=4 + n) for n in range(20)))
        await assert_as_new(model)
    assert all(list(rows_of(plan)) == sorted(rows_of(plan)) for plan in stage.plans)


async def test_the_lowest_free_sequence_is_taken() -> None:
    stage = Stage()
    async with stage.model(n_seq_max=4) as model:
        stage.pause(always)
        streams = [model.stream(prompt(n), max_tokens=500, **GREEDY) for n in range(3)]
        for stream in streams:
            await stream._start()
        await stage.held.wait()
        await settle()
        await stage.go_on_to(lambda plan: len(plan.rows) == 3)
        ending = asyncio.create_task(streams[1].cancel())
        await settle()
        await stage.go_on_to(lambda plan: rows_of(plan) == (0, 2))
        await ending
        late = [asked(model, prompt(n), max_tokens=1) for n in (7, 8)]
        await settle()
        stage.resume()
        await asyncio.gather(*late)
        assert begins(stage) == [0, 1, 2, 1, 3]
        await asyncio.gather(*(stream.cancel() for stream in streams))
        await assert_as_new(model)


async def test_a_long_prompt_does_not_stop_the_streams_of_others() -> None:
    stage = Stage()
    async with stage.model(n_seq_max=4, n_batch=64, n_ctx=4_096) as model:
        stage.pause(decoding)
        streaming = [asked(model, prompt(n), max_tokens=200) for n in (1, 2)]
        await stage.held.wait()
        late = asked(model, prompt(3, 1_000), max_tokens=2)
        await settle()
        stage.resume()
        await asyncio.gather(late, *streaming)
        await assert_as_new(model)
    slices = [i for i, plan in enumerate(stage.plans) if plan.prefill and plan.prefill.pos]
    assert len(slices) == 15
    between = [stage.plans[i + 1 : j] for i, j in itertools.pairwise(slices)]
    assert all(len(plans) == 1 and len(plans[0].rows) == 2 for plans in between)


async def test_a_new_request_joins_while_others_decode() -> None:
    stage = Stage()
    async with stage.model(n_seq_max=2) as model:
        stage.pause(lambda plan: bool(plan.rows) and plan.rows[0].pos == 25)
        first = asked(model, prompt(1), max_tokens=40)
        await stage.held.wait()
        second = asked(model, prompt(2), max_tokens=5)
        await settle()
        stage.resume()
        assert len((await second).tokens) == 5
        assert not first.done()
        await first
        await assert_as_new(model)


# Ends of one among many


async def test_cancelling_one_of_a_batch_leaves_the_others() -> None:
    stage = Stage()
    async with stage.model(n_seq_max=4) as model:
        stage.pause(lambda plan: len(plan.rows) == 3)
        stream = model.stream(prompt(1), **GREEDY)
        await stream._start()
        others = [asked(model, prompt(n), max_tokens=30) for n in (2, 3)]
        await stage.held.wait()
        ending = asyncio.create_task(stream.cancel())
        await settle()
        stage.resume()
        assert (await ending).finish_reason == "cancelled"
        for n, other in zip((2, 3), others, strict=True):
            assert (await other).tokens == await fresh_tokens(prompt(n), max_tokens=30, **GREEDY)
        await assert_as_new(model)


async def test_a_prompt_that_is_cancelled_between_others_is_computed_no_further() -> None:
    stage = Stage()
    async with stage.model(n_seq_max=4, n_batch=64) as model:
        stage.pause(lambda plan: plan.prefill is not None and plan.prefill.pos == 128)
        other = asked(model, prompt(1), max_tokens=60)
        stream = model.stream(prompt(2, 1_000), **GREEDY)
        await stream._start()
        await stage.held.wait()
        ending = asyncio.create_task(stream.cancel())
        await settle()
        stage.resume()
        await ending
        await other
        assert max(plan.prefill.pos for plan in stage.plans if plan.prefill) == 128
        await assert_as_new(model)


async def test_a_timeout_ends_one_of_a_batch_and_leaves_the_others(clock: ManualClock) -> None:
    stage = Stage()
    async with stage.model(n_seq_max=4) as model:
        stage.pause(lambda plan: len(plan.rows) == 2)
        other = asked(model, prompt(1), max_tokens=30)
        late = asked(model, prompt(2), timeout=2.0)
        await stage.held.wait()
        await clock.advance(2.1)
        stage.resume()
        with pytest.raises(CallTimeout, match="generated"):
            await late
        assert (await other).tokens == await fresh_tokens(prompt(1), max_tokens=30, **GREEDY)
        await assert_as_new(model)


# The queue


async def test_what_does_not_fit_waits_and_one_too_many_is_told_when_to_come_back() -> None:
    stage = Stage()
    async with stage.model(n_seq_max=4, max_queue=3) as model:
        stage.pause(always)
        tasks = [asked(model, prompt(n), max_tokens=2) for n in range(7)]
        await stage.held.wait()
        await settle()
        assert (model.status().active, model.status().pending) == (4, 3)
        with pytest.raises(QueueFull, match="max_queue") as refused:
            await model.complete(prompt(8))
        assert refused.value.retry_after > 0
        stage.resume()
        assert all(isinstance(done, Completion) for done in await asyncio.gather(*tasks))
        await assert_as_new(model)


async def test_retry_after_is_never_zero_however_quick_requests_are() -> None:
    stage = Stage()
    async with stage.model(max_queue=1) as model:
        for n in range(40):
            await model.complete(prompt(n), max_tokens=1)
        stage.pause(always)
        tasks = [asked(model, prompt(n), max_tokens=1) for n in range(2)]
        await stage.held.wait()
        await settle()
        with pytest.raises(QueueFull) as refused:
            await model.complete(prompt(8))
        assert refused.value.retry_after > 0
        stage.resume()
        await asyncio.gather(*tasks)
        await assert_as_new(model)


async def test_a_request_that_waits_too_long_for_a_sequence_is_told_so(clock: ManualClock) -> None:
    stage = Stage()
    async with stage.model(n_seq_max=2, queue_timeout_s=2.0) as model:
        stage.pause(always)
        active = [asked(model, prompt(n), max_tokens=2) for n in range(2)]
        await stage.held.wait()
        late = asked(model, prompt(3))
        await clock.advance(2.1)
        with pytest.raises(CallTimeout, match=r"queue_timeout_s.*n_seq_max"):
            await late
        stage.resume()
        # those that had a sequence are not concerned, however long they take
        assert all(isinstance(done, Completion) for done in await asyncio.gather(*active))
        await assert_as_new(model)


async def test_a_text_that_is_still_tokenized_keeps_its_place_before_later_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Stage()
    async with stage.model(n_seq_max=2) as model:
        begun, go_on = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        original = StubEngine.tokenize

        def slow(self: StubEngine, text: str, **options: Any) -> Any:
            if len(text) > 1_024:
                loop.call_soon_threadsafe(begun.set)
                asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(PATIENCE_S)
            return original(self, text, **options)

        monkeypatch.setattr(StubEngine, "tokenize", slow)
        long = asked(model, "x" * 2_000, max_tokens=1)
        await begun.wait()
        tasks = [asked(model, prompt(n), max_tokens=3) for n in range(4)]
        await asyncio.wait(tasks[:1])
        await settle()
        # one sequence is kept for it, the other one serves
        assert set(begins(stage)) == {0}
        go_on.set()
        await asyncio.gather(long, *tasks)
        await assert_as_new(model)


# Odds and ends of steps


async def test_a_stop_sequence_drops_the_row_that_the_lane_computed_in_vain() -> None:
    stage = Stage()
    whole = await fresh_tokens(prompt(1), max_tokens=30, **GREEDY)
    stop = bytes(whole[10:13]).decode()
    async with stage.model(n_seq_max=2) as model:
        other = asked(model, prompt(2), max_tokens=40)
        done = await model.complete(prompt(1), stop=stop, session_id="s", **GREEDY)
        assert (done.finish_reason, done.stop_sequence) == ("stop", stop)
        text = bytes(whole).decode()
        assert done.text == text[: text.index(stop)]
        # whatever lies behind the stop on the sequence, the next turn is as if it were not there
        following = [*done.context_tokens, 1, 2, 3]
        again = await model.complete(following, max_tokens=9, session_id="s", **GREEDY)
        assert again.cache.hit == "sticky"
        assert again.tokens == await fresh_tokens(following, max_tokens=9, **GREEDY)
        assert (await other).tokens == await fresh_tokens(prompt(2), max_tokens=40, **GREEDY)
        await model.end_session("s")
        await assert_as_new(model)


async def test_a_sequence_is_handed_on_while_the_lane_still_computes_its_last_holder() -> None:
    stage = Stage()
    stops = [bytes((await fresh_tokens(prompt(n), max_tokens=8, **GREEDY))[6:8]) for n in range(24)]
    async with stage.model(n_seq_max=3) as model:
        tasks = [asked(model, prompt(n), max_tokens=20, stop=stops[n].decode()) for n in range(24)]
        for n, task in enumerate(tasks):
            done = await task
            expected = await fresh_tokens(
                prompt(n), max_tokens=20, stop=stops[n].decode(), **GREEDY
            )
            assert done.tokens == expected
        await assert_as_new(model)


async def test_the_status_counts_those_with_and_those_without_a_sequence() -> None:
    stage = Stage()
    async with stage.model(n_seq_max=2) as model:
        stage.pause(prefilling)
        tasks = [asked(model, prompt(n), max_tokens=2) for n in range(5)]
        await stage.held.wait()
        await settle()
        status = model.status()
        assert (status.phase, status.active, status.pending) == ("running", 2, 3)
        stage.resume()
        await asyncio.gather(*tasks)
        await until(lambda: model.status().active == 0)
        await assert_as_new(model)


async def test_a_prompt_out_of_the_middle_of_others_is_refused_alone() -> None:
    async with Stage().model(n_seq_max=4, n_ctx=64) as model:
        tasks = [asked(model, prompt(n), max_tokens=4) for n in range(3)]
        with pytest.raises(PromptTooLong):
            await asked(model, prompt(4, 65))
        await asyncio.gather(*tasks)
        await assert_as_new(model)
