"""DRY over a real vocabulary: as in llama.cpp, breakers included, whatever a chain started from."""

from __future__ import annotations

import random

import numpy as np
import pytest

from erllama.backend.llama.vocabulary import Vocabulary
from erllama.backend.llama.words import Words
from erllama.sampling import Dry
from erllama.sampling.history import DryPenalty, History
from tests.backend.native_chain import native_logits

BREAKERS: dict[str, tuple[str, ...]] = {
    "none": (),
    "the usual ones": ("\n", ":", '"', "*"),
    "words": ("the", " and", "b"),
    "text that tokens share": ("she said", "\n\n", "at a"),
}


def context(choose: random.Random, vocabulary: Vocabulary, n: int) -> list[int]:
    """A text that repeats itself, with breakers in it."""
    texts = ["the cat and she said", "the cat", ": ", "\n", "a b", "é€", "aaaa", " and", "she sa"]
    found: list[int] = []
    while len(found) < n:
        text = choose.choice(texts)
        found += vocabulary.tokenize(text, add_special=False, parse_special=False)
    return found[:n]


def random_dry(choose: random.Random, breakers: tuple[str, ...]) -> Dry:
    return Dry(
        multiplier=choose.choice([0.5, 2.0, 10.0]),
        base=choose.choice([1.0, 1.1, 1.75, 4.0]),
        allowed_length=choose.choice([1, 2, 4]),
        last_n=choose.choice([-1, 10, 64, 1_000]),
        breakers=breakers,
    )


@pytest.mark.parametrize("breakers", BREAKERS.values(), ids=BREAKERS.keys())
def test_every_logit_is_llama_cpp_s_also_as_the_text_goes_on(
    breakers: tuple[str, ...], vocabulary: Vocabulary
) -> None:
    choose, words = random.Random(str(breakers)), Words(vocabulary)
    penalised = 0
    for _ in range(12):
        stage = random_dry(choose, breakers)
        tokens = context(choose, vocabulary, choose.choice([5, 40, 150]))
        history = History(tokens[:-4])
        dry = DryPenalty(stage, history, words.breakers(breakers), vocabulary.size)
        for end in range(len(tokens) - 4, len(tokens) + 1):
            logits = np.zeros(vocabulary.size, np.float32)
            dry.apply(logits)
            theirs = native_logits(stage, vocabulary._vocab, vocabulary.size, tokens[:end])
            np.testing.assert_allclose(logits, theirs, rtol=1e-5)
            penalised += int(logits.any())
            if end < len(tokens):
                history.append(tokens[end])
    assert penalised > 3


def penalised(vocabulary: Vocabulary, text: str, breaker: str) -> bool:
    """Whether DRY sees a repetition at the end of `text`."""
    stage = Dry(multiplier=5.0, base=2.0, allowed_length=1, last_n=-1, breakers=(breaker,))
    history = History(vocabulary.tokenize(text, add_special=False, parse_special=False))
    breakers = Words(vocabulary).breakers((breaker,))
    logits = np.zeros(vocabulary.size, np.float32)
    DryPenalty(stage, history, breakers, vocabulary.size).apply(logits)
    return bool(logits.any())


@pytest.mark.parametrize("breaker", [":", "é", "€é", "=>"])
def test_a_breaker_ends_a_repetition_also_one_of_several_tokens(
    vocabulary: Vocabulary, breaker: str
) -> None:
    assert penalised(vocabulary, f"{breaker}b{breaker}", breaker) is False
    assert penalised(vocabulary, f"{breaker}b{breaker}", "|") is True
