"""Sticky sessions: the pure part, and a model's sessions on the stub."""

from __future__ import annotations

import array
import asyncio
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from erllama import Completion, Model, ModelNotFound, PromptTooLong, SessionBusy
from erllama.actor.testing import ManualClock, settle
from erllama.cache.lineage import Lineage
from erllama.model.scope import Scope
from erllama.model.sessions import Live, Sessions, reusable
from tests.model.staging import (
    Stage,
    always,
    asked,
    assert_as_new,
    crash,
    decoding,
    floor_of,
    fresh_tokens,
    until,
)

GREEDY: dict[str, Any] = {"temperature": 0}


def prompt(n: int, length: int = 40) -> list[int]:
    return [n, *(i % 250 for i in range(1, length))]


def live(tokens: list[int], *, sampled: int | None = None, **fields: Any) -> Live:
    defaults: dict[str, Any] = {
        "seq": 0,
        "lineage": Lineage(pure_end=len(tokens) // 2),
        "stored": len(tokens),
        "scope": Scope(""),
        "since": 0.0,
    }
    return Live(tokens=array.array("i", tokens), sampled=sampled, **(defaults | fields))


# Pure


def keeps(held: Live, prompt: list[int], **options: Any) -> tuple[int, bool]:
    defaults: dict[str, Any] = {"truncate": True, "resume": True, "exact": False, "granule": 64}
    return reusable(held, array.array("i", prompt), **(defaults | options))


@pytest.mark.parametrize(
    ("held", "prompt", "kept"),
    [
        (live([1, 2, 3], sampled=4), [1, 2, 3, 4, 5], (3, True)),
        (live([1, 2, 3], sampled=4), [1, 2, 3, 9, 5], (3, True)),
        (live([1, 2, 3]), [1, 2, 3, 4, 5], (3, False)),
        (live([1, 2, 3], sampled=4), [1, 2, 9, 4], (2, False)),
        (live([1, 2, 3], sampled=4), [1, 2, 3], (2, False)),
        (live([1, 2, 3], sampled=4), [1, 2], (1, False)),
        (live([1, 2, 3], sampled=4), [9], (0, False)),
        (live([], sampled=4), [4, 5], (0, True)),
    ],
)
def test_a_prompt_keeps_what_it_begins_with(
    held: Live, prompt: list[int], kept: tuple[int, bool]
) -> None:
    assert keeps(held, prompt) == kept


def test_a_state_that_cannot_be_cut_is_kept_whole_or_not_at_all() -> None:
    assert keeps(live([1, 2, 3], sampled=4), [1, 2, 3, 4], truncate=False) == (3, True)
    assert keeps(live([1, 2, 3], sampled=4), [1, 2, 9, 4], truncate=False) == (0, False)


def test_a_window_is_not_cut_to_where_its_rows_are_gone() -> None:
    held = live([1, 2, 3, 4], least=2)
    assert keeps(held, [1, 2, 9]) == (2, False)
    assert keeps(held, [1, 9, 9]) == (0, False)


@example(64, 64, 64, 64)
@given(st.integers(0, 300), st.integers(0, 300), st.integers(1, 300), st.integers(0, 300))
def test_an_exact_prompt_keeps_whole_granules_that_a_cold_run_would_make(
    n: int, pure_end: int, n_prompt: int, same: int
) -> None:
    tokens = [1] * n
    prompt = [1] * min(same, n_prompt) + [2] * (n_prompt - min(same, n_prompt))
    held = live(tokens, sampled=1, lineage=Lineage(pure_end=pure_end))
    kept, resumes = keeps(held, prompt, resume=False, exact=True)
    assert not resumes
    assert kept % 64 == 0
    assert kept <= min(n, pure_end, same)
    assert kept < n_prompt


def test_one_request_at_a_time_uses_a_session() -> None:
    sessions = Sessions()
    sessions.claim("a")
    sessions.claim("b")
    with pytest.raises(SessionBusy, match="'a' is running"):
        sessions.claim("a")
    with pytest.raises(SessionBusy, match="end that first"):
        sessions.end("a")
    sessions.release("a", None, "key")
    sessions.claim("a")
    assert sessions.key("a") == "key"


def test_what_a_request_leaves_is_taken_once() -> None:
    sessions = Sessions()
    sessions.claim("a")
    sessions.release("a", live([1]), None)
    assert sessions.held == 1
    sessions.claim("a")
    assert sessions.take("a") == live([1])
    assert (sessions.take("a"), sessions.held) == (None, 0)


def test_the_one_that_is_idle_for_longest_gives_way_first() -> None:
    sessions = Sessions()
    for name, since in (("a", 2.0), ("b", 1.0), ("c", 3.0)):
        sessions.claim(name)
        sessions.release(name, live([1], since=since), None)
    longest = sessions.idle_longest()
    assert longest is not None
    assert longest.since == 1.0
    assert [one.since for one in sessions.idle_since(2.0)] == [2.0]
    assert sessions.held == 1


def test_a_key_outlives_a_request_that_leaves_none_and_not_the_end() -> None:
    sessions = Sessions()
    sessions.claim("a")
    sessions.release("a", None, "key")
    sessions.claim("a")
    sessions.release("a", live([1]), None)
    assert sessions.key("a") == "key"
    assert sessions.end("a") == live([1])
    assert sessions.end("a") is None
    sessions.claim("a")
    assert sessions.key("a") is None


# On a model


async def turn(model: Model, tokens: list[int], session: str = "s", **options: Any) -> Completion:
    return await model.complete(
        tokens, **{"session_id": session, "max_tokens": 6, **GREEDY, **options}
    )


async def assert_cold(done: Completion, tokens: list[int], n: int = 6) -> None:
    assert done.tokens == await fresh_tokens(tokens, max_tokens=n, **GREEDY)


async def test_the_next_turn_goes_on_in_place() -> None:
    stage = Stage()
    async with stage.model(n_seq_max=2) as model:
        first = await turn(model, prompt(1))
        following = [*first.context_tokens, 7, 8, 9]
        second = await turn(model, following)
        assert (second.cache.hit, second.cache.tier) == ("sticky", "live")
        assert second.cache.read == len(first.context_tokens) - 1
        await assert_cold(second, following)
        assert sum(len(p.prefill.tokens) for p in stage.plans if p.prefill) == 40 + 1 + 3
        await model.end_session("s")
        await assert_as_new(model)


async def test_a_prompt_that_goes_another_way_keeps_what_is_common() -> None:
    async with Stage().model(n_seq_max=2) as model:
        await turn(model, prompt(1, 140))
        other = [*prompt(1, 140)[:130], 99, 98, 97]
        done = await turn(model, other)
        assert (done.cache.hit, done.cache.read) == ("sticky", 128)
        await assert_cold(done, other)
        again = await turn(model, prompt(1, 140))
        await assert_cold(again, prompt(1, 140))
        await model.end_session("s")
        await assert_as_new(model)


async def test_the_same_prompt_again_gets_the_same_answer() -> None:
    async with Stage().model(n_seq_max=1) as model:
        first = await turn(model, prompt(1))
        assert (await turn(model, prompt(1))).tokens == first.tokens
        await model.end_session("s")
        await assert_as_new(model)


async def test_the_turn_after_a_cancelled_one_waits_until_that_has_ended() -> None:
    stage = Stage()
    async with stage.model(n_seq_max=2) as model:
        stage.pause(decoding)
        first = asyncio.create_task(turn(model, prompt(1, 70), max_tokens=50))
        await stage.held.wait()
        first.cancel()
        second = asyncio.create_task(turn(model, prompt(1, 70), max_tokens=6))
        await settle()
        third = asyncio.create_task(turn(model, prompt(3)))
        fourth = asyncio.create_task(turn(model, prompt(4)))
        await settle()
        assert not second.done()
        fourth.cancel()
        stage.resume()
        answer = await second
        assert answer.cache.hit == "sticky"
        assert answer.tokens == await fresh_tokens(prompt(1, 70), max_tokens=6, **GREEDY)
        with pytest.raises(SessionBusy):
            await third
        with pytest.raises(asyncio.CancelledError):
            await fourth
        with pytest.raises(asyncio.CancelledError):
            await first
        await model.end_session("s")
        await assert_as_new(model)


async def test_a_turn_that_waits_for_a_cancelled_one_is_answered_when_the_model_goes() -> None:
    stage = Stage()
    async with stage.model() as model:
        stage.pause(decoding)
        first = asyncio.create_task(turn(model, prompt(1), max_tokens=50))
        await stage.held.wait()
        first.cancel()
        second = asyncio.create_task(turn(model, prompt(1)))
        await settle()
        unloading = asyncio.create_task(model.unload())
        await settle()
        stage.resume()
        await unloading
        with pytest.raises(ModelNotFound, match="unloaded"):
            await second


async def test_a_second_request_at_the_same_time_is_refused() -> None:
    stage = Stage()
    async with stage.model(n_seq_max=2) as model:
        stage.pause(always)
        first = asyncio.create_task(turn(model, prompt(1)))
        await stage.held.wait()
        with pytest.raises(SessionBusy):
            await turn(model, prompt(2))
        with pytest.raises(SessionBusy):
            await model.end_session("s")
        other = asyncio.create_task(turn(model, prompt(2), "other"))
        stage.resume()
        await asyncio.gather(first, other)
        assert model.status().sessions == 2
        await model.end_session("s")
        await model.end_session("other")
        await model.end_session("never seen")
        assert model.status().sessions == 0
        await assert_as_new(model)


async def test_a_session_of_another_salt_is_not_read() -> None:
    async with Stage().model(n_seq_max=1) as model:
        first = await turn(model, prompt(1), cache_salt="one")
        done = await turn(model, first.context_tokens, cache_salt="two")
        assert (done.cache.hit, done.cache.read) == ("cold", 0)
        await assert_cold(done, first.context_tokens)
        await model.end_session("s")
        await assert_as_new(model)


async def test_an_idle_session_gives_its_sequence_up_in_time(clock: ManualClock) -> None:
    async with Stage().model(n_seq_max=2, session_idle_s=0.7) as model:
        await clock.advance(0.1)
        first = await turn(model, prompt(1))
        assert model.status().sessions == 1
        await clock.advance(0.7)  # 0.1 + 0.7 - 0.7 is less than 0.1
        await until(lambda: model.status().sessions == 0)
        floor_of(model).check_integrity()
        following = [*first.context_tokens, 7]
        second = await turn(model, following)
        assert second.cache.hit == "partial", "its rows are in the cache"
        await assert_cold(second, following)
        await model.end_session("s")
        await assert_as_new(model)


async def test_when_sequences_run_out_the_session_that_is_idle_for_longest_gives_way(
    clock: ManualClock,
) -> None:
    async with Stage().model(n_seq_max=2, restore_margin=1_000.0) as model:
        turns = {}
        for name in ("a", "b"):
            turns[name] = await turn(model, prompt(ord(name)), name)
            await clock.advance(1.0)
        assert model.status().sessions == 2
        await asked(model, prompt(3), max_tokens=3)
        assert model.status().sessions == 1
        again = {name: await turn(model, [*turns[name].context_tokens, 5], name) for name in "ba"}
        assert (again["b"].cache.hit, again["a"].cache.hit) == ("sticky", "partial")
        for name, done in again.items():
            await assert_cold(done, [*turns[name].context_tokens, 5])
            await model.end_session(name)
        await assert_as_new(model)


async def test_a_crash_takes_the_sequences_and_not_the_answers() -> None:
    stage = Stage()
    async with stage.runtime() as runtime:
        model = await runtime.load_model("stub.gguf", n_seq_max=2)
        first = await turn(model, prompt(1))
        await crash(runtime, model.id)
        following = [*first.context_tokens, 7]
        second = await turn(model, following)
        assert second.cache.hit in ("cold", "partial")
        await assert_cold(second, following)
        third = [*second.context_tokens, 7]
        done = await turn(model, third)
        assert done.cache.hit == "sticky"
        await assert_cold(done, third)
        await model.end_session("s")
        await assert_as_new(model)


async def test_a_turn_that_was_cancelled_leaves_what_it_has() -> None:
    stage = Stage()
    async with stage.model(n_seq_max=2) as model:
        stage.pause(lambda plan: bool(plan.rows) and plan.rows[0].pos == 50)
        stream = model.stream(prompt(1), session_id="s", **GREEDY)
        await stream._start()
        await stage.held.wait()
        ending = asyncio.create_task(stream.cancel())
        await settle()
        stage.resume()
        done = await ending
        following = [*done.context_tokens, 7]
        second = await turn(model, following)
        assert second.cache.hit == "sticky"
        await assert_cold(second, following)
        await model.end_session("s")
        await assert_as_new(model)


async def test_a_turn_that_ends_in_the_queue_leaves_the_session_as_it_was() -> None:
    stage = Stage()
    async with stage.model(n_seq_max=2) as model:
        first = await turn(model, prompt(1))
        stage.pause(always)
        others = [asked(model, prompt(n), max_tokens=2, priority="high") for n in (2, 3)]
        await stage.held.wait()
        # the session gave its sequence up, or the turn has it: whichever, none is lost
        second = asyncio.create_task(turn(model, [*first.context_tokens, 7]))
        await settle()
        second.cancel()
        await settle()
        stage.resume()
        await asyncio.gather(*others)
        following = [*first.context_tokens, 8]
        await assert_cold(await turn(model, following), following)
        await model.end_session("s")
        await assert_as_new(model)


async def test_a_turn_that_fails_leaves_the_session_free() -> None:
    async with Stage().model(n_seq_max=2, n_ctx=128) as model:
        first = await turn(model, prompt(1))
        with pytest.raises(PromptTooLong):
            await turn(model, prompt(1, 200))
        following = [*first.context_tokens, 7]
        await assert_cold(await turn(model, following), following)
        await model.end_session("s")
        await assert_as_new(model)


@pytest.mark.parametrize("length", [64, 128, 100])
async def test_an_exact_turn_begins_at_a_granule(length: int) -> None:
    stage = Stage()
    async with stage.model(n_seq_max=1, n_ctx=512, enabled=False) as model:
        await turn(model, prompt(1, length))
        done = await turn(model, prompt(1, length), exact=True)
        assert done.cache.read % 64 == 0
        assert done.cache.pure
        assert all(pos % 64 == 0 for pos, _ in stage.slices())
        await model.end_session("s")
        await assert_as_new(model)


async def test_evicting_takes_the_sequences_of_idle_sessions() -> None:
    async with Stage().model(n_seq_max=2) as model:
        first = await turn(model, prompt(1))
        await model.evict()
        assert model.status().sessions == 0
        done = await turn(model, [*first.context_tokens, 4])
        assert done.cache.hit == "partial"
        await model.end_session("s")
        await assert_as_new(model)


async def test_more_sessions_than_sequences_all_go_on() -> None:
    async with Stage().model(n_seq_max=2) as model:
        contexts = {str(n): prompt(n) for n in range(5)}
        for _ in range(3):
            done = await asyncio.gather(*(turn(model, c, s) for s, c in contexts.items()))
            for (session, context), one in zip(list(contexts.items()), done, strict=True):
                await assert_cold(one, context)
                contexts[session] = [*one.context_tokens, 3]
        for session in contexts:
            await model.end_session(session)
        await assert_as_new(model)


async def test_a_turn_cancelled_before_the_last_token_of_its_prompt_leaves_the_rest_in_place() -> (
    None
):
    stage = Stage()
    async with stage.model(enabled=False) as model:
        stage.pause(lambda plan: plan.prefill is not None and plan.prefill.pos == 64)
        first = asked(model, prompt(1, 65), session_id="s")
        await stage.held.wait()
        first.cancel()
        await settle()
        stage.resume()
        with pytest.raises(asyncio.CancelledError):
            await first
        await until(lambda: model.status().active == 0)
        again = await model.complete(prompt(1, 65), session_id="s", max_tokens=4, **GREEDY)
        assert (again.cache.hit, again.cache.read) == ("sticky", 64)
        assert again.tokens == await fresh_tokens(prompt(1, 65), max_tokens=4, **GREEDY)
        await model.end_session("s")
        await assert_as_new(model)
    assert len(stage.loads) == 1
