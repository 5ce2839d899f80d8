"""The text of a stream: whole characters only, and together the text of the completion."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erllama import Done, Model, Runtime, Stream, Text
from tests.model.staging import PATIENCE_S, PieceBackend, running

settings.register_profile("text", deadline=None, max_examples=60)
CALM = settings.get_profile("text")


async def read(stream: Stream) -> tuple[list[Text], str]:
    events = [event async for event in stream]
    assert isinstance(events[-1], Done)
    return [e for e in events if isinstance(e, Text)], events[-1].completion.text


def cut(data: bytes, lengths: Sequence[int]) -> list[bytes]:
    """`data` in pieces of these lengths, and the rest as one more."""
    ends = list(itertools.accumulate(lengths, initial=0))
    pieces = [data[start:end] for start, end in itertools.pairwise(ends)]
    return [*pieces, data[ends[-1] :]]


def pieces_of(data: st.SearchStrategy[bytes]) -> st.SearchStrategy[list[bytes]]:
    lengths = st.lists(st.integers(0, 5), max_size=30)
    return st.builds(cut, data, lengths)


texts = st.text(
    st.characters(codec="utf-8") | st.sampled_from("aé€😀\ufeff\u0301\x00"), max_size=30
)


@CALM
@given(pieces_of(st.builds(str.encode, texts)))
async def test_any_text_in_any_pieces_arrives_whole(pieces: list[bytes]) -> None:
    async with running(PieceBackend(pieces)) as runtime:
        model = await runtime.load_model("pieces.gguf")
        events, text = await read(model.stream("x"))
    assert text == b"".join(pieces).decode()
    assert "".join(event.text for event in events) == text
    assert "\ufffd" not in text or "\ufffd" in b"".join(pieces).decode()
    assert all(event.text for event in events)


@CALM
@given(pieces_of(st.binary(max_size=40)))
async def test_bytes_that_are_no_text_become_replacement_characters(pieces: list[bytes]) -> None:
    async with running(PieceBackend(pieces)) as runtime:
        model = await runtime.load_model("pieces.gguf")
        events, text = await read(model.stream("x"))
    assert "".join(event.text for event in events) == text
    assert text == b"".join(pieces).decode("utf-8", "replace")


@CALM
@given(pieces_of(st.builds(str.encode, texts)), st.integers(1, 12))
async def test_a_text_cut_by_max_tokens_is_the_same_in_both_forms(
    pieces: list[bytes], max_tokens: int
) -> None:
    async with running(PieceBackend(pieces)) as runtime:
        model = await runtime.load_model("pieces.gguf")
        events, text = await read(model.stream("x", max_tokens=max_tokens))
    assert "".join(event.text for event in events) == text
    assert text == b"".join(pieces[:max_tokens]).decode("utf-8", "replace")


@CALM
@given(pieces_of(st.builds(str.encode, texts)), st.integers(0, 12))
async def test_a_text_cut_by_a_cancel_has_whole_characters_only(
    pieces: list[bytes], n_events: int
) -> None:
    async with running(PieceBackend(pieces)) as runtime:
        model = await runtime.load_model("pieces.gguf")
        stream = model.stream("x")
        seen = []
        async with stream:
            for _ in range(n_events):
                event = await anext(stream, None)
                if not isinstance(event, Text):
                    break
                seen.append(event.text)
            completion = await stream.cancel()
            seen += [event.text async for event in stream if isinstance(event, Text)]
    assert "".join(seen) == completion.text
    whole = b"".join(pieces).decode()
    assert whole.startswith(completion.text)


async def test_a_character_shows_with_the_token_that_completes_it() -> None:
    async with running(PieceBackend([b"a", *(bytes([byte]) for byte in "😀".encode())])) as runtime:
        model = await runtime.load_model("pieces.gguf")
        events, text = await read(model.stream("x"))
    assert [event.text for event in events] == ["a", "😀"]
    assert text == "a😀"


async def test_half_a_character_at_the_end_is_shown_as_a_replacement() -> None:
    async with running(PieceBackend([b"a", b"\xf0\x9f"])) as runtime:
        model = await runtime.load_model("pieces.gguf")
        events, text = await read(model.stream("x"))
    assert [event.text for event in events] == ["a", "\ufffd"]
    assert text == "a\ufffd"


async def test_the_texts_of_a_stream_can_be_read_alone() -> None:
    async with running(PieceBackend([b"o", b"", b"n\xc3", b"\xa9"])) as runtime:
        model = await runtime.load_model("pieces.gguf")
        stream = model.stream("x")
        assert [text async for text in stream.text()] == ["o", "n", "é"]
        assert (await stream.result()).text == "oné"


@pytest.mark.parametrize("seed", range(4))
async def test_a_real_model_never_splits_a_character(tiny_gguf: Path, seed: int) -> None:
    # random weights at a high temperature: the byte tokens come in any order
    options: dict[str, Any] = {"temperature": 50.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    async with asyncio.timeout(PATIENCE_S), Runtime() as runtime:
        model: Model = await runtime.load_model(tiny_gguf, n_ctx=256, n_threads=1)
        stream = model.stream("é€", max_tokens=60, seed=seed, **options)
        events, text = await read(stream)
        assert "".join(event.text for event in events) == text
        assert text.encode().decode() == text
        assert len((await stream.result()).tokens) > 1
