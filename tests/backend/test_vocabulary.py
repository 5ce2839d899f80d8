"""What is remembered of tokens that were drawn."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from erllama.backend.llama import LlamaBackend, vocabulary
from erllama.backend.llama.engine import LlamaEngine
from erllama.backend.llama.vocabulary import Vocabulary
from erllama.config import ContextConfig, ModelConfig
from tests.models import TINY_SPM, cached_model


@pytest.fixture(scope="module")
def engine() -> Iterator[LlamaEngine]:
    loading = LlamaBackend().open(
        str(cached_model(TINY_SPM)), ModelConfig(vocab_only=True), ContextConfig()
    )
    loading.load(lambda _: True)
    engine = loading.warm_up()
    yield engine
    engine.close()


@pytest.fixture
def fresh(engine: LlamaEngine) -> Vocabulary:
    return Vocabulary(engine._model)


def drawn(fresh: Vocabulary, token: int) -> tuple[bytes, bool, bytes]:
    piece = fresh.piece(token)
    return piece, fresh.ends(token), b"" if piece else fresh.piece(token, special=True)


def test_a_drawn_token_has_its_piece_and_its_end_each_time(fresh: Vocabulary) -> None:
    expected = [drawn(fresh, token) for token in range(fresh.size)]
    for _ in range(2):
        assert [fresh.sampled(token) for token in range(fresh.size)] == expected
    assert any(end for _, end, _ in expected)
    assert any(special for _, _, special in expected)
    assert all(piece or special for piece, _, special in expected)


def test_llama_cpp_is_asked_once_for_a_token(
    fresh: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh.sampled(40)
    expected = fresh.sampled(41)
    monkeypatch.setattr(fresh, "piece", None)
    assert fresh.sampled(41) == expected


def test_only_so_many_tokens_are_remembered(
    fresh: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabulary, "_REMEMBERED", 10)
    for token in range(30):
        assert fresh.sampled(token) == drawn(fresh, token)
    assert len(fresh._sampled) == 10
