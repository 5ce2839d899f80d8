"""A grammar allows the tokens that llama.cpp's own grammar sampler allows."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from erllama.backend.llama.library import llama
from erllama.backend.llama.vocabulary import Vocabulary
from erllama.backend.llama.words import Words
from erllama.sampling import Grammar, SamplingParams, plan_sampler
from erllama.sampling.chain import Chain
from tests.backend.native_chain import apply, candidates
from tests.sampling.grammars import GRAMMARS

RESTS = (b"", b"\x80", b"\x80\x80", b"\xa0\x80", b"\x80\x80\x80", b"\x90\x80\x80")
"""What any beginning of a character lacks, at least one of them."""


def controls(vocabulary: Vocabulary) -> list[int]:
    """Tokens without a text of their own; llama.cpp lets their names match."""
    return [
        token
        for token in range(vocabulary.size)
        if not vocabulary.piece(token) and not vocabulary.ends(token)
    ]


def begins_text(data: bytes) -> bool:
    """Whether `data` is UTF-8, but perhaps for what is missing at its end."""
    return any((data + rest).decode(errors="replace").encode() == data + rest for rest in RESTS)


def _as_older_ones_read_it(grammar: str) -> str:
    """The same grammar; the llama.cpp of llama-cpp-python 0.3.35 does not know `\\-`."""
    return grammar.replace(r"[\]\-\[\\]", r"[\]\[\\-]")


class Both:
    """erllama's and llama.cpp's followers of one grammar, side by side."""

    def __init__(self, grammar: str, vocabulary: Vocabulary) -> None:
        self._llama = llama()
        self._size = vocabulary.size
        self._pieces = vocabulary.pieces()
        self._text = b""
        self._controls = controls(vocabulary)
        self.ours = Words(vocabulary).constraint(Grammar(grammar))
        self._theirs = self._llama.llama_sampler_init_grammar(
            vocabulary._vocab, _as_older_ones_read_it(grammar).encode(), b"root"
        )
        assert self._theirs

    def close(self) -> None:
        self._llama.llama_sampler_free(self._theirs)

    def allowed(self) -> list[int]:
        """The tokens that may come next, on which both must agree."""
        ours = np.zeros(self._size, np.float32)
        self.ours.apply(ours)
        theirs = candidates(np.zeros(self._size))
        apply(self._theirs, theirs)
        wanted = theirs["logit"] == 0
        wanted[self._controls] = False
        for token in np.flatnonzero(wanted):  # llama.cpp takes some bytes that are no UTF-8
            wanted[token] = begins_text(self._text + self._pieces[token])
        allowed = ours == 0
        assert np.array_equal(allowed, wanted), np.flatnonzero(allowed != wanted)[:10]
        return [int(token) for token in np.flatnonzero(allowed)]

    def accept(self, token: int) -> None:
        self._text += self._pieces[token]
        self.ours.accept(token)
        self._llama.llama_sampler_accept(self._theirs, token)


@pytest.mark.parametrize("name", GRAMMARS)
def test_the_allowed_tokens_are_llama_cpp_s_all_along_random_texts(
    name: str, vocabulary: Vocabulary
) -> None:
    choose = random.Random(name)
    for _ in range(4):
        both = Both(GRAMMARS[name], vocabulary)
        for _ in range(30):
            allowed = both.allowed()
            if not allowed:
                break
            token = choose.choice(allowed)
            both.accept(token)
            if vocabulary.ends(token):
                break
        both.close()


def texts(vocabulary: Vocabulary, grammar: str, **options: Any) -> Iterator[bytes]:
    """Whole texts that were drawn from random logits."""
    rng = np.random.default_rng(1)
    plan = plan_sampler(SamplingParams(grammar=grammar, **options))
    words = Words(vocabulary)
    for _ in range(5):
        chain, text = Chain(plan, words), b""
        for seed in range(400):
            token = chain.sample(rng.standard_normal(vocabulary.size).astype(np.float32), seed)
            if vocabulary.ends(token):
                yield text
                break
            text += vocabulary.piece(token)


@pytest.mark.parametrize("options", [{}, {"temperature": 0}, {"mirostat": 2}])
def test_texts_drawn_from_random_logits_match_the_grammar(
    vocabulary: Vocabulary, options: dict[str, Any]
) -> None:
    found = list(texts(vocabulary, 'root ::= ("yes" | "no" | "é€😀") [0-9]{2,4} "."?', **options))
    assert len(found) == 5
    for text in found:
        words, digits = text.decode().rstrip("."), "0123456789"
        assert words.rstrip(digits) in ("yes", "no", "é€😀")
        assert 2 <= len(words) - len(words.rstrip(digits)) <= 4
