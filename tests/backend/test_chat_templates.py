"""Files with several chat templates, and which of them chats are written with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import erllama
from erllama import ConfigError, NotSupported
from erllama.backend.llama.chat_templates import Templates, choose_templates
from tests.models.random_gguf import write_random_model
from tests.models.shapes import TINY

KEY = "tokenizer.chat_template"
FILE: dict[str, object] = {
    KEY: "D",
    f"{KEY}.tool_use": "T",
    f"{KEY}.rag": "R",
    f"{KEY}.empty": "",
    f"{KEY}.odd": 7,
    f"{KEY}s": "no template",
}
NAMED = {"tool_use": "T", "rag": "R"}
ONLY_NAMED = {f"{KEY}.{name}": text for name, text in NAMED.items()}
ONE: dict[str, object] = {KEY: "D"}


@pytest.mark.parametrize(
    ("metadata", "chosen", "found"),
    [
        (FILE, None, Templates("D", NAMED)),
        (FILE, "rag", Templates("R", {})),
        (FILE, "tool_use", Templates("T", {})),
        (FILE, "default", Templates("D", {})),
        (FILE, "{{ messages }}", Templates("{{ messages }}", {})),
        (FILE, "Two words", Templates("Two words", {})),
        (ONLY_NAMED, None, Templates(None, NAMED)),
        (ONE, None, Templates("D", {})),
        (ONE, "default", Templates("D", {})),
        (ONE, "done", Templates("done", {})),
        ({}, None, Templates(None, {})),
        ({}, "done", Templates("done", {})),
    ],
)
def test_a_value_is_a_name_of_the_file_or_a_template(
    metadata: dict[str, object], chosen: str | None, found: Templates
) -> None:
    assert choose_templates(metadata, chosen) == found


@pytest.mark.parametrize(
    ("metadata", "chosen", "names"),
    [
        (FILE, "tooluse", "default, rag, tool_use"),
        (ONLY_NAMED, "default", "rag, tool_use"),
        (ONLY_NAMED, "chatml", "rag, tool_use"),
        (ONE, "tool_use", "default"),
        ({}, "rag", "none at all"),
    ],
)
def test_a_name_that_the_file_does_not_have_is_refused_with_those_that_it_has(
    metadata: dict[str, object], chosen: str, names: str
) -> None:
    expected = f"ModelConfig.chat_template: the file has no template '{chosen}'; it has {names};"
    with pytest.raises(ConfigError, match=expected):
        choose_templates(metadata, chosen)


# With a model

HELLO: list[dict[str, Any]] = [{"role": "user", "content": "Hi"}]
TOOLS = [{"name": "f"}]


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    named = {"default": "one", "tool_use": "two {{ tools[0].name }}<tool_call></tool_call>"}
    templates = [{"name": name, "template": text} for name, text in named.items()]
    folder = tmp_path_factory.mktemp("several")
    return write_random_model(folder / "several.gguf", TINY, chat_template=templates)


@pytest.fixture(scope="module")
def unnamed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    templates = [{"name": "rag", "template": "three"}, {"name": "tool_use", "template": "two"}]
    folder = tmp_path_factory.mktemp("unnamed")
    return write_random_model(folder / "unnamed.gguf", TINY, chat_template=templates)


async def written(path: Path, *, tools: Any = None, **options: Any) -> str:
    async with erllama.load(path, vocab_only=True, **options) as model:
        ids = await model.apply_chat_template(HELLO, tools=tools)
        return (await model.detokenize(ids)).removeprefix("<|begin_of_text|>")


async def test_chats_with_tools_have_the_template_for_tools(several: Path) -> None:
    assert await written(several) == "one"
    assert await written(several, tools=[]) == "one"
    assert await written(several, tools=TOOLS) == "two f<tool_call></tool_call>"
    async with erllama.load(several, vocab_only=True) as model:
        info = model.info()
    assert (info.chat_template, list(info.chat_templates)) == ("one", ["tool_use"])
    assert info.tool_call_markers == ("<tool_call>", "</tool_call>")


async def test_a_template_that_was_named_is_for_all_chats(several: Path, unnamed: Path) -> None:
    assert await written(several, chat_template="default", tools=TOOLS) == "one"
    assert await written(unnamed, chat_template="rag", tools=TOOLS) == "three"
    assert await written(several, chat_template="{{ 'own' }}", tools=TOOLS) == "own"


async def test_a_wrong_name_is_told_when_the_model_is_loaded(several: Path) -> None:
    with pytest.raises(ConfigError, match="it has default, tool_use; name one"):
        await written(several, chat_template="rag")


async def test_a_file_without_a_default_says_what_it_has(unnamed: Path) -> None:
    assert await written(unnamed, tools=TOOLS) == "two"
    with pytest.raises(NotSupported, match="but those named rag, tool_use; load it with one"):
        await written(unnamed)
