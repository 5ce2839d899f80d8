"""Models that know nothing of schemas write what each of them allows, many at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from erllama import Completion, Model, Runtime, bundled_model
from tests.sampling.schemas import SCHEMAS, Schema
from tests.sampling.walking import check_valid

TOGETHER = 8
LONGEST = 480  # tokens
CLOSING = {'"': 7.0, "}": 7.0, "]": 6.0, "@": 5.0, ",": 2.0}
BLANK = -6.0
END = {"bundled": "<|end|>", "random": "<|eot_id|>"}
HABITS: dict[str, dict[str, Any]] = {
    "bundled": {"frequency_penalty": 0.5, "repeat_last_n": -1},  # it goes round in circles
    "random": {},
}
SOME = list(SCHEMAS)[::11]


@pytest.fixture(params=END)
async def model(request: pytest.FixtureRequest, tiny_gguf: Path) -> AsyncIterator[Model]:
    path = tiny_gguf if request.param == "random" else bundled_model()
    async with Runtime() as runtime:
        yield await runtime.load_model(
            path,
            model_id=request.param,
            n_ctx=LONGEST + 32,
            n_seq_max=TOGETHER,
            n_threads=1,
            max_queue=len(SCHEMAS),
        )


async def ending(model: Model) -> dict[str, Any]:
    """Settings with which a text comes to its end: closing marks, and little white space."""
    (end,) = await model.tokenize(END[model.id], add_special=False)
    biases = {end: 8.0}
    for token in range(model.info().n_vocab):
        piece = await model.detokenize([token])
        if piece.isspace():
            biases[token] = BLANK
        elif piece[:1] in CLOSING:
            biases[token] = CLOSING[piece[:1]]
    return {"logit_bias": biases, **HABITS[model.id]}


def check(schema: Schema, done: Completion) -> None:
    assert done.finish_reason == "stop", done.text
    check_valid(done.text, json.dumps(schema))


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(SOME, id="some"),
        pytest.param(list(SCHEMAS), id="all", marks=[pytest.mark.long, pytest.mark.timeout(600)]),
    ],
)
async def test_what_a_model_writes_under_a_schema_is_valid(model: Model, names: list[str]) -> None:
    options = {**await ending(model), "max_tokens": LONGEST, "temperature": 1.0}

    async def write(seed: int, name: str) -> str:
        asked = f"Some JSON, {name}:"
        done = await model.complete(asked, json_schema=SCHEMAS[name], seed=seed, **options)
        await asyncio.to_thread(check, SCHEMAS[name], done)  # some take long for the event loop
        return done.text

    texts = await asyncio.gather(*(write(seed, name) for seed, name in enumerate(names)))
    assert len(set(texts)) > len(names) // 2
