"""Turn by turn the ids of a chat are kept, whatever the template and the vocabulary do."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import erllama
from erllama import Completion, Model, Runtime
from tests.model.staging import PATIENCE_S
from tests.models.cache import cached_model
from tests.models.shapes import TINY_SPM_SPACE

TEMPLATES = Path(__file__).parents[1] / "text" / "templates"
LEADS = {"llama2": " ", "mistral": " ", "glm": r"\n"}
"""What the template writes before the content of a reply, and the model after the prompt."""
VARIABLES = {"glm": {"enable_thinking": False}}

VOCABULARIES = {"bundled": None, "sentencepiece": TINY_SPM_SPACE}


async def load(runtime: Runtime, vocabulary: str, family: str) -> Model:
    shape = VOCABULARIES[vocabulary]
    path = erllama.bundled_model()
    if shape is not None:
        path = await asyncio.to_thread(cached_model, shape)  # the first time it is written
    template = (TEMPLATES / f"{family}.jinja").read_text(encoding="utf-8")
    # rows are restored however long that took before, which is up to the machine's load
    more: dict[str, Any] = {"n_ctx": 2_048, "n_threads": 1, "restore_margin": 1_000.0}
    return await runtime.load_model(path, chat_template=template, **more)


def options(family: str) -> dict[str, Any]:
    """Replies that trimming leaves as they are, spelled at random."""
    return {
        # what it says is given, for some vocabularies spell random letters in one way only
        "grammar": f'root ::= "{LEADS.get(family, "")}there was a kind bear near the village"',
        "variables": VARIABLES.get(family),
        "temperature": 3.0,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
        "max_tokens": 60,
    }


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize(
    "family",
    ["chatml", "command_r", "gemma", "glm", "granite", "llama2", "llama3", "mistral", "phi3"],
)
async def test_each_turn_begins_with_the_ids_of_the_one_before(
    family: str, vocabulary: str
) -> None:
    asked = options(family)
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Answer in a word or two. " * 6}]
    before: list[int] = []
    spelled_otherwise = 0
    async with asyncio.timeout(PATIENCE_S), Runtime() as runtime:
        model = await load(runtime, vocabulary, family)
        for turn in range(4):
            done = await model.chat(messages, seed=turn, **asked)
            assert done.finish_reason == "stop"
            assert done.context_tokens[: len(before)] == before
            if turn:
                assert done.cache.read >= len(before) - 1
            prompt = done.context_tokens[: -len(done.tokens)]
            whole = await model.apply_chat_template(messages, variables=asked["variables"])
            assert await model.detokenize(prompt) == await model.detokenize(whole)
            spelled_otherwise += prompt != whole
            before = done.context_tokens[:-1]  # the template writes what ends a turn
            messages += [
                {"role": "assistant", "content": done.text},
                {"role": "user", "content": "And?"},
            ]
    assert spelled_otherwise or vocabulary != "bundled"


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
async def test_a_template_that_drops_the_thinking_keeps_what_came_before_it(
    vocabulary: str,
) -> None:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Hello! " * 30}]
    asked: dict[str, Any] = {
        "grammar": 'root ::= [a-z]{4} "</think>" [a-z]{4}',
        "temperature": 3.0,
        "max_tokens": 60,
        "seed": 1,
    }
    async with asyncio.timeout(PATIENCE_S), Runtime() as runtime:
        model = await load(runtime, vocabulary, "deepseek")
        for turn in range(3):
            done = await model.chat(messages, **asked)
            assert done.thinking is not None
            assert done.text
            prompt = done.context_tokens[: -len(done.tokens)]
            whole = await model.apply_chat_template(messages)
            assert await model.detokenize(prompt) == await model.detokenize(whole)
            if turn:
                assert done.cache.read >= 64  # what is pure of the turn before
            messages += [
                {"role": "assistant", "content": done.text},
                {"role": "user", "content": "And?"},
            ]


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("end", ["stop", "length", "trimmed", "cancelled"])
async def test_a_reply_that_ended_otherwise_is_kept_as_far_as_it_is_given_back(
    end: str, vocabulary: str
) -> None:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Hello! " * 10}]
    asked: dict[str, Any] = {
        "grammar": r'root ::= [a-z]{20} "\n"{3} [a-z]{20}',
        "temperature": 3.0,
        "top_k": 0,
        "seed": 3,
    }
    if end == "stop":
        asked["stop"] = "\n\n"
    if end == "length":
        asked["max_tokens"] = 6
    async with asyncio.timeout(PATIENCE_S), Runtime() as runtime:
        model = await load(runtime, vocabulary, "phi3")
        async with model.stream_chat(messages, stream_buffer=1, **asked) as stream:
            seen = 0
            async for _ in stream:
                seen += 1
                if end == "cancelled" and seen == 5:
                    break
        done = await stream.result()
        given = done.text[:10] if end == "trimmed" else done.text
        after = await model.chat(
            [*messages, {"role": "assistant", "content": given}, {"role": "user", "content": "?"}],
            max_tokens=1,
        )
        kept = await spelling(model, done, given)
        assert len(kept) > len(done.context_tokens) - len(done.tokens)
        assert after.context_tokens[: len(kept)] == kept
        assert given + "<|end|>\n<|user|>\n?" in await model.detokenize(after.context_tokens)


async def spelling(model: Model, done: Completion, given: str) -> list[int]:
    """The prompt of a reply, and its first tokens as far as they spell what is given back."""
    n_prompt = len(done.context_tokens) - len(done.tokens)
    before = await model.detokenize(done.context_tokens[:n_prompt])
    kept = done.context_tokens[:n_prompt]
    for end in range(n_prompt + 1, len(done.context_tokens) + 1):
        said = await model.detokenize(done.context_tokens[:end])
        if not given.startswith(said[len(before) :]):
            break
        kept = done.context_tokens[:end]
    return kept
