"""Requests of all kinds side by side: each has the text that it has alone."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from erllama import Completion, ContextConfig, Model, Runtime, bundled_model
from erllama.backend.base import StepOutcome, StepPlan
from erllama.backend.llama.engine import LlamaEngine
from tests.model.staging import PATIENCE_S, until

SCHEMA = {
    "type": "object",
    "properties": {"size": {"type": "integer", "maximum": 999}, "on": {"type": "boolean"}},
    "required": ["size", "on"],
    "additionalProperties": False,
}
BIASES = dict.fromkeys(range(300, 330), 12.0)
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "top_p": {"top_k": 0, "top_p": 0.9, "min_p": 0.0, "seed": 1},
    "mirostat": {"mirostat": 2, "mirostat_tau": 3.0, "seed": 2},
    "grammar": {"grammar": 'root ::= ("yes" | "no") (" " [a-z]+){2,5} "."', "seed": 3},
    "json_schema": {"json_schema": SCHEMA, "temperature": 1.0, "seed": 4},
    "regex": {"regex": "[A-Z][a-z]{2,8}( [a-z]{2,8}){3,6}[.!]", "temperature": 1.2, "seed": 5},
    "logit_bias": {"logit_bias": BIASES, "ignore_eos": True, "seed": 6},
    "logprobs": {"logprobs": 3, "repeat_penalty": 1.3, "xtc_probability": 0.5, "seed": 7},
}
COUNT = 40


@pytest.fixture
async def model() -> AsyncIterator[Model]:
    context = ContextConfig(n_ctx=256, n_threads=1, n_seq_max=8, deterministic=True)
    async with asyncio.timeout(PATIENCE_S), Runtime() as runtime:
        yield await runtime.load_model(bundled_model(), context=context)


async def ask(model: Model, name: str) -> Completion:
    prompt = f"Once upon a time there was a {name} and"
    return await model.complete(prompt, max_tokens=COUNT, **SETTINGS[name])


async def test_eight_requests_of_eight_settings_have_the_texts_that_they_have_alone(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    step, may_go = LlamaEngine.step, threading.Event()
    may_go.set()

    def counted(engine: LlamaEngine, plan: StepPlan) -> StepOutcome:
        may_go.wait(PATIENCE_S)
        rows.append(len(plan.rows))
        return step(engine, plan)

    monkeypatch.setattr(LlamaEngine, "step", counted)
    alone = {name: await ask(model, name) for name in SETTINGS}
    assert max(rows) == 1
    may_go.clear()
    tasks = [asyncio.create_task(ask(model, name)) for name in SETTINGS]
    await until(lambda: model.status().active == len(SETTINGS))
    may_go.set()
    texts = await asyncio.gather(*tasks)
    assert max(rows) > len(SETTINGS) // 2  # some texts are short
    together = dict(zip(SETTINGS, texts, strict=True))
    for name, one in together.items():
        assert (one.text, one.tokens) == (alone[name].text, alone[name].tokens), name
        assert one.logprobs == alone[name].logprobs, name
    check_rules(together)


def check_rules(done: dict[str, Completion]) -> None:
    assert re.match(r"(yes|no) ", done["grammar"].text)
    assert re.match("[A-Z][a-z]{2,8} ", done["regex"].text)
    assert done["json_schema"].text.startswith("{")
    if done["json_schema"].finish_reason == "stop":
        assert set(json.loads(done["json_schema"].text)) == {"size", "on"}
    assert len(done["logit_bias"].tokens) == COUNT
    assert any(300 <= token < 330 for token in done["logit_bias"].tokens)
    assert len(done["logprobs"].logprobs or ()) == len(done["logprobs"].tokens)
    assert len({one.text for one in done.values()}) == len(done)
