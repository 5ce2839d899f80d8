"""What was computed before something went wrong is used again, and is right."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest

from erllama import EngineCrashed, PrefillProgress, SessionBusy
from erllama.backend.base import StepPlan
from tests.cache_exact.room import FEW, PLAIN, SAMPLED, Case, room


@pytest.mark.parametrize("case", PLAIN[:4], ids=lambda case: case.name)
async def test_a_cancelled_prefill_leaves_rows_that_equal_a_cold_run(case: Case) -> None:
    async with room() as here:
        seat = await here.load(case, n_batch=64, n_ubatch=64)
        prompt = seat.prompt(500)
        cold = await seat.cold(prompt, 20)
        async with seat.model.stream(prompt, prefill_progress=True, temperature=0) as stream:
            async for event in stream:
                if isinstance(event, PrefillProgress) and event.done >= 256:
                    break
        warm = await seat.ask(prompt, 20, exact=True)
        assert 256 <= warm.completion.cache.read < 500
        assert warm.completion.cache.read % 64 == 0
        assert warm.completion.cache.pure
        assert warm.record.logits == cold.record.logits


@pytest.mark.parametrize("case", FEW, ids=lambda case: case.name)
async def test_a_reply_that_is_cancelled_is_resumed_from_its_key(case: Case) -> None:
    async with room() as here:
        seat = await here.load(case)
        prompt = seat.prompt(100)
        unbroken = await seat.cold(prompt, 80, **SAMPLED)
        stream = seat.model.stream(prompt, max_tokens=60, **SAMPLED)
        async with stream:
            seen = 0
            async for _ in stream:
                seen += 1
                if seen == 5:
                    await stream.cancel()
        first = await stream.result()
        n = len(first.tokens)
        assert first.finish_key is not None
        second = await seat.ask(
            first.context_tokens, 80 - n, parent_key=first.finish_key, **SAMPLED
        )
    assert 5 <= n < 60
    # the token under way when the cancel came may have been computed already, or not
    assert second.completion.cache.read in (100 + n - 1, 100 + n)
    assert [*first.tokens, *second.tokens] == unbroken.tokens


@pytest.mark.parametrize("case", FEW, ids=lambda case: case.name)
@pytest.mark.parametrize("session", [None, "a"])
async def test_a_cancel_while_a_token_is_computed_loses_nothing_before_it(
    case: Case, session: str | None
) -> None:
    begun, cancelled = threading.Event(), threading.Event()

    def wait(plan: StepPlan) -> None:
        if any(row.pos == 105 for row in plan.rows):
            begun.set()
            cancelled.wait(30)

    async with room() as here:
        seat = await here.load(case)
        prompt = seat.prompt(100)
        unbroken = await seat.cold(prompt, 40, **SAMPLED)
        here.spy.in_step = wait
        stream = seat.model.stream(prompt, max_tokens=60, session_id=session, **SAMPLED)
        async with stream:
            await asyncio.to_thread(begun.wait, 30)
            cancelling = asyncio.create_task(stream.cancel())
            await asyncio.sleep(0)
            with contextlib.suppress(SessionBusy):
                await seat.model.end_session(session or "none")  # served after the cancel
            here.spy.in_step = lambda _: None
            cancelled.set()
            first = await cancelling
        n = len(first.tokens)
        own = {"parent_key": first.finish_key} if session is None else {"session_id": session}
        second = await seat.ask(first.context_tokens, 40 - n, **own, **SAMPLED)
    assert n in (6, 7)  # the one under way is finished where it cannot be taken back
    assert second.completion.cache.read == 100 + n - 1
    assert second.completion.cache.hit == ("partial" if session is None else "sticky")
    assert [*first.tokens, *second.tokens] == unbroken.tokens


@pytest.mark.parametrize("case", FEW, ids=lambda case: case.name)
async def test_after_a_crash_the_prompt_is_there_and_the_lost_reply_is_computed(case: Case) -> None:
    """Nobody was given a name for the reply that the crash cut: what it left changes no answer."""
    async with room() as here:
        seat = await here.load(case, continued_interval=64)
        prompt = seat.prompt(200)
        unbroken = await seat.cold(prompt, 180, **SAMPLED)

        def fail(plan: StepPlan) -> None:
            if any(row.pos == 360 for row in plan.rows):
                raise RuntimeError("the engine fails")

        here.spy.before_step = fail
        with pytest.raises(EngineCrashed):
            await seat.model.complete(prompt, max_tokens=180, **SAMPLED)
        here.spy.before_step = lambda _: None
        context = [*prompt, *unbroken.tokens[:175]]
        again = await seat.ask(context, 5, **SAMPLED)
        assert here.runtime.cache.counters().saves_continued > 0
        cold = await seat.cold(context, 5, **SAMPLED)
    assert again.completion.cache.read == 192
    assert again.record.logits == cold.record.logits


async def test_two_thousand_generated_tokens_are_saved_as_they_come() -> None:
    async with room() as here:
        seat = await here.load(PLAIN[2], continued_interval=100, n_ctx=1_024)
        prompt = seat.prompt(40)
        answer = await seat.ask(prompt, 600)
        counted = here.runtime.cache.counters()
        assert counted.saves_continued == 2  # full blocks only: up to 256, up to 512
        assert [ranges for ranges, _ in answer.record.saved[:2]] == [
            (((0, 256)),),
            (((256, 512)),),
        ]
        longer = await seat.ask([*answer.context, 300], 4, parent_key=answer.key)
        assert longer.completion.cache.read == 639


async def test_a_stopped_runtime_keeps_the_prompt_of_a_request_that_ran(tmp_path: object) -> None:
    async with room(cache_dir=str(tmp_path)) as here:
        seat = await here.load(PLAIN[0])
        prompt = seat.prompt(100)
        stream = seat.model.stream(prompt, max_tokens=800, **SAMPLED)
        seen = 0
        async for _ in stream:
            seen += 1
            if seen == 20:
                break_here = here.runtime.stop()
                await break_here
                break
    async with room(cache_dir=str(tmp_path)) as here:
        seat = await here.load(PLAIN[0])
        cold = await seat.cold(prompt, 60, **SAMPLED)
        again = await seat.ask(prompt, 60, **SAMPLED)
    assert again.completion.cache.read == 64
    assert again.tokens == cold.tokens
