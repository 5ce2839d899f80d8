"""Prompts that were read in the same steps: logits and rows as of each alone, on real engines."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from erllama.backend.base import StepPlan
from erllama.model import scheduler
from tests.cache_exact.room import Case, room
from tests.models import WIDE

CASES = (
    Case("q8_0", "plain", WIDE, "Q8_0"),
    Case("q8_0-no-flash", "plain", WIDE, "Q8_0", flash_attn=False),
    Case("q4_0", "plain", WIDE, "Q4_0"),
    Case("f16", "plain", WIDE, "F16"),
)
N = 4


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_prompts_read_together_have_the_logits_and_rows_of_each_alone(
    case: Case, deterministic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # how many prompts fit a step is up to the machine's load else
    monkeypatch.setattr(scheduler, "SLICE_S", 1e6)
    monkeypatch.setattr(scheduler, "CONTENDED_S", 1e6)
    sizes: list[int] = []

    def note(plan: StepPlan) -> None:
        sizes.append(len(plan.slices))

    async with room() as here:
        seat = await here.load(case, n_seq_max=N, deterministic=deterministic)
        prompts = [seat.prompt(164, n) for n in range(N)]
        alone = [await seat.cold(prompt, 1) for prompt in prompts]
        here.spy.before_step = note
        options: dict[str, Any] = {"max_tokens": 1, "temperature": 0}
        await asyncio.gather(*(seat.model.complete(prompt, **options) for prompt in prompts))
        here.spy.before_step = lambda _: None
        logits = seat.record.logits[-N:]
        # the weights decide whether they are: F16 kernels go by the number of rows with logits
        assert (max(sizes) == N) == (case.quant != "F16")
        assert sorted(logits) == sorted(one.record.logits[0] for one in alone)
        await seat.model.evict()
        for prompt, cold in zip(prompts, alone, strict=True):
            longer = [*prompt, 300, 301]
            expected = await seat.cold(longer, 6)
            again = await seat.ask(longer, 6, exact=True)
            assert again.completion.cache.read == 128
            assert again.record.logits == expected.record.logits
            exact = await seat.ask(prompt, 1)
            assert exact.completion.cache.hit == "exact"
            assert exact.record.logits == cold.record.logits
