"""Chats: the bundled model thinks, calls, is told and answers; the cache has its earlier turns."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

import erllama
from erllama import (
    Completion,
    Done,
    Model,
    NotSupported,
    RequestError,
    Runtime,
    Text,
    ThinkingDelta,
    ThinkingEnd,
    ToolCallDelta,
    ToolCallEnd,
)
from erllama.backend.base import StepPlan
from erllama.backend.stub import StubBackend
from tests.model.staging import PATIENCE_S, PieceBackend, running

KEY = "a key of the tests"
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
ASKED: dict[str, Any] = {"role": "user", "content": "What is the weather in Oslo?"}
OPTIONS: dict[str, Any] = {"tools": [WEATHER], "thinking": True, "max_tokens": 100}
PLAIN = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest_asyncio.fixture
async def tiny() -> AsyncIterator[Model]:
    async with asyncio.timeout(PATIENCE_S), Runtime(signing_key=KEY) as runtime:
        # rows are restored however long that took before, which is up to the machine's load
        yield await runtime.load_model(erllama.bundled_model(), n_threads=1, restore_margin=1_000.0)


def message(done: Completion) -> dict[str, Any]:
    """A reply as the next turn's history has it."""
    calls = [{"type": "function", "function": json.loads(call)} for call in done.tool_calls]
    return {
        "role": "assistant",
        "content": done.text,
        "reasoning_content": done.thinking,
        "tool_calls": calls,
    }


async def test_the_bundled_model_thinks_calls_is_told_and_answers(tiny: Model) -> None:
    stream = tiny.stream_chat([ASKED], temperature=0, **OPTIONS)
    events = [event async for event in stream]
    asked = await stream.result()
    assert events[-1] == Done(asked)

    thought = "".join(event.text for event in events if isinstance(event, ThinkingDelta))
    assert thought == "\nThe user wants the weather in Oslo. I call get_weather.\n"
    assert asked.thinking == thought
    signature = hmac.new(KEY.encode(), thought.encode(), hashlib.sha256).hexdigest()
    assert [e for e in events if isinstance(e, ThinkingEnd)] == [ThinkingEnd(signature)]

    call = '\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n'
    assert [e for e in events if isinstance(e, ToolCallEnd)] == [ToolCallEnd(call)]
    assert "".join(e.text for e in events if isinstance(e, ToolCallDelta)) == call
    assert asked.tool_calls == [call]
    raw = await tiny.detokenize(asked.tokens)
    assert raw == f"<think>{thought}</think>\n\n<tool_call>{call}</tool_call><|end|>"
    assert asked.text == "".join(e.text for e in events if isinstance(e, Text)) == "\n\n"

    told = {"role": "tool", "content": '{"sky": "clear"}'}
    answered = await tiny.chat([ASKED, message(asked), told], temperature=0, **OPTIONS)
    assert answered.text.strip() == "It is clear in Oslo."
    assert answered.context_tokens[: len(asked.context_tokens)] == asked.context_tokens
    assert answered.cache.read >= len(asked.context_tokens) - 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_every_turn_of_ten_finds_all_earlier_ones_in_the_cache(
    tiny: Model, temperature: float
) -> None:
    # long enough for the first turn to be worth keeping
    messages: list[dict[str, Any]] = [{"role": "system", "content": "Be polite. " * 20}]
    before: list[int] = []
    for turn in range(10):
        messages.append({"role": "user", "content": f"What is {turn} plus {turn + 1}?"})
        done = await tiny.chat(messages, temperature=temperature, seed=turn, max_tokens=60)
        assert done.finish_reason == "stop"
        assert done.context_tokens[: len(before)] == before
        # the last token of a reply was sampled, and never computed
        assert done.cache.read >= len(before) - 1
        messages.append({"role": "assistant", "content": done.text})
        before = done.context_tokens


async def test_tokens_that_a_tokenizer_would_not_choose_are_kept(tiny: Model) -> None:
    # at this temperature the model spells at random
    options: dict[str, Any] = {"temperature": 3.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    asked = [{"role": "user", "content": "Hello"}]
    for seed in itertools.count():
        done = await tiny.chat(asked, seed=seed, max_tokens=12, **options)
        plain = await tiny.tokenize(done.text, add_special=False)
        spelled = done.tokens[:-1] if done.finish_reason == "stop" else done.tokens
        if plain != spelled and "\ufffd" not in done.text and done.text:
            break
    said = [*asked, {"role": "assistant", "content": done.text}, *asked]
    after = await tiny.chat(said, max_tokens=1)
    whole = await tiny.apply_chat_template(said)
    assert after.context_tokens[: len(done.context_tokens)] == done.context_tokens
    assert after.context_tokens[:-1] != whole
    assert await tiny.detokenize(after.context_tokens[:-1]) == await tiny.detokenize(whole)
    # another salt is another caller, who sees nothing of it
    other = await tiny.chat(said, max_tokens=1, cache_salt="other")
    assert other.context_tokens[:-1] == whole


@pytest.mark.parametrize("budget", [0, 3])
async def test_the_bundled_model_acts_when_its_thinking_budget_is_used_up(
    tiny: Model, budget: int
) -> None:
    options = {**OPTIONS, "thinking_budget_tokens": budget, "temperature": 0}
    done = await tiny.chat([ASKED], **options)
    end = await tiny.tokenize("</think>", add_special=False)
    begin = await tiny.tokenize("<think>", add_special=False)
    assert done.tokens[: len(begin)] == begin
    assert done.tokens[len(begin) + budget :][: len(end)] == end
    assert [json.loads(call)["name"] for call in done.tool_calls] == ["get_weather"]
    assert done.finish_reason == "stop"


async def test_forced_tokens_are_the_same_beside_other_requests(tiny: Model) -> None:
    options = {**OPTIONS, "thinking_budget_tokens": 4, "seed": 5}
    async with Runtime() as runtime:
        model = await runtime.load_model(
            erllama.bundled_model(), n_threads=1, n_seq_max=3, deterministic=True
        )
        alone = await model.chat([ASKED], **options)
        beside = model.complete("Once upon a time", max_tokens=90, ignore_eos=True)
        story, together = await asyncio.gather(beside, model.chat([ASKED], **options))
    assert together.tokens == alone.tokens
    assert len(story.tokens) == 90


async def test_the_syntax_of_a_call_is_greedy_where_payload_markers_are_given() -> None:
    greedy: dict[int, bool] = {}

    def note(plan: StepPlan) -> None:
        for draw in plan.draws:
            greedy[len(greedy)] = draw.greedy

    pieces = [b"a", b"<c>", b"k", b"[", b"v", b"]", b"</c>", b"b"]
    backend = PieceBackend(pieces)
    backend.on_step = note
    async with running(backend) as runtime:
        model = await runtime.load_model(
            "any.gguf", chat_template=PLAIN, tool_call_markers=("<c>", "</c>", "[", "]")
        )
        done = await model.chat([ASKED])
    assert done.tool_calls == ["k[v]"]
    drawn = [piece for at, piece in enumerate(pieces) if greedy[at]]
    assert drawn == [b"k", b"[", b"</c>"]  # what ends the payload is drawn as payload


# The template


async def test_a_template_may_open_the_thinking_itself() -> None:
    template = PLAIN + "<think>\n{{ '</think>' if false }}"
    async with running(PieceBackend([b"so", b"</think>x"])) as runtime:
        model = await runtime.load_model("any.gguf", chat_template=template)
        done = await model.chat([ASKED])
    assert (done.thinking, done.text) == ("so", "x")


@pytest.mark.parametrize(("thinking", "seen"), [(None, ""), (True, "TrueTrue"), (False, "FF")])
async def test_thinking_reaches_the_template_by_both_its_names(
    thinking: bool | None, seen: str
) -> None:
    template = "{{ messages[0].content }}{{ enable_thinking }}{{ thinking }}"
    async with running(StubBackend()) as runtime:
        model = await runtime.load_model("any.gguf", chat_template=template)
        done = await model.chat([{"role": "user", "content": ">"}], thinking=thinking, max_tokens=1)
        text = await model.detokenize(done.context_tokens[:-1])
    assert text == ">" + seen.replace("FF", "FalseFalse")


async def test_variables_of_the_caller_go_first() -> None:
    async with running(StubBackend()) as runtime:
        model = await runtime.load_model("any.gguf", chat_template="{{ thinking }}")
        done = await model.chat([ASKED], thinking=True, variables={"thinking": "x"}, max_tokens=1)
        assert await model.detokenize(done.context_tokens[:-1]) == "x"


CALL = '{"name": "get_weather", "parameters": {"city": "Oslo"}}'
LLAMA3 = "{{ '<|python_tag|>' if false }}" + PLAIN


@pytest.mark.parametrize(
    ("tools", "text", "calls"), [(None, CALL, []), ([], CALL, []), ([WEATHER], "", [CALL])]
)
async def test_bare_json_is_a_call_where_there_are_tools(
    tools: Any, text: str, calls: list[str]
) -> None:
    async with running(PieceBackend([CALL[:9].encode(), CALL[9:].encode()])) as runtime:
        model = await runtime.load_model("any.gguf", chat_template=LLAMA3)
        done = await model.chat([ASKED], tools=tools)
    assert (done.text, done.tool_calls) == (text, calls)


# What cannot be used


async def test_a_model_without_a_template_cannot_chat() -> None:
    async with running(StubBackend()) as runtime:
        model = await runtime.load_model("bare.gguf")
        with pytest.raises(NotSupported, match="'bare' has no chat template"):
            await model.chat([ASKED])


async def test_wrong_messages_are_refused_by_the_first_await_of_a_stream() -> None:
    async with running(StubBackend()) as runtime:
        model = await runtime.load_model("any.gguf", chat_template=PLAIN)
        stream = model.stream_chat([])
        with pytest.raises(RequestError, match="messages: is empty"):
            await anext(stream)
        with pytest.raises(TypeError, match="did you mean 'max_tokens'"):
            model.stream_chat([ASKED], max_token=3)  # type: ignore[call-arg]
        assert (await model.chat([ASKED], max_tokens=3)).finish_reason == "length"


async def test_a_chat_that_was_cancelled_goes_on() -> None:
    async with running(StubBackend()) as runtime:
        model = await runtime.load_model("any.gguf", chat_template=PLAIN)
        async with model.stream_chat([ASKED]) as stream:
            await anext(stream)
            cut = await stream.cancel()
        assert cut.finish_reason == "cancelled"
        said = [ASKED, {"role": "assistant", "content": cut.text}, ASKED]
        done = await model.chat(said, max_tokens=1)
        assert done.context_tokens[:-1] == await model.apply_chat_template(said)
