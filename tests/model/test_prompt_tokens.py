"""What a prompt, a chat and an input of an encoder begin and end with, whatever the file says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

import erllama
from erllama import Model
from tests.models.cache import cached_model
from tests.models.shapes import TINY, TINY_BERT, TINY_SPM, TINY_SPM_SPACE, Llama
from tests.models.vocabulary import Vocabulary, make_vocabulary

BOS = {"gpt2": "<|begin_of_text|>", "llama": "<s>", "llama-space": "<s>"}
SHAPES = {"gpt2": TINY, "llama": TINY_SPM, "llama-space": TINY_SPM_SPACE}
SPECIAL = make_vocabulary("gpt2", TINY.n_vocab).special
BOS_ID = {"gpt2": SPECIAL["bos"], "llama": 1, "llama-space": 1}
EOS_ID = SPECIAL["eos"]
CHAT = "{% for m in messages %}{{ m.content }}{% endfor %}"
HELLO = [{"role": "user", "content": "Hello there"}]


@dataclass(frozen=True)
class Flagged(Llama):
    """A model whose file says otherwise what its texts begin and end with."""

    add_bos: bool = True
    add_eos: bool = True

    def make_vocabulary(self) -> Vocabulary:
        plain = super().make_vocabulary()
        flags = {"add_bos_token": self.add_bos, "add_eos_token": self.add_eos}
        return replace(plain, flags={**plain.flags, **flags})


@asynccontextmanager
async def loaded(
    kind: str, *, add_bos: bool = True, add_eos: bool = True, **options: Any
) -> AsyncIterator[Model]:
    shape = Flagged(vocabulary=kind, add_bos=add_bos, add_eos=add_eos)  # type: ignore[arg-type]
    path = await asyncio.to_thread(cached_model, shape)  # the first time it is written
    async with erllama.load(path, **{"n_threads": 1, **options}) as model:
        yield model


@pytest.mark.parametrize("kind", SHAPES)
async def test_no_prompt_and_no_chat_ends_with_a_token_that_the_file_adds(kind: str) -> None:
    async with loaded(kind, chat_template=CHAT) as model:
        plain = await model.tokenize("Hello there", add_special=False)
        expected = [BOS_ID[kind], *plain]
        assert await model.tokenize("Hello there") == expected
        assert await model.apply_chat_template(HELLO) == expected
        done = await model.complete("Hello there", max_tokens=1)
        chat = await model.chat(HELLO, max_tokens=1)
        assert done.context_tokens[:-1] == chat.context_tokens[:-1] == expected


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("space", ["", " ", "\n"])
async def test_a_text_that_spells_its_beginning_gets_no_second_one(kind: str, space: str) -> None:
    text = f"{space}{BOS[kind]}Hello"
    async with loaded(kind, chat_template=CHAT, vocab_only=True) as model:
        ids = await model.tokenize(text)
        chat = await model.apply_chat_template([{"role": "user", "content": text}])
        assert ids == chat == await model.tokenize(text, add_special=False)
        assert ids.count(BOS_ID[kind]) == 1
        if not space:  # nor another space behind it
            assert ids == await model.tokenize("Hello")


async def test_a_beginning_that_is_plain_text_is_none() -> None:
    async with loaded("gpt2", vocab_only=True) as model:
        ids = await model.tokenize("<|begin_of_text|>Hello", parse_special=False)
        bos = BOS_ID["gpt2"]
        assert ids[0] == bos
        assert len(ids) > 2
        assert ids.count(bos) == 1
        inside = await model.tokenize("x<|begin_of_text|>")
        assert (inside[0], inside.count(bos)) == (bos, 2)


@pytest.mark.parametrize("kind", SHAPES)
async def test_a_model_that_wants_no_beginning_gets_what_is_written(kind: str) -> None:
    async with loaded(kind, add_bos=False, chat_template=CHAT, vocab_only=True) as model:
        plain = await model.tokenize("Hello there", add_special=False)
        assert await model.tokenize("Hello there") == plain
        assert await model.apply_chat_template(HELLO) == plain
        bos = BOS_ID[kind]
        assert (await model.tokenize(f"{BOS[kind]}Hello"))[0] == bos


@pytest.mark.parametrize("vocab_only", [True, False])
async def test_an_encoder_gets_what_it_was_trained_with(vocab_only: bool) -> None:
    path = await asyncio.to_thread(cached_model, TINY_BERT)
    async with erllama.load(path, vocab_only=vocab_only, n_threads=1) as model:
        ids = await model.tokenize("hello there")
        assert (ids[0], ids[-1]) == (2, 3)  # [CLS], [SEP]
        assert ids[1:-1] == await model.tokenize("hello there", add_special=False)
        if not vocab_only:
            assert await model.embed("hello there") == await model.embed(ids)


async def test_an_embedding_of_a_decoder_ends_as_the_file_says() -> None:
    async with loaded("gpt2", embeddings=True) as model:
        eos = EOS_ID
        prompt = await model.tokenize("Hello there")
        trained = await model.embed([*prompt, eos])
        assert await model.embed("Hello there") == trained
        assert await model.embed(prompt) != trained
