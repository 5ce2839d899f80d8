"""A prompt that begins with restored rows is computed as in a cold run, bit for bit."""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import Any

import pytest

from tests.cache_exact.room import (
    CASES,
    CUT_AT_SNAPSHOTS,
    FEW,
    GREEDY,
    PLAIN,
    SAMPLED,
    Case,
    Room,
    Seat,
    room,
)

SHAPES: tuple[dict[str, Any], ...] = (
    {"n_ctx": 1_024, "n_batch": 512, "n_ubatch": 512},
    {"n_ctx": 2_048, "n_batch": 192, "n_ubatch": 64},
    {"n_ctx": 768, "n_batch": 256, "n_ubatch": 128},
)
LONGEST = 450


async def seats(here: Room, case: Case) -> list[Seat]:
    """One model in contexts of several shapes."""
    return [await here.load(case, **shape) for shape in SHAPES]


async def compare_with_cold(here: Room, case: Case, *, rounds: int) -> int:
    """Random prompts that begin as another one did; returns how many tokens were restored."""
    source = random.Random(case.name)
    all_seats = await seats(here, case)
    company = await here.load(PLAIN[4], n_ctx=512, n_batch=64, n_ubatch=64, model_id="company")
    restored = 0
    for n in range(rounds):
        one, other, third = (source.choice(all_seats) for _ in range(3))
        salt, options = f"round {n}", source.choice([GREEDY, SAMPLED])
        first = one.prompt(source.randrange(70, LONGEST), n)
        await one.ask(first, source.randrange(1, 40), cache_salt=salt, **options)
        shared = source.randrange(0, len(first) + 1)
        prompt = [*first[:shared], *one.prompt(source.randrange(1, LONGEST - shared + 2), n + 0.5)]
        cold = await other.cold(prompt, 8, **options)
        beside = asyncio.ensure_future(company.ask(company.prompt(150, n), 10))
        warm = await third.ask(prompt, 8, cache_salt=salt, exact=True, **options)
        await beside
        read = warm.completion.cache.read
        assert read % 64 == 0 or read == len(prompt)
        assert read <= shared or read == len(prompt)
        assert warm.completion.cache.pure
        assert warm.tokens == cold.tokens
        assert warm.record.logits == cold.record.logits, (case.name, n, read, len(prompt))
        restored += read
    return restored


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_prompts_in_any_context_and_company_equal_their_cold_runs(case: Case) -> None:
    async with room() as here:
        restored = await compare_with_cold(here, case, rounds=3)
    # Three random prompts may well begin alike nowhere near a snapshot; the tests below do.
    assert restored or case in CUT_AT_SNAPSHOTS


@pytest.mark.long
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_many_prompts_equal_their_cold_runs(case: Case) -> None:
    async with room() as here:
        assert await compare_with_cold(here, case, rounds=150)


@pytest.mark.parametrize("way", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("case", FEW, ids=lambda case: case.name)
async def test_forty_tokens_after_a_restored_beginning_equal_the_cold_ones(
    case: Case, way: dict[str, Any]
) -> None:
    async with room() as here:
        one, other, _ = await seats(here, case)
        first = one.prompt(500)
        await one.ask(first, 3, **way)
        # the last multiple of 64 before the end has a snapshot in every family
        prompt = [*first[:448], *one.prompt(90)]
        cold = await other.cold(prompt, 40, **way)
        warm = await other.ask(prompt, 40, **way)
        assert warm.completion.cache.hit == "partial"
        assert warm.completion.cache.read == 448
        assert warm.record.slices == [(448, 64), (512, 26)]
        assert warm.tokens == cold.tokens
        assert warm.record.logits == cold.record.logits


@pytest.mark.parametrize("length", [128, 150, 256, 257, 400])
@pytest.mark.parametrize("case", FEW, ids=lambda case: case.name)
async def test_the_same_prompt_again_is_sampled_from_stored_logits_and_nothing_is_computed(
    case: Case, length: int
) -> None:
    async with room() as here:
        one, other, _ = await seats(here, case)
        prompt = one.prompt(length)
        cold = await one.cold(prompt, 20, **SAMPLED)
        await one.ask(prompt, 5, **SAMPLED)
        for seat in (one, other):
            one_token = await seat.ask(prompt, 1, **SAMPLED)
            assert one_token.record.slices == []
            assert one_token.record.decoded == 0
            again = await seat.ask(prompt, 20, **SAMPLED)
            assert again.completion.cache.hit == "exact"
            assert again.completion.cache.pure
            assert again.record.restored == [length]
            assert (again.record.slices, again.record.decoded) == ([], 19)
            assert again.tokens == cold.tokens
            assert again.record.logits == cold.record.logits
            greedy = await seat.ask(prompt, 20)  # the logits know nothing of the sampler
            assert greedy.tokens == (await seat.cold(prompt, 20)).tokens


@pytest.mark.parametrize("case", [PLAIN[0], PLAIN[3]], ids=lambda case: case.name)
async def test_rows_of_a_reply_are_taken_by_nobody_who_does_not_name_it(case: Case) -> None:
    async with room() as here:
        seat = await here.load(case)
        first = await seat.ask(seat.prompt(200), 60)
        prompt = [*first.context[:241], *seat.prompt(30)]
        cold = await seat.cold(prompt, 10)
        exact = await seat.ask(prompt, 10, exact=True)
        assert exact.completion.cache.read == 192
        assert exact.completion.cache.pure
        assert exact.record.logits == cold.record.logits
        prompt = [*first.context[:230], *seat.prompt(30, "other")]
        other = await seat.ask(prompt, 10)
        assert other.completion.cache.read == 192
        assert other.completion.cache.pure
        assert other.record.logits == (await seat.cold(prompt, 10)).record.logits


@pytest.mark.parametrize("case", [PLAIN[1], PLAIN[2]], ids=lambda case: case.name)
async def test_pure_is_what_equals_the_cold_run_after_any_mixture_of_requests(case: Case) -> None:
    """Whatever came before: what is called pure has the cold run's bits; an exact one always is."""
    source = random.Random(case.name)
    async with room() as here:
        seat = await here.load(case)
        known = [seat.prompt(300)]
        seen = {True: 0, False: 0}
        for n in range(24):
            start = source.choice(known)
            cut = source.randrange(1, min(len(start), 500) + 1)
            prompt = [*start[:cut], *seat.prompt(source.randrange(1, 150), n)]
            exact = source.random() < 0.3
            answer = await seat.ask(prompt, source.randrange(1, 50), exact=exact)
            known.append(answer.context)
            pure = answer.completion.cache.pure
            seen[pure and answer.completion.cache.read > 0] += 1
            assert pure or not exact
            if pure:
                cold = await seat.cold(prompt, len(answer.tokens))
                assert answer.record.logits == cold.record.logits, (n, answer.completion.cache)
        assert seen[True] > 2


async def test_mixed_rows_do_change_bits() -> None:
    """Why there are two kinds of rows; were this to fail, these tests would show nothing."""
    async with room() as here:
        seat = await here.load(PLAIN[4])
        first = await seat.ask(seat.prompt(200), 60)
        prompt = [*first.context, *seat.prompt(6)]
        mixed = await seat.ask(prompt, 1, parent_key=first.key)
        assert mixed.completion.cache.read == 259
        assert mixed.record.logits != (await seat.cold(prompt, 1)).record.logits


async def test_a_unified_cache_promises_nothing_so_an_exact_request_computes_everything() -> None:
    async with room() as here:
        seat = await here.load(PLAIN[4], kv_unified=True)
        prompt = seat.prompt(300)
        await seat.ask(prompt, 10)
        again = await seat.ask([*prompt, 300], 10)
        assert again.completion.cache.read > 0
        assert not again.completion.cache.pure
        exact = await seat.ask([*prompt, 301], 10, exact=True)
        assert exact.completion.cache.hit == "cold"
        assert exact.completion.cache.pure


@pytest.mark.parametrize(
    ("type_k", "type_v"),
    list(itertools.product(["f32", "bf16", "q8_0", "q4_0"], ["q8_0", "q5_1"])),
)
async def test_every_kv_type_is_restored_bit_for_bit(type_k: str, type_v: str) -> None:
    async with room() as here:
        seat = await here.load(PLAIN[2], type_k=type_k, type_v=type_v)
        prompt = seat.prompt(300)
        cold = await seat.cold(prompt, 8)
        await seat.ask(prompt[:257], 1)
        warm = await seat.ask(prompt, 8)
        again = await seat.ask(prompt, 8)
    assert (warm.completion.cache.read, again.completion.cache.read) == (256, 300)
    assert warm.record.logits == again.record.logits == cold.record.logits
