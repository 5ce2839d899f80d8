"""A reply that was resumed with more text behind it, beside an unbroken run computed by hand.

The run by hand shares nothing with the runtime but the engine: it computes the prompt by the
slicing rule, each sampled token as a decode row by itself, the last one too, and then the text
that was appended as slices by the rule again. It is told the tokens; what is compared are the
logits that each was drawn from, bit for bit.
"""

from __future__ import annotations

import array
import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import pytest
import pytest_asyncio

from erllama.backend.base import Prefill, Row, StepPlan
from erllama.backend.lane import Lane
from erllama.backend.llama import LlamaBackend
from erllama.backend.llama.engine import LlamaEngine
from erllama.config import ContextConfig, ModelConfig
from tests.cache_exact.room import FEW, GREEDY, N_CTX, SAMPLED, Case, room

T = TypeVar("T")

WAYS = {"greedy": GREEDY, "sampled": SAMPLED}


class ByHand:
    """One sequence on an engine of its own."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._me = lane.new_owner()
        self._engine: LlamaEngine | None = None
        self._number = 0
        self._held = 0

    async def open(self, case: Case) -> None:
        context = ContextConfig(
            n_ctx=N_CTX, n_threads=1, n_batch=512, n_ubatch=512, flash_attn=case.flash_attn
        )
        loading = LlamaBackend().open(str(case.path), ModelConfig(), context)
        await asyncio.to_thread(loading.load, lambda _: True)
        engine = await self._on_lane(loading.warm_up)
        assert isinstance(engine, LlamaEngine)
        self._engine = engine

    async def close(self) -> None:
        if self._engine is not None:
            await self._on_lane(self._engine.close)

    async def text(self, tokens: list[int]) -> bytes:
        """Compute text behind what is held, by the rule; the logits after its last token."""
        end = self._held + len(tokens)
        logits = b""
        for start, stop in slices(self._held, end):
            part = array.array("i", tokens[start - end : stop - end or None])
            logits = await self._step(
                0, slices=(Prefill(0, start, part, logits=True),), n=len(part)
            )
        return logits

    async def row(self, token: int) -> bytes:
        """Compute one token as a decode row by itself; the logits after it."""
        return await self._step(0, rows=(Row(0, self._held, token),), n=1)

    async def _step(self, row: int, *, n: int, **parts: Any) -> bytes:
        self._number += 1
        plan = StepPlan(number=self._number, **parts)

        def compute() -> bytes:
            assert self._engine is not None
            outcome = self._engine.step(plan)
            assert outcome.status == "done", outcome.detail
            logits = self._engine._logits(n - 1)
            assert logits is not None
            return np.asarray(logits).tobytes()

        self._held += n
        return await self._on_lane(compute)

    async def _on_lane(self, work: Callable[[], T]) -> T:
        return await self._lane.submit(self._me, work)


def slices(start: int, end: int) -> Iterator[tuple[int, int]]:
    """Up to the next multiple of 64, to the last one, and what is left; contexts are short here."""
    cuts = [-(-start // 64) * 64, end // 64 * 64]
    for stop in [*(cut for cut in cuts if cut < end), end]:
        if start < stop:
            assert stop - start <= 512
            yield start, stop
            start = stop


@pytest_asyncio.fixture
async def by_hand() -> AsyncIterator[ByHand]:
    lane = Lane()
    await lane.start()
    hand = ByHand(lane)
    yield hand
    await hand.close()
    await lane.stop()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("length", "replied", "appended"), [(100, 9, 5), (130, 20, 90), (257, 3, 200), (64, 2, 31)]
)
@pytest.mark.parametrize("case", FEW, ids=lambda case: case.name)
async def test_a_resumed_reply_with_more_text_equals_an_unbroken_run_by_hand(
    case: Case, length: int, replied: int, appended: int, way: str, by_hand: ByHand
) -> None:
    async with room() as here:
        # snapshots would be places to cut at, which the run by hand does not know of
        seat = await here.load(case, snapshot_share=0.001)
        prompt, more = seat.prompt(length), seat.prompt(appended, "more")
        first = await seat.ask(prompt, replied, settle=False, **WAYS[way])
        second = await seat.ask(
            [*first.context, *more], 12, parent_key=first.key, settle=False, **WAYS[way]
        )
        assert second.record.restored == [length + replied - 1]
    await by_hand.open(case)
    expected = [await by_hand.text(prompt)]
    expected += [await by_hand.row(token) for token in first.tokens[:-1]]
    assert first.record.logits == expected
    await by_hand.row(first.tokens[-1])
    expected = [await by_hand.text(more)]
    expected += [await by_hand.row(token) for token in second.tokens[:-1]]
    assert second.record.logits == expected
