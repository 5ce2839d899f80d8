"""Resuming by `finish_key` goes on as the stream would have that nobody interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cache_exact.room import CASES, FEW, GREEDY, PLAIN, SAMPLED, Answer, Case, Seat, room

WAYS = {"greedy": GREEDY, "sampled": SAMPLED}
LENGTHS = (64, 100, 257)


async def resume(
    seat: Seat, earlier: Answer, n: int, more: list[int] | None = None, **options: Any
) -> Answer:
    """Go on from a reply, behind `more` tokens of the caller's."""
    answer = await seat.ask([*earlier.context, *(more or [])], n, parent_key=earlier.key, **options)
    assert answer.completion.cache.read == len(earlier.context) - 1
    assert answer.record.restored == [len(earlier.context) - 1]
    return answer


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_a_resumed_stream_equals_the_unbroken_one_bit_for_bit(case: Case, way: str) -> None:
    async with room() as here:
        seat = await here.load(case)
        for length in LENGTHS:
            prompt = seat.prompt(length)
            unbroken = await seat.cold(prompt, 48, **WAYS[way])
            options = {**WAYS[way], "settle": False, "cache_salt": str(length)}
            first = await seat.ask(prompt, 7, **options)
            second = await resume(seat, first, 25, **options)
            third = await resume(seat, second, 16, **options)
            logits = [*first.record.logits, *second.record.logits, *third.record.logits]
            assert [*first.tokens, *second.tokens, *third.tokens] == unbroken.tokens
            assert logits == unbroken.record.logits
            assert not second.completion.cache.pure


@pytest.mark.parametrize("case", FEW, ids=lambda case: case.name)
async def test_a_stream_is_resumed_after_a_restart(case: Case, tmp_path: Path) -> None:
    async with room(cache_dir=str(tmp_path)) as here:
        seat = await here.load(case)
        prompt = seat.prompt(150)
        unbroken = await seat.cold(prompt, 40, **SAMPLED)
        first = await seat.ask(prompt, 10, settle=False, **SAMPLED)
    async with room(cache_dir=str(tmp_path)) as here:
        seat = await here.load(case)
        second = await resume(seat, first, 30, **SAMPLED)
    assert second.completion.cache.tier == "disk"
    assert [*first.tokens, *second.tokens] == unbroken.tokens
    assert [*first.record.logits, *second.record.logits] == unbroken.record.logits


@pytest.mark.parametrize("case", FEW, ids=lambda case: case.name)
async def test_a_conversation_goes_on_turn_by_turn_as_it_does_a_second_time(
    case: Case, tmp_path: Path
) -> None:
    """Each turn starts from what the last one left, in memory or after a restart."""
    turns = (90, 5, 70, 131, 1)

    async def talk(seat: Seat, salt: str) -> list[Answer]:
        said = [await seat.ask(seat.prompt(turns[0]), 12, cache_salt=salt, **SAMPLED)]
        for i, length in enumerate(turns[1:]):
            more = seat.prompt(length, i)
            said.append(await resume(seat, said[-1], 12, more, cache_salt=salt, **SAMPLED))
        return said

    async with room() as here:
        once = await talk(await here.load(case), "")
    said: list[Answer] = []
    for i, length in enumerate(turns):
        async with room(cache_dir=str(tmp_path)) as here:
            seat = await here.load(case)
            if i == 0:
                said.append(await seat.ask(seat.prompt(length), 12, **SAMPLED))
            else:
                said.append(await resume(seat, said[-1], 12, seat.prompt(length, i - 1), **SAMPLED))
    assert [answer.tokens for answer in said] == [answer.tokens for answer in once]
    assert [a.record.logits for a in said] == [a.record.logits for a in once]


@pytest.mark.parametrize("case", PLAIN[:4], ids=lambda case: case.name)
async def test_a_stream_is_resumed_once_more_from_a_row_that_a_longer_one_superseded(
    case: Case,
) -> None:
    async with room() as here:
        seat = await here.load(case)
        prompt = seat.prompt(100)
        unbroken = await seat.cold(prompt, 60, **SAMPLED)
        first = await seat.ask(prompt, 20, **SAMPLED)
        await resume(seat, first, 30, seat.prompt(9), **SAMPLED)  # another continuation
        longer = await resume(seat, first, 40, **SAMPLED)
        assert [*first.tokens, *longer.tokens] == unbroken.tokens
        freed = await here.runtime.cache.gc()
        assert freed.rows
        again = await resume(seat, first, 40, **SAMPLED)
    assert again.tokens == longer.tokens
    assert again.record.logits == longer.record.logits == unbroken.record.logits[20:]


async def test_a_key_of_another_prompt_is_not_heeded() -> None:
    async with room() as here:
        seat = await here.load(PLAIN[0])
        first = await seat.ask(seat.prompt(100), 10)
        other = seat.prompt(100, "other")
        answer = await seat.ask(other, 10, parent_key=first.key)
        assert answer.completion.cache.hit == "cold"
        assert answer.record.logits == (await seat.cold(other, 10)).record.logits


async def test_an_exact_request_goes_on_from_the_prompt_alone() -> None:
    async with room() as here:
        seat = await here.load(PLAIN[0])
        first = await seat.ask(seat.prompt(150), 30)
        cold = await seat.cold(first.context, 20)
        exact = await seat.ask(first.context, 20, parent_key=first.key, exact=True)
        assert exact.completion.cache.read == 128
        assert exact.completion.cache.pure
        assert exact.record.logits == cold.record.logits
