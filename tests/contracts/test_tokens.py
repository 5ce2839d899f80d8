"""Text to ids and back, on any thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erllama.backend.base import Engine
from erllama.backend.lane import Lane
from erllama.backend.llama import LlamaBackend
from erllama.backend.stub import StubBackend
from erllama.config import ContextConfig, ModelConfig
from erllama.errors import EngineError, RequestError
from tests.contracts.rig import LLAMAS, Rig, on_thread
from tests.models import TINY, TINY_SPM, cached_model

TEXTS = (
    "Once upon a time, there was a lion.",
    "  two spaces, a tab\t and lines\n\n\n",
    "naïve café — 日本語 🙂🚀 العربية",
    "a NUL \0 and a bell \a",
    "e\u0301 combining, \u200b zero width, \ufeff mark, \U0010ffff last",
    "x" * 3_000,
)


async def test_text_survives_the_round_trip(rig: Rig) -> None:
    engine = await rig.load()
    for text in TEXTS:
        tokens = engine.tokenize(text, add_special=False, parse_special=False)
        assert engine.detokenize(tokens) == text
        assert all(0 <= token < engine.info.n_vocab for token in tokens)


@pytest.fixture(scope="module", params=["stub", "bpe", "sentencepiece"])
def tokenizer(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An engine with a vocabulary only: it never computes, so it needs no lane."""
    if request.param == "stub":
        yield StubBackend().open("stub", ModelConfig(), ContextConfig()).warm_up()
        return
    path = cached_model(TINY if request.param == "bpe" else TINY_SPM)
    loading = LlamaBackend().open(str(path), ModelConfig(vocab_only=True), ContextConfig())
    loading.load(lambda _: True)
    engine = loading.warm_up()
    yield engine
    engine.close()


@given(text=st.text(max_size=200))
@settings(deadline=None, max_examples=60)
def test_any_text_survives_the_round_trip(tokenizer: Engine, text: str) -> None:
    tokens = tokenizer.tokenize(text, add_special=False, parse_special=False)
    assert tokenizer.detokenize(tokens) == text


@given(ids=st.lists(st.integers(0, 255), max_size=60))
@settings(deadline=None, max_examples=60)
def test_any_ids_have_a_text(tokenizer: Engine, ids: list[int]) -> None:
    assert isinstance(tokenizer.detokenize(ids), str)


def test_no_text_has_no_tokens(tokenizer: Engine) -> None:
    assert list(tokenizer.tokenize("", add_special=False, parse_special=False)) == []
    assert tokenizer.detokenize([]) == ""


def test_special_tokens_are_added_only_on_request(tokenizer: Engine) -> None:
    bare = list(tokenizer.tokenize("Hello", add_special=False, parse_special=False))
    framed = list(tokenizer.tokenize("Hello", add_special=True, parse_special=False))
    assert framed[1:] == bare


def test_a_lone_surrogate_is_refused(tokenizer: Engine) -> None:
    with pytest.raises(RequestError, match="surrogate"):
        tokenizer.tokenize("good \ud800 bad", add_special=False, parse_special=False)


@pytest.mark.parametrize("bad", [-1, -(2**31), 2**31 - 1, 2**40, "n_vocab"])
def test_an_id_outside_the_vocabulary_is_refused_and_named(
    tokenizer: Engine, bad: int | str
) -> None:
    token = tokenizer.info.n_vocab if isinstance(bad, str) else bad
    with pytest.raises(RequestError, match=str(token)):
        tokenizer.detokenize([65, token, 66])


def test_special_tokens_are_parsed_only_on_request() -> None:
    path = cached_model(TINY)
    loading = LlamaBackend().open(str(path), ModelConfig(vocab_only=True), ContextConfig())
    loading.load(lambda _: True)
    engine = loading.warm_up()
    text = "a<|eot_id|>b"
    parsed = engine.tokenize(text, add_special=False, parse_special=True)
    plain = engine.tokenize(text, add_special=False, parse_special=False)
    assert len(parsed) == 3 < len(plain)
    assert engine.detokenize(parsed) == engine.detokenize(plain) == text
    engine.close()


async def test_threads_tokenize_while_the_lane_computes(lane: Lane) -> None:
    rig = Rig(LLAMAS[0], lane, lane.new_owner())
    engine = await rig.load()
    text = "The quick brown fox jumps. " * 40
    expected = engine.tokenize(text, add_special=True, parse_special=True)

    def tokenize() -> bool:
        return all(
            engine.tokenize(text, add_special=True, parse_special=True) == expected
            for _ in range(20)
        )

    threads = [on_thread(tokenize) for _ in range(4)]
    tokens = await rig.generate(engine, list(expected)[:100], 20)
    assert await asyncio.gather(*threads) == [True] * 4
    assert await rig.generate(engine, list(expected)[:100], 20, seq=1) == tokens
    await rig.close()


@pytest.mark.parametrize("call", ["tokenize", "detokenize"])
async def test_close_waits_for_those_who_read_the_vocabulary(
    lane: Lane, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    rig = Rig(LLAMAS[0], lane, lane.new_owner())
    engine = await rig.load()
    inside, go_on, closed = threading.Event(), threading.Event(), threading.Event()
    vocabulary = engine._vocabulary  # type: ignore[attr-defined]
    original = getattr(vocabulary, call)

    def slow(*args: object, **options: object) -> object:
        inside.set()
        go_on.wait()
        assert not closed.is_set(), "the vocabulary was freed while it was read"
        return original(*args, **options)

    def read() -> object:
        if call == "tokenize":
            return engine.tokenize("text", add_special=False, parse_special=False)
        return engine.detokenize([65, 66])

    def close() -> None:
        engine.close()
        closed.set()

    monkeypatch.setattr(vocabulary, call, slow)
    reading = on_thread(read)
    reading_task = asyncio.ensure_future(reading)
    await on_thread(inside.wait)
    waits, changed = threading.Event(), engine._readers._changed  # type: ignore[attr-defined]
    wait_for = changed.wait_for

    def note_and_wait(condition: Callable[[], bool]) -> None:
        waits.set()
        wait_for(condition)

    monkeypatch.setattr(changed, "wait_for", note_and_wait)
    closing = lane.submit(rig.owner, close)
    await on_thread(waits.wait)
    # The gate is shut at once, though the close itself has to wait.
    with pytest.raises(EngineError, match="unloaded"):
        engine.tokenize("late", add_special=False, parse_special=False)
    assert not closed.is_set()
    go_on.set()
    assert await reading_task
    await closing
    assert closed.is_set()
