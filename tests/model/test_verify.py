"""Draft and verify: guesses judged by the model's own choices, with nothing else touched."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama import RequestError, Verified
from erllama.model.verify import judge
from tests.model.staging import Stage, assert_as_new, fresh_tokens

GREEDY: dict[str, Any] = {"temperature": 0}
CONTEXT = [1 + i % 199 for i in range(200)]


@given(st.lists(st.integers(0, 2), max_size=6), st.lists(st.integers(0, 2), min_size=7, max_size=7))
def test_candidates_count_up_to_the_first_that_the_model_would_not_choose(
    candidates: list[int], likeliest: list[int]
) -> None:
    verified = judge(candidates, likeliest)
    n = verified.accepted
    assert candidates[:n] == likeliest[:n]
    assert n == len(candidates) or candidates[n] != likeliest[n]
    assert verified.next_token == likeliest[n]


async def test_what_a_model_drafts_it_accepts() -> None:
    async with Stage().model(n_seq_max=2) as model:
        guess = await model.draft(CONTEXT, 5)
        assert guess == await fresh_tokens(CONTEXT, max_tokens=5, **GREEDY)
        after = await fresh_tokens([*CONTEXT, *guess], max_tokens=1, **GREEDY)
        assert await model.verify(CONTEXT, guess) == Verified(accepted=5, next_token=after[0])
        wrong = [*guess[:2], 7, *guess[3:]]
        assert await model.verify(CONTEXT, wrong) == Verified(accepted=2, next_token=guess[2])
        assert await model.verify(CONTEXT, []) == Verified(accepted=0, next_token=guess[0])
        await assert_as_new(model)


@pytest.mark.parametrize("n", [1, 63, 64, 65, 200, 600])
async def test_contexts_of_any_length_are_verified_in_one_pass(n: int) -> None:
    context = (CONTEXT * 3)[:n]
    stage = Stage()
    async with stage.model(n_seq_max=2, n_ctx=1_024) as model:
        guess = await fresh_tokens(context, max_tokens=70, **GREEDY)
        assert (await model.verify(context, guess[:-1])) == Verified(
            accepted=69, next_token=guess[-1]
        )
        assert not any(plan.rows or plan.draws for plan in stage.plans)
        await assert_as_new(model)


async def test_a_context_in_the_cache_is_used_and_guesses_are_not_kept() -> None:
    stage = Stage()
    async with stage.model(n_seq_max=2, restore_margin=1_000.0) as model:
        await model.prefill(CONTEXT)
        await model.evict()
        before = sum(length for _, length in stage.slices())
        guess = [9] * 100
        await model.verify(CONTEXT, guess)
        await model.evict()
        assert sum(length for _, length in stage.slices()) - before < 64 + len(guess) + 1
        assert await model.cached_prefix([*CONTEXT, *guess]) <= len(CONTEXT)
        await assert_as_new(model)


async def test_a_session_is_untouched_by_what_is_verified_beside_it() -> None:
    async with Stage().model(n_seq_max=2) as model:
        first = await model.complete(CONTEXT, session_id="s", max_tokens=5, **GREEDY)
        await model.verify(first.context_tokens, [1, 2, 3])
        assert model.status().sessions == 1
        following = [*first.context_tokens, 4, 5]
        second = await model.complete(following, session_id="s", max_tokens=5, **GREEDY)
        assert second.cache.hit == "sticky"
        assert second.tokens == await fresh_tokens(following, max_tokens=5, **GREEDY)
        await model.end_session("s")
        await assert_as_new(model)


async def test_a_session_cannot_be_named_for_what_must_not_touch_it() -> None:
    async with Stage().model(n_seq_max=2) as model:
        first = await model.complete(CONTEXT, session_id="s", max_tokens=5, **GREEDY)
        with pytest.raises(RequestError, match="session_id"):
            await model.verify(CONTEXT, first.tokens, session_id="s")  # type: ignore[call-arg]
        with pytest.raises(RequestError, match="session_id"):
            await model.draft(CONTEXT, 3, session_id="s")  # type: ignore[call-arg]
        await model.end_session("s")
        await assert_as_new(model)


async def test_an_empty_context_is_refused() -> None:
    async with Stage().model() as model:
        with pytest.raises(RequestError, match="tokens: is empty"):
            await model.verify([], [1])
        with pytest.raises(RequestError, match="candidates"):
            await model.verify([1], "text")  # type: ignore[arg-type]
