"""The markers of a loaded model: configured, or those that its chat template mentions."""

from __future__ import annotations

from typing import Any

import pytest

import erllama
from erllama import ConfigError, ModelConfig, ModelInfo, RequestError, RuntimeConfig
from erllama.backend.stub import StubBackend
from erllama.model.markers import Markers
from tests.model.staging import PieceBackend, running

HERMES = "{{ '<think>' }}{{ '</think>' }}{{ '<tool_call>' }}{{ '</tool_call>' }}"


async def info(**options: Any) -> ModelInfo:
    async with running(StubBackend()) as runtime:
        return (await runtime.load_model("any.gguf", **options)).info()


async def test_markers_are_those_that_the_template_mentions() -> None:
    found = await info(chat_template=HERMES)
    assert found.thinking_markers == ("<think>", "</think>")
    assert found.tool_call_markers == ("<tool_call>", "</tool_call>")


async def test_a_model_without_a_template_has_none() -> None:
    found = await info()
    assert (found.thinking_markers, found.tool_call_markers) == ((), ())


async def test_configured_markers_replace_those_of_the_template() -> None:
    found = await info(
        chat_template=HERMES, thinking_markers=(), tool_call_markers=("{", "}", "[", "]")
    )
    assert (found.thinking_markers, found.tool_call_markers) == ((), ("{", "}", "[", "]"))


@pytest.mark.parametrize(
    ("name", "markers"),
    [
        ("thinking_markers", ("a",)),
        ("thinking_markers", ("a", "b", "c", "d")),
        ("thinking_markers", ("", "b")),
        ("thinking_markers", ("\ud800", "b")),
        ("tool_call_markers", ("a", "b", "c")),
        ("thinking_markers", ("a", "")),
        ("tool_call_markers", ("", "b")),
        ("tool_call_markers", ("a", "b", "c", "")),
        ("tool_call_markers", "ab"),
    ],
)
def test_markers_that_are_no_pair_are_refused(name: str, markers: Any) -> None:
    with pytest.raises(ConfigError, match=f"ModelConfig.{name}"):
        ModelConfig(**{name: markers})


@pytest.mark.parametrize("key", ["short", "\ud800" * 20])
def test_a_key_that_cannot_sign_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match="signing_key") as caught:
        RuntimeConfig(signing_key=key)
    assert "short" not in str(caught.value)


def test_a_key_is_shown_nowhere() -> None:
    config = RuntimeConfig(signing_key="a key that nobody sees")
    assert "signing_key=…" in repr(config)
    assert "signing_key=None" in repr(RuntimeConfig())
    for shown in (repr(config), str(config), repr(Markers(signing_key=b"a key that nobody sees"))):
        assert "nobody" not in shown


async def answer(pieces: list[bytes], **options: Any) -> erllama.Completion:
    async with running(PieceBackend(pieces)) as runtime:
        model = await runtime.load_model("pieces.gguf", chat_template=HERMES)
        return await model.complete("x", **options)


SAID = [b"<think>so</think>", b"x<tool_call>1</tool_call>"]


async def test_a_plain_request_has_its_text_as_it_is() -> None:
    done = await answer(SAID)
    assert done.text == b"".join(SAID).decode()
    assert (done.thinking, done.tool_calls) == (None, [])


@pytest.mark.parametrize("options", [{"thinking": True}, {"thinking_budget_tokens": 100}])
async def test_a_plain_request_may_ask_for_thinking_to_be_recognised(options: Any) -> None:
    done = await answer(SAID, **options)
    assert (done.text, done.thinking, done.tool_calls) == ("x", "so", ["1"])


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [("x<think>\n", [b"so", b"</think>", b"y"]), ("x<thi", [b"nk>so", b"</think>y"])],
)
async def test_a_prompt_may_open_or_begin_the_thinking(prompt: str, pieces: list[bytes]) -> None:
    async with running(PieceBackend(pieces)) as runtime:
        model = await runtime.load_model("pieces.gguf", chat_template=HERMES)
        done = await model.complete(prompt, thinking=True)
    assert (done.thinking, done.text) == ("so", "y")


async def test_a_call_may_have_no_end_marker() -> None:
    found = await info(tool_call_markers=("[TOOL_CALLS]", ""))
    assert found.tool_call_markers == ("[TOOL_CALLS]", "")


async def test_a_budget_for_a_model_that_does_not_think_is_refused() -> None:
    async with running(StubBackend()) as runtime:
        model = await runtime.load_model("any.gguf")
        with pytest.raises(RequestError, match=r"thinking_budget_tokens: .*'any' has no markers"):
            await model.complete("x", thinking_budget_tokens=3)


@pytest.mark.parametrize(
    "rule", [{"grammar": 'root ::= "a"'}, {"json_schema": {"type": "null"}}, {"regex": "a"}]
)
async def test_a_budget_and_what_rules_the_text_exclude_each_other(rule: dict[str, Any]) -> None:
    (field,) = rule
    with pytest.raises(RequestError, match=f"thinking_budget_tokens: {field} rules every token"):
        erllama.Request(thinking_budget_tokens=3, sampling=erllama.SamplingParams(**rule))
