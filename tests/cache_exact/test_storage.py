"""Each token is stored once, however many turns and conversations it belongs to."""

from __future__ import annotations

from typing import Any

import pytest

from erllama.cache.row import HEAD_BYTES
from tests.cache_exact.room import PLAIN, SAMPLED, Answer, Case, Room, Seat, room


def stored(here: Room, seat: Seat) -> int:
    """Bytes of all rows, without the logits of those that have any."""
    n_logits = 4 * seat.model.info().n_vocab
    rows = list(here.runtime.cache.rows())
    return sum(row.size - (n_logits if row.form == "tail" else 0) for row in rows)


async def token_bytes(seat: Seat, here: Room) -> int:
    """Bytes of one token's rows, from a row of a known length under a salt of its own."""
    before = {row.key for row in here.runtime.cache.rows()}
    await seat.ask(seat.prompt(40, "size"), 1, cache_salt="size")
    (row,) = (row for row in here.runtime.cache.rows() if row.key not in before)
    return (row.size - HEAD_BYTES) // row.tokens


@pytest.mark.parametrize("case", [PLAIN[0], PLAIN[5]], ids=lambda case: case.name)
async def test_a_conversation_of_ten_turns_stores_each_token_once(case: Case) -> None:
    async with room() as here:
        seat = await here.load(case, n_ctx=1_536)
        size = await token_bytes(seat, here)
        context = seat.prompt(200)
        options: dict[str, Any] = dict(SAMPLED)
        answer: Answer | None = None
        for turn in range(10):
            if answer is not None:
                options = {**SAMPLED, "parent_key": answer.key}
            answer = await seat.ask(context, 40, **options)
            if turn:
                assert answer.completion.cache.read == len(answer.context) - 40 - 60 - 1
            context = [*answer.context, *seat.prompt(60, turn)]
        await here.runtime.cache.gc()
        assert answer is not None
        covered = len(answer.context) - 1
        beside = 40 * size + HEAD_BYTES  # the row that told the size
        assert covered * size <= stored(here, seat) - beside <= 1.05 * covered * size
        # and after the collection it is still all there
        more = await seat.ask(context, 1, parent_key=answer.key, **SAMPLED)
        assert more.completion.cache.read == covered


@pytest.mark.parametrize("case", [PLAIN[2]], ids=lambda case: case.name)
async def test_fifty_conversations_over_one_system_prompt_store_it_once(case: Case) -> None:
    async with room() as here:
        seat = await here.load(case, n_ctx=1_280)
        system = seat.prompt(1_024)
        for n in range(50):
            answer = await seat.ask([*system, *seat.prompt(20, n)], 4, **SAMPLED)
            assert answer.completion.cache.read >= (1_024 if n else 0)
        await here.runtime.cache.gc()
        own = 50 * (20 + 3)
        assert sum(row.tokens for row in here.runtime.cache.rows()) == 1_024 + own
        shared = [row for row in here.runtime.cache.rows() if row.form == "block" and row.pure]
        assert sum(row.tokens for row in shared if row.start + row.tokens <= 1_024) == 1_024


async def test_a_prompt_is_saved_as_it_is_computed_and_no_row_twice() -> None:
    async with room() as here:
        seat = await here.load(PLAIN[2], n_batch=128)
        prompt = seat.prompt(700)
        first = await seat.ask(prompt, 1)
        ranges = [part for parts, _ in first.record.saved for part in parts]
        assert ranges == [(0, 256), (256, 512), (512, 700)]
        again = await seat.ask(prompt, 1)
        assert again.record.saved == []
        assert again.completion.cache.created == 0
        assert first.completion.cache.created == 700
