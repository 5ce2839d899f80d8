"""Models whose state cannot be cut begin again at the snapshots that were taken of it."""

from __future__ import annotations

import pytest

from tests.cache_exact.room import CUT_AT_SNAPSHOTS, PLAIN, SAMPLED, Case, room

SHARE = 100.0
"""Snapshots at every multiple of 64."""


@pytest.mark.parametrize("case", CUT_AT_SNAPSHOTS, ids=lambda case: case.name)
async def test_a_prompt_begins_at_the_last_snapshot_that_it_passes(case: Case) -> None:
    async with room() as here:
        seat = await here.load(case, snapshot_share=SHARE)
        prompt = seat.prompt(300)
        first = await seat.ask(prompt, 1)
        assert [pos + n for pos, n in first.record.slices] == [64, 128, 192, 256, 300]
        for shared in (300, 299, 257, 256, 255, 130, 64, 63):
            other = [*prompt[:shared], *seat.prompt(40, shared)]
            cold = await seat.cold(other, 10)
            warm = await seat.ask(other, 10, exact=True)
            assert warm.completion.cache.read == shared // 64 * 64
            assert warm.record.logits == cold.record.logits, shared


@pytest.mark.parametrize("case", CUT_AT_SNAPSHOTS, ids=lambda case: case.name)
async def test_snapshots_are_taken_where_they_are_wanted_and_nowhere_else(case: Case) -> None:
    """However the slices fall, by n_batch or by the company of other models."""
    async with room() as here:
        seat = await here.load(case, snapshot_share=0.001, n_batch=64, n_ubatch=64)
        prompt = seat.prompt(500)
        answer = await seat.ask(prompt, 1)
        taken = [row for row in here.runtime.cache.rows() if row.form == "snapshot"]
        assert sorted(row.start + row.tokens for row in taken) == [448, 500]
        assert sum(snapshot for _, snapshot in answer.record.saved) == 2
        again = await seat.ask(prompt, 1)
        assert again.completion.cache.hit == "exact"
        assert again.record.saved == []


@pytest.mark.parametrize("case", CUT_AT_SNAPSHOTS[:3], ids=lambda case: case.name)
async def test_a_cache_of_the_window_alone_computes_right(case: Case) -> None:
    """With swa_full=False llama.cpp keeps the window's cells only; never a wrong token."""
    async with room() as here:
        seat = await here.load(case, swa_full=False, snapshot_share=SHARE)
        prompt = seat.prompt(400)
        cold = await seat.cold(prompt, 20)
        await seat.ask(prompt[:300], 1)
        warm = await seat.ask(prompt, 20)
        assert warm.tokens == cold.tokens
        if warm.completion.cache.pure:
            assert warm.record.logits == cold.record.logits


@pytest.mark.parametrize("interval", [1, 2_048])
@pytest.mark.parametrize(
    "case", [CUT_AT_SNAPSHOTS[0], CUT_AT_SNAPSHOTS[2], PLAIN[4]], ids=lambda case: case.name
)
async def test_a_reply_that_stopped_while_the_lane_was_ahead_is_gone_on_with(
    case: Case, interval: int
) -> None:
    async with room() as here:
        seat = await here.load(case, continued_interval=interval)
        for prompt in (seat.prompt(60), seat.prompt(130)):
            unbroken = await seat.cold(prompt, 30, **SAMPLED)
            for n in (9, 15, 21):
                stop = unbroken.tokens[n]
                end = unbroken.tokens.index(stop) + 1
                salt = f"{len(prompt)} {n}"
                first = await seat.model.complete(
                    prompt, max_tokens=30, stop_token_ids=(stop,), cache_salt=salt, **SAMPLED
                )
                assert len(first.tokens) == end
                await seat.model.evict()
                more = await seat.ask(
                    first.context_tokens,
                    5,
                    parent_key=first.finish_key,
                    cache_salt=salt,
                    **SAMPLED,
                )
                assert more.record.restored == [len(prompt) + end - 1]
                assert more.record.logits[:5] == unbroken.record.logits[end : end + 5]


@pytest.mark.parametrize("case", CUT_AT_SNAPSHOTS[4:7:2], ids=lambda case: case.name)
async def test_rows_of_a_longer_prompt_do_not_stand_for_the_end_of_a_shorter_one(
    case: Case,
) -> None:
    async with room() as here:
        seat = await here.load(case)
        prompt = seat.prompt(65)
        first = await seat.ask(prompt, 1)
        unbroken = await seat.ask(first.context, 3, parent_key=first.key)
        assert unbroken.completion.cache.read == 65
        salted = await seat.ask(prompt, 1, cache_salt="other")
        await seat.ask([*salted.context, *seat.prompt(10)], 1, cache_salt="other")  # in its place
        cold = await seat.cold(first.context, 3)
        again = await seat.ask(first.context, 3, parent_key=salted.key, cache_salt="other")
        assert again.record.logits in (unbroken.record.logits, cold.record.logits)
