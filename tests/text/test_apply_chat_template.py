"""`Model.apply_chat_template`: a template's text as tokens."""

from __future__ import annotations

from typing import Any

import pytest

import erllama
from erllama.backend.stub import StubBackend
from tests.models.cache import cached_model
from tests.models.shapes import TINY, TINY_SPM
from tests.models.vocabulary import LLAMA3_CHAT_TEMPLATE, make_vocabulary

HELLO = [{"role": "user", "content": "Hello"}]
BOS = make_vocabulary("gpt2", TINY.n_vocab).special["bos"]


async def tokens(template: str, shape: Any = TINY, **options: Any) -> list[int]:
    path = cached_model(shape)
    async with erllama.load(path, vocab_only=True, chat_template=template) as model:
        return await model.apply_chat_template(HELLO, **options)


async def test_markers_become_special_tokens_and_the_text_begins_once() -> None:
    path = cached_model(TINY, chat_template=LLAMA3_CHAT_TEMPLATE)
    async with erllama.load(path, vocab_only=True) as model:
        ids = await model.apply_chat_template(HELLO)
        text = (
            "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n"
        )
        assert ids == await model.tokenize(text, add_special=False)
    assert ids.count(BOS) == 1
    special = make_vocabulary("gpt2", TINY.n_vocab).tokens.index("<|eot_id|>")
    assert special in ids


async def test_a_template_without_the_begin_token_gets_one_as_the_model_was_trained() -> None:
    plain = await tokens("{{ messages[0].content }}")
    assert plain[0] == BOS
    assert await tokens("{{ bos_token }}{{ messages[0].content }}") == plain
    assert await tokens("\n{{ bos_token }}{{ messages[0].content }}") != [BOS, *plain]


async def test_a_begin_token_inside_the_text_is_not_taken_for_the_first() -> None:
    ids = await tokens("x{{ bos_token }}")
    assert ids[0] == BOS
    assert ids.count(BOS) == 2


async def test_a_sentencepiece_vocabulary_gets_one_begin_token_too() -> None:
    plain = await tokens("{{ messages[0].content }}", TINY_SPM)
    assert plain[0] == 1
    assert plain.count(1) == 1
    written = await tokens("{{ bos_token }}{{ messages[0].content }}", TINY_SPM)
    assert written.count(1) == 1


async def test_flags_variables_and_tools_reach_the_template() -> None:
    template = "{{ add_generation_prompt }}{{ tools[0].name }}{{ mood }}{{ strftime_now('') }}"
    ids = await tokens(
        template, add_generation_prompt=False, tools=[{"name": "now"}], variables={"mood": "!"}
    )
    assert ids == await tokens("Falsenow!")


async def test_a_model_without_a_template_is_not_supported() -> None:
    async with erllama.Runtime(backend=StubBackend) as runtime:
        model = await runtime.load_model("bare.gguf")
        with pytest.raises(erllama.NotSupported, match="'bare' has no chat template"):
            await model.apply_chat_template(HELLO)


async def test_wrong_messages_are_refused_and_the_model_goes_on() -> None:
    async with erllama.Runtime(backend=StubBackend) as runtime:
        model = await runtime.load_model("any.gguf", chat_template="{{ messages[0].nobody.said }}")
        with pytest.raises(erllama.RequestError, match="messages: is empty"):
            await model.apply_chat_template([])
        with pytest.raises(erllama.RequestError, match="chat_template: fails"):
            await model.apply_chat_template(HELLO)
        assert model.status().phase == "idle"


async def test_a_long_chat_does_not_hold_up_the_event_loop() -> None:
    # the guard in conftest fails a callback that burns more than 50 ms
    work = "{% for i in range(99999) %}{% if i %}{% endif %}{% endfor %}" * 20
    assert await tokens(work + "done") == await tokens("done")
