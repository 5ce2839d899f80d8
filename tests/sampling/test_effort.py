"""Following a grammar is limited by steps, which do not depend on what is remembered."""

from __future__ import annotations

import random

import numpy as np
import pytest

from erllama import InvalidGrammar
from erllama.sampling import effort, masks
from erllama.sampling.automaton import Automaton
from erllama.sampling.chain import NothingToDraw
from erllama.sampling.constraint import GrammarConstraint, begun_masks, compile_grammar
from erllama.sampling.effort import TooManySteps
from erllama.sampling.gbnf import parse_gbnf
from erllama.sampling.masks import Masks
from tests.sampling.grammars import GRAMMARS
from tests.sampling.test_masks import MORE, TOKENS, places

MANY_READINGS = "root ::= (" + ".? " * 10 + '){0,140} "z"'
OPTIONAL = 'root ::= ([a-z]? ){60} "!"'
END = TOKENS.size - 1


def steps(made: Masks, state: int) -> int:
    """The steps that are counted for a mask, which is made anew."""
    made._masks.clear()
    return made._counted(lambda: made._packed(state))[1]


@pytest.mark.parametrize("grammar", [*GRAMMARS.values(), *MORE.values(), OPTIONAL])
def test_a_mask_counts_the_same_steps_whatever_is_remembered(grammar: str) -> None:
    warm = Masks(compile_grammar(grammar), TOKENS)
    warm.begin()
    met = list(dict.fromkeys(places(warm, random.Random(1), 6)))
    for state in met:
        cold = warm.moved(state)
        assert steps(warm, state) == steps(cold, 1)
        assert steps(warm, state) == steps(cold, 1)  # now it is warm as well


@pytest.mark.parametrize("name", [name for name in GRAMMARS if name != "json"])
def test_ordinary_grammars_are_far_from_the_limit(name: str) -> None:
    made = Masks(compile_grammar(GRAMMARS[name]), TOKENS)
    made.begin()
    for state in places(made, random.Random(2), 10):
        assert steps(made, state) < effort.MASK_STEPS / 5


def test_what_begins_with_too_many_readings_is_refused_by_name() -> None:
    with pytest.raises(InvalidGrammar, match=r"grammar: line 1, column 1: .* too many ways"):
        begun_masks(MANY_READINGS, TOKENS)


def test_a_mask_ends_at_its_limit_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Masks(compile_grammar(OPTIONAL), TOKENS)
    needed = steps(made, 0)
    for limit, enough in ((needed, True), (needed - 1, False)):
        monkeypatch.setattr(masks, "MASK_STEPS", limit)
        for _ in range(3):
            cold = made.anew()
            if enough:
                assert cold.mask(0).any()
            else:
                with pytest.raises(TooManySteps):
                    cold.mask(0)
                with pytest.raises(TooManySteps):
                    cold.mask(0)


def test_a_place_that_takes_too_many_steps_fails_its_own_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = Masks(compile_grammar('root ::= "a" ([a-z]? ){60} "!" | "b"'), TOKENS)
    monkeypatch.setattr(masks, "MASK_STEPS", steps(made, 0) + 50)
    failing, going = (GrammarConstraint(made, [END]) for _ in range(2))
    failing.accept(TOKENS.pieces.index(b"a"))
    with pytest.raises(NothingToDraw, match=r"grammar: .* too many ways"):
        failing.apply(np.zeros(TOKENS.size, np.float32))
    going.apply(np.zeros(TOKENS.size, np.float32))
    going.accept(TOKENS.pieces.index(b"b"))


def test_going_on_behind_a_token_is_limited_too(monkeypatch: pytest.MonkeyPatch) -> None:
    automaton = Automaton(parse_gbnf(OPTIONAL))
    assert automaton.follow(0, b"abc") > 0
    monkeypatch.setattr("erllama.sampling.automaton.ACCEPT_STEPS", 2_000)
    for one in (automaton, Automaton(parse_gbnf(OPTIONAL))):  # remembered or not
        with pytest.raises(TooManySteps):
            one.follow(0, b"abc" * 8)


def test_long_work_pauses_and_ends_when_it_is_told() -> None:
    class Ended(Exception):
        pass

    pauses = 0

    def pause() -> None:
        nonlocal pauses
        pauses += 1
        if pauses == 3:
            raise Ended

    with pytest.raises(Ended):
        begun_masks(MORE["deep"], TOKENS, pause)
    assert pauses == 3
    pauses = 0
    with pytest.raises(Ended):
        parse_gbnf("root ::= " + '"ab" ' * 5_000, pause)


def test_what_is_held_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("erllama.sampling.automaton.MAX_HELD", 5_000)
    automaton = Automaton(parse_gbnf('root ::= ([a-z]? ){120} "!"'))
    state = 0
    for _ in range(120):
        state = automaton.follow(state, b"q")
        if automaton.full:
            automaton, state = automaton.moved(state), 1
        assert automaton._held < 10_000
