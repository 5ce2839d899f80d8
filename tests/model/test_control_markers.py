"""Markers of several tokens with control tokens among them, in chats of a real vocabulary."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import erllama
from erllama import Model
from tests.models.cache import cached_model
from tests.models.shapes import TINY, TINY_SPM, TINY_SPM_SPACE
from tests.models.vocabulary import LLAMA3_CHAT_TEMPLATE

ID = TINY.make_vocabulary().tokens.index
BEGIN, END = ID("<|start_header_id|>"), ID("<|end_header_id|>")
ASKED: list[dict[str, Any]] = [{"role": "user", "content": "Hello"}]
TEMPLATE = (
    "{% for m in messages %}{{ m.content }}<|eot_id|>{% endfor %}<|start_header_id|>assistant"
)
MARKERS = ("<|start_header_id|>assistant<|end_header_id|>", " so<|start_header_id|>")


@asynccontextmanager
async def loaded(shape: Any = TINY, **options: Any) -> AsyncIterator[Model]:
    path = await asyncio.to_thread(cached_model, shape)
    async with erllama.load(path, n_threads=1, **options) as model:
        yield model


@pytest.mark.parametrize("budget", [0, 2])
async def test_a_budget_forces_the_end_marker_once(budget: int) -> None:
    async with loaded(chat_template=TEMPLATE, thinking_markers=MARKERS) as model:
        assert model.info().thinking_markers == MARKERS
        end = (await model.tokenize("." + MARKERS[1], add_special=False))[1:]
        done = await model.chat(
            ASKED, logit_bias={END: 1e4}, thinking_budget_tokens=budget, max_tokens=12
        )
    forced = 1 + budget + len(end)
    # the prompt has begun the marker, which the first token completes
    assert done.tokens == [*[END] * (1 + budget), *end, *[END] * (12 - forced)]
    assert (done.thinking, done.text) == ("", "")


async def test_thinking_and_text_are_told_apart_by_tokens_that_say_nothing() -> None:
    async with loaded(chat_template=TEMPLATE, thinking_markers=MARKERS) as model:
        done = await model.chat(
            ASKED, temperature=0, logit_bias={END: -1e4}, thinking_budget_tokens=0, max_tokens=8
        )
        assert done.thinking is None  # the marker was not completed
        assert done.text == (await model.detokenize(done.tokens)).replace("<|eot_id|>", "")


@pytest.mark.parametrize("shape", [TINY, TINY_SPM, TINY_SPM_SPACE])
async def test_an_end_marker_that_is_forced_brings_no_space_with_it(shape: Any) -> None:
    options: dict[str, Any] = {"chat_template": TEMPLATE + "<think>"}
    async with loaded(shape, thinking_markers=("<think>", "</think>"), **options) as model:
        done = await model.chat(ASKED, thinking_budget_tokens=0, max_tokens=30)
        assert done.thinking == ""
        behind = await model.detokenize([*await model.tokenize("."), *done.tokens])
        assert behind.removeprefix("<s>").removeprefix("<|begin_of_text|>").startswith(".</think>")


async def test_control_tokens_in_a_reply_are_not_in_the_next_prompt() -> None:
    async with loaded(chat_template=LLAMA3_CHAT_TEMPLATE) as model:
        done = await model.chat(ASKED, logit_bias={BEGIN: 1e4}, max_tokens=3)
        assert (done.tokens, done.text) == ([BEGIN] * 3, "")
        said = [*ASKED, {"role": "assistant", "content": done.text}, *ASKED]
        after = await model.chat(said, max_tokens=1)
        assert after.context_tokens[:-1] == await model.apply_chat_template(said)
