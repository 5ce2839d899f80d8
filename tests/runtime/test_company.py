"""What a request answers depends neither on its sequence nor on what else is running."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from erllama import Completion, Model, Runtime
from tests.models.cache import AnyQuant, cached_model
from tests.models.shapes import TINY, WIDE, Llama

KINDS: dict[AnyQuant, Llama] = {"F16": TINY, "Q8_0": TINY, "Q4_0": TINY, "Q4_K_M": WIDE}
N_VOCAB = 500


def request(i: int) -> dict[str, Any]:
    """The i-th request: lengths on both sides of the granule, and a draw that takes anything."""
    chance = random.Random(i)
    prompt = [chance.randrange(10, N_VOCAB) for _ in range(chance.choice((1, 5, 63, 64, 65, 200)))]
    sampling = {"temperature": 1.5, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": i}
    return {"prompt": prompt, "max_tokens": chance.randrange(2, 40), **sampling}


async def company(model: Model, count: int) -> list[Completion]:
    return await asyncio.gather(*(model.complete(**request(i)) for i in range(count)))


@pytest.mark.parametrize("flash_attn", [True, pytest.param(False, marks=pytest.mark.long)])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_deterministic_context_answers_alike_alone_and_in_company(
    kind: AnyQuant, flash_attn: bool
) -> None:
    path = cached_model(KINDS[kind], kind)
    options: dict[str, Any] = {"n_ctx": 512, "enabled": False, "flash_attn": flash_attn}
    async with Runtime() as runtime:
        model = await runtime.load_model(path, n_seq_max=5, deterministic=True, **options)
        alone = [(await model.complete(**request(i))).tokens for i in range(9)]
        together = await company(model, 9)
        assert [answer.tokens for answer in together] == alone
        # some of the company leaves in the middle
        streams = [model.stream([7] * 100, temperature=0) for _ in range(3)]
        for stream in streams:
            await stream.__anext__()
        left = asyncio.create_task(company(model, 9))
        for stream in streams:
            await stream.cancel()
        assert [answer.tokens for answer in await left] == alone


async def test_equal_requests_on_different_sequences_answer_alike() -> None:
    path = cached_model(TINY, "F16")
    async with Runtime() as runtime:
        model = await runtime.load_model(path, n_seq_max=8, deterministic=True, n_ctx=512)
        same = request(3) | {"max_tokens": 30}
        answers = await asyncio.gather(*(model.complete(**same) for _ in range(8)))
    assert len({tuple(answer.tokens) for answer in answers}) == 1
