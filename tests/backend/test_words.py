"""What is remembered of a vocabulary for the next chain."""

from __future__ import annotations

import numpy as np
import pytest

from erllama import InvalidGrammar, RequestError
from erllama.backend.llama import words as module
from erllama.backend.llama.vocabulary import Vocabulary
from erllama.backend.llama.words import Words
from erllama.sampling import Grammar, SamplingParams, constraint, plan_sampler
from erllama.sampling.automaton import Automaton
from erllama.sampling.constraint import compile_grammar
from erllama.sampling.effort import Pause
from erllama.sampling.masks import Masks


def grammar(n: int) -> str:
    return f'root ::= "a"{{{n}}}'


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The grammars that are compiled."""
    texts: list[str] = []

    def counted(text: str, pause: Pause | None = None) -> Automaton:
        texts.append(text)
        return compile_grammar(text, pause)

    for where in (module, constraint):
        monkeypatch.setattr(where, "compile_grammar", counted)
    return texts


def test_a_prepared_grammar_is_compiled_once(vocabulary: Vocabulary, compiled: list[str]) -> None:
    words = Words(vocabulary)
    for _ in range(3):
        words.prepare(plan_sampler(SamplingParams(grammar=grammar(1))))
        words.constraint(Grammar(grammar(1)))
    assert compiled == [grammar(1)]


def test_a_prepared_grammar_has_its_first_masks_ready(
    vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = Words(vocabulary)
    words.prepare(plan_sampler(SamplingParams(grammar=grammar(3))))

    def made(masks: Masks, state: int) -> None:
        raise AssertionError(f"the mask of {state} is made now")

    monkeypatch.setattr(Masks, "_mask", made)
    words.constraint(Grammar(grammar(3))).apply(np.zeros(words.size, np.float32))


def test_a_grammar_of_which_too_much_is_remembered_is_begun_anew(
    vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = Words(vocabulary)
    plan = plan_sampler(SamplingParams(grammar=grammar(3)))
    words.prepare(plan)
    old = words._masks[Grammar(grammar(3))]
    words.prepare(plan)
    assert words._masks[Grammar(grammar(3))] is old
    monkeypatch.setattr("erllama.sampling.automaton.MAX_STATES", 1)
    words.prepare(plan)
    assert words._masks[Grammar(grammar(3))] is not old
    words.constraint(Grammar(grammar(3))).apply(np.zeros(words.size, np.float32))


def test_of_many_grammars_those_used_last_are_remembered(
    vocabulary: Vocabulary, compiled: list[str]
) -> None:
    words = Words(vocabulary)
    for n in range(1, 40):
        words.constraint(Grammar(grammar(1)))
        words.constraint(Grammar(grammar(n)))
    words.constraint(Grammar(grammar(39)))
    words.constraint(Grammar(grammar(2)))
    assert compiled == [grammar(n) for n in range(1, 40)] + [grammar(2)]


def test_a_wrong_grammar_is_not_remembered(vocabulary: Vocabulary, compiled: list[str]) -> None:
    words = Words(vocabulary)
    for _ in range(2):
        with pytest.raises(InvalidGrammar):
            words.prepare(plan_sampler(SamplingParams(grammar="root ::= x")))
    assert len(compiled) == 2


def test_tokens_that_end_a_generation_have_no_text_in_grammars(vocabulary: Vocabulary) -> None:
    words = Words(vocabulary)
    assert words.ending()
    pieces = words.tokens().pieces
    assert len(pieces) == vocabulary.size
    for token in range(vocabulary.size):
        ends = token in words.ending()
        assert vocabulary.ends(token) is ends
        assert pieces[token] == (b"" if ends else vocabulary.piece(token))


def test_a_bias_is_checked_against_the_vocabulary(vocabulary: Vocabulary) -> None:
    words = Words(vocabulary)
    words.prepare(plan_sampler(SamplingParams(logit_bias={words.size - 1: 1.0})))
    with pytest.raises(RequestError, match="logit_bias"):
        words.prepare(plan_sampler(SamplingParams(logit_bias={words.size: 1.0})))
