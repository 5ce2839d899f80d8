"""Tails of deep prompts, which are computed with padding behind them: warm equals cold."""

from __future__ import annotations

import pytest

from erllama.backend.base import StepPlan
from tests.cache_exact.room import PLAIN, Case, room
from tests.models import WIDE

CASES = (PLAIN[2], Case("wide-f16", "plain", WIDE))
DEEP = 1_024 + 56


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_a_filled_tail_behind_restored_rows_is_that_of_a_cold_run(case: Case) -> None:
    fills: list[int] = []

    def note(plan: StepPlan) -> None:
        fills.extend(one.fill for one in plan.slices)

    async with room() as here:
        seat = await here.load(case, n_ctx=1_280)
        here.spy.before_step = note
        prompt = seat.prompt(DEEP)
        cold = await seat.cold(prompt, 12)
        assert fills == [0, 0, 8]
        fills.clear()
        await seat.ask(prompt[:700], 1)
        warm = await seat.ask(prompt, 12, exact=True)
        assert warm.completion.cache.read == 640
        assert warm.record.logits == cold.record.logits
        assert fills[-1] == 8
        fills.clear()
        exact = await seat.ask(prompt, 12, exact=True)
        assert (exact.completion.cache.hit, exact.completion.cache.read) == ("exact", DEEP)
        assert exact.record.logits == cold.record.logits
        resumed = await seat.ask(cold.context, 5, parent_key=exact.key)
        assert resumed.completion.cache.read == len(cold.context) - 1
        unbroken = await seat.cold(prompt, 17)
        assert [*cold.tokens, *resumed.tokens] == unbroken.tokens


async def test_rows_of_a_filled_tail_serve_a_context_of_another_size() -> None:
    case = PLAIN[2]
    async with room() as here:
        large = await here.load(case, n_ctx=2_048)
        prompt = large.prompt(DEEP)
        cold = await large.ask(prompt, 6)
        small = await here.load(case, n_ctx=DEEP + 8, n_batch=64, n_ubatch=64)
        warm = await small.ask(prompt, 6)
        assert warm.completion.cache.hit == "exact"
        own = await small.cold(prompt, 6)
    assert own.record.logits == warm.record.logits == cold.record.logits
