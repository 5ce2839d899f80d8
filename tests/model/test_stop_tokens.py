"""`stop` texts with control tokens in them, and `stop_token_ids`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from erllama import Model, RequestError, Runtime, Text
from erllama.backend.base import Sampled
from erllama.backend.stub import StubBackend
from erllama.model.reply import Reply
from tests.model.staging import running
from tests.models.cache import cached_model
from tests.models.shapes import TINY

ID = TINY.make_vocabulary().tokens.index
HEADER, TURN = ID("<|start_header_id|>"), ID("<|eot_id|>")


@pytest_asyncio.fixture
async def tiny() -> AsyncIterator[Model]:
    async with Runtime() as runtime:
        yield await runtime.load_model(cached_model(TINY), n_threads=1)


def reply(*said: str | tuple[str, bool], stop: tuple[str, ...]) -> Reply:
    """A reply of control tokens, which are in angle brackets, and of others."""
    made = Reply(stop)
    for at, text in enumerate(said):
        control = str(text).startswith("<")
        piece, special = (b"", str(text).encode()) if control else (str(text).encode(), b"")
        end = text == "<end>"
        made.take(Sampled(0, at, piece, end, special=special), last=end or at == len(said) - 1)
        if made.stop_sequence is not None:
            break
    return made


@pytest.mark.parametrize(
    ("said", "stop", "text", "matched"),
    [
        (("a", "<x>", "b"), "<x>", "a", "<x>"),
        (("a", "<", "x", ">b"), "<x>", "a", "<x>"),
        (("a", "<x>", "<y>", "b"), "<x><y>", "a", "<x><y>"),
        (("a\n", "<x>", "\nb"), "\n<x>\n", "a", "\n<x>\n"),
        (("a", "<x>", "user", "b"), "<x>us", "a", "<x>us"),
        (("a", "<x>", "b"), "<x>c", "ab", None),
        (("a", "<x>", "b", "<y>"), "<y>", "ab", "<y>"),
        (("a", "<end>"), "<end>", "a", "<end>"),
        (("a", "<x>", "b"), "ab", "ab", None),
    ],
)
def test_a_stop_may_have_control_tokens(
    said: tuple[str, ...], stop: str, text: str, matched: str | None
) -> None:
    made = reply(*said, stop=(stop,))
    assert ("".join(made.text), made.stop_sequence) == (text, matched)


def test_stops_end_where_they_do_in_streams_too() -> None:
    made = Reply(("<x>y",))
    events = []
    for piece, special in ((b"a", b""), (b"", b"<x>"), (b"b", b"")):
        events.append(made.take(Sampled(0, 1, piece, False, special=special), last=False))
    assert events == [[Text("a", 1)], [], [Text("b", 1)]]


@pytest.mark.parametrize("stop", ["<|start_header_id|>", ("x", "<|start_header_id|>")])
async def test_a_control_token_of_a_model_stops_it(tiny: Model, stop: Any) -> None:
    bias = {HEADER: 1e4}
    done = await tiny.complete("Say it", max_tokens=5, logit_bias=bias, stop=stop)
    assert (done.finish_reason, done.stop_sequence) == ("stop", "<|start_header_id|>")
    assert (done.tokens, done.text, done.stop_token_id) == ([HEADER], "", None)
    free = await tiny.complete("Say it", max_tokens=5, logit_bias=bias, stop="<|eot_id|>")
    assert (free.finish_reason, free.tokens, free.text) == ("length", [HEADER] * 5, "")


async def test_an_end_that_is_asked_for_as_a_stop_is_named(tiny: Model) -> None:
    done = await tiny.complete("x", max_tokens=5, logit_bias={TURN: 1e4}, stop="<|eot_id|>")
    assert (done.finish_reason, done.stop_sequence) == ("stop", "<|eot_id|>")
    plain = await tiny.complete("x", max_tokens=5, logit_bias={TURN: 1e4})
    assert (plain.finish_reason, plain.stop_sequence) == ("stop", None)


@pytest.mark.parametrize("token", [HEADER, ID("the")])
async def test_a_token_of_a_model_stops_it_by_its_id(tiny: Model, token: int) -> None:
    done = await tiny.complete(
        "Say it", max_tokens=5, logit_bias={token: 1e4}, stop_token_ids=[token, TURN]
    )
    assert (done.finish_reason, done.stop_sequence, done.stop_token_id) == ("stop", None, token)
    assert (done.tokens, done.text) == ([token], "")


# The stub's tokens are bytes


async def test_a_stop_token_is_as_a_stop_text_but_for_its_name() -> None:
    async with running(StubBackend()) as runtime:
        model = await runtime.load_model("stub.gguf")
        letter = (await model.complete("x", temperature=0, max_tokens=40)).text[20]
        by_text = await model.complete("x", temperature=0, stop=letter)
        by_token = await model.complete("x", temperature=0, stop_token_ids=(ord(letter),))
        assert (by_token.text, by_token.tokens) == (by_text.text, by_text.tokens)
        assert by_token.finish_reason == by_text.finish_reason == "stop"
        assert (by_token.stop_token_id, by_token.stop_sequence) == (ord(letter), None)
        assert (by_text.stop_token_id, by_text.stop_sequence) == (None, letter)
        async with model.stream("x", temperature=0, stop_token_ids=[ord(letter)]) as stream:
            shown = [event.text async for event in stream if isinstance(event, Text)]
        assert "".join(shown) == by_text.text


async def test_what_a_stop_had_begun_is_shown_when_a_token_stops() -> None:
    async with running(StubBackend()) as runtime:
        model = await runtime.load_model("stub.gguf")
        text = (await model.complete("x", temperature=0, max_tokens=30)).text
        at = next(at for at in range(2, 30) if text[at] not in text[:at])
        held = text[at - 2 : at] + "~"
        done = await model.complete("x", temperature=0, stop=held, stop_token_ids=[ord(text[at])])
        assert (done.text, done.stop_sequence) == (text[:at], None)
        assert done.stop_token_id == ord(text[at])


async def test_a_stop_token_counts_in_thinking_too() -> None:
    async with running(StubBackend()) as runtime:
        model = await runtime.load_model(
            "stub.gguf",
            chat_template="{% for m in messages %}{{ m.content }}{% endfor %}<t></t><t>",
            thinking_markers=("<t>", "</t>"),
        )
        asked = [{"role": "user", "content": "x"}]
        thought = (await model.chat(asked, temperature=0, max_tokens=30)).thinking
        assert thought
        done = await model.chat(asked, temperature=0, stop_token_ids=[ord(thought[9])])
        assert done.thinking == thought[: thought.index(thought[9])]
        assert done.finish_reason == "stop"


@pytest.mark.parametrize(
    ("ids", "error"),
    [
        ([258], "stop_token_ids: token id 258 is not in the vocabulary; ids go from 0 to 257"),
        ([-1], "stop_token_ids"),
        (["a"], "stop_token_ids"),
        ([True], "stop_token_ids"),
        (7, "stop_token_ids"),
        (range(65), "stop_token_ids"),
    ],
)
async def test_what_is_no_token_is_refused_by_name(ids: Any, error: str) -> None:
    async with running(StubBackend()) as runtime:
        model = await runtime.load_model("stub.gguf")
        with pytest.raises(RequestError, match=error):
            await model.complete("x", max_tokens=1, stop_token_ids=ids)
        assert (await model.complete("x", max_tokens=1)).finish_reason == "length"
