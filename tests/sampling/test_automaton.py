"""Texts are followed through a grammar byte by byte, within bounds."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama import InvalidGrammar
from erllama.sampling import automaton as module
from erllama.sampling import masks as masks_module
from erllama.sampling.automaton import Automaton
from erllama.sampling.chain import NothingToDraw
from erllama.sampling.constraint import GrammarConstraint, compile_grammar
from erllama.sampling.effort import TooAmbiguous
from erllama.sampling.gbnf import parse_gbnf
from erllama.sampling.masks import Follower, Masks
from erllama.sampling.token_bytes import TokenBytes
from tests.sampling.grammars import JSON

BYTES = TokenBytes([bytes([byte]) for byte in range(256)])
END = 256


def made(grammar: str) -> Automaton:
    return Automaton(parse_gbnf(grammar))


def matches(automaton: Automaton, text: bytes) -> bool:
    state = automaton.follow(0, text)
    return state >= 0 and automaton.complete(state)


# Grammars and regular expressions of the same texts
PAIRS = [
    ('root ::= "a"* "b"+ [cd]?', "a*b+[cd]?"),
    ('root ::= ("ab" | "a" | "ba"){2,3}', "(ab|a|ba){2,3}"),
    ('root ::= x x\nx ::= "a" | "b" x | ""', "(b*a?)(b*a?)"),
    ('root ::= [^ab]* "a"', "[^ab]*a"),
    ("root ::= .{2}", "(?s:.){2}"),
]


@pytest.mark.parametrize(("grammar", "expression"), PAIRS)
@given(text=st.text(st.sampled_from("abcdé"), max_size=8))
def test_a_grammar_matches_what_the_same_regular_expression_matches(
    grammar: str, expression: str, text: str
) -> None:
    expected = re.fullmatch(expression, text) is not None
    assert matches(made(grammar), text.encode()) is expected


@given(st.text(max_size=6))
def test_any_text_of_characters_is_a_text(text: str) -> None:
    data = text.replace("\x00", "").encode(errors="ignore")
    assert matches(made("root ::= .*"), data)


@given(st.binary(max_size=6))
def test_bytes_that_are_no_characters_match_nothing(data: bytes) -> None:
    try:
        data.decode()
        is_text = b"\x00" not in data
    except UnicodeDecodeError:
        is_text = False
    assert matches(made("root ::= .*"), data) is is_text


@pytest.mark.parametrize("lead", [0xC0, 0xC1, 0xF5, 0xFF, 0x80])
def test_a_byte_that_begins_no_character_is_refused_at_once(lead: int) -> None:
    assert made("root ::= .*").step(0, lead) < 0


def test_the_first_byte_of_a_character_comes_only_where_the_rest_may_follow() -> None:
    automaton = made('root ::= "é" | "ü" | [\\u0800-\\u0810]')
    allowed = [byte for byte in range(256) if automaton.step(0, byte) >= 0]
    assert allowed == [0xC3, 0xE0]
    state = automaton.step(0, 0xC3)
    assert [byte for byte in range(256) if automaton.step(state, byte) >= 0] == [0xA9, 0xBC]


def test_json_is_followed_to_its_end_and_not_behind_it() -> None:
    automaton = made(JSON)
    text = '{"ab€": [1, 2.5e3, {"x": null}], "y": "z\\u00e9"}'.encode()
    assert matches(automaton, text)
    assert not matches(automaton, text[:-1])
    assert automaton.follow(0, text + b"}") < 0
    assert automaton.follow(0, b'{"a": 01') < 0


TOKENS = TokenBytes([b"a", b"ab", b"b", b"", b"abc", b"\xc3", b"\xa9", b"aa", b"ba"])


def test_a_mask_is_what_following_each_token_says() -> None:
    automaton = made('root ::= ("ab" | "é")* "a"')
    state = 0
    masks = Masks(automaton, TOKENS)
    for piece in (b"a", b"b", b"\xc3", b"\xa9"):
        mask = masks.mask(state)
        expected = [bool(one) and automaton.follow(state, one) >= 0 for one in TOKENS.pieces]
        assert mask.tolist() == expected
        state = automaton.follow(state, piece)


def test_a_follower_takes_allowed_tokens_only() -> None:
    follower = Follower(Masks(made('root ::= "ab" "c"?'), TOKENS))
    assert follower.allowed().tolist() == [True, True, False, False, True] + [False] * 4
    assert not follower.accept(2)
    assert not follower.accept(3)
    assert follower.accept(1)
    assert follower.complete
    assert not follower.allowed().any()


def constraint(grammar: str) -> GrammarConstraint:
    tokens = TokenBytes([*BYTES.pieces, b""])
    return GrammarConstraint(Masks(compile_grammar(grammar), tokens), [END])


def test_the_end_comes_only_where_the_text_may_end() -> None:
    rule = constraint('root ::= "a" "b"?')
    for byte, allowed in ((ord("a"), ["a"]), (ord("b"), ["b", "end"]), (END, ["end"])):
        logits = np.zeros(257, np.float32)
        rule.apply(logits)
        names = ["end" if token == END else chr(token) for token in np.flatnonzero(logits == 0)]
        assert names == allowed
        rule.accept(byte)


def test_a_token_that_does_not_match_is_refused() -> None:
    for token in (ord("b"), END):
        with pytest.raises(NothingToDraw, match=f"token {token} .* does not match"):
            constraint('root ::= "a"').accept(token)


def test_a_ban_from_elsewhere_stays() -> None:
    logits = np.zeros(257, np.float32)
    logits[[ord("a"), END]] = -np.inf
    constraint("root ::= [ab]*").apply(logits)
    assert np.flatnonzero(logits == 0).tolist() == [ord("b")]


def test_many_readings_of_one_text_are_bounded() -> None:
    """llama.cpp keeps 2 to the power of n stacks behind n letters."""
    rule = constraint('root ::= s\ns ::= "a" s "b" | "a" s "c" | ""')

    def go_on() -> None:
        for _ in range(100):
            rule.apply(np.zeros(257, np.float32))
            rule.accept(ord("a"))

    with pytest.raises(NothingToDraw, match="grammar: the text can be read in too many ways"):
        go_on()


def test_many_readings_of_nothing_are_bounded() -> None:
    """Each rule doubles what the one below it may be."""
    doubled = "\n".join(f"r{n} ::= r{n + 1} r{n + 1}" for n in range(40))
    with pytest.raises(InvalidGrammar, match="too many ways"):
        compile_grammar(f'root ::= r0\n{doubled}\nr40 ::= "x" | ""')
    later = made(f'root ::= "a" r0\n{doubled}\nr40 ::= "x" | ""')
    with pytest.raises(TooAmbiguous):
        later.step(0, ord("a"))


def test_what_is_remembered_is_bounded_and_forgetting_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grammar = 'root ::= "(" root? ")" | "[" root* "]"'
    text = b"[" * 40 + b"(())[]" * 5 + b"]" * 40
    expected = [Follower(Masks(made(grammar), BYTES)).allowed().copy()]
    remembering = Follower(Masks(made(grammar), BYTES))
    for byte in text:
        assert remembering.accept(byte)
        expected.append(remembering.allowed().copy())
    monkeypatch.setattr(module, "MAX_STATES", 12)
    forgetting = Follower(Masks(made(grammar), BYTES))
    for byte, allowed in zip(text, expected, strict=False):
        assert np.array_equal(forgetting.allowed(), allowed)
        assert forgetting.accept(byte)
        assert len(forgetting._masks.automaton) < 20
    assert forgetting.complete
    assert len(remembering._masks.automaton) > 40


def test_masks_of_any_depth_are_made_from_those_of_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    walks: list[int] = []
    whole = Masks._whole

    def counted(self: Masks, state: int) -> object:
        walks.append(state)
        return whole(self, state)

    monkeypatch.setattr(Masks, "_whole", counted)
    brackets = [b"(", b"[", b")", b"]", b"))", b"])]", b")])])])]", b"]]]]]]", b"(]", b"x"]
    tokens = TokenBytes(brackets)
    automaton = made('root ::= "(" root? ")" | "[" root* "]"')
    masks = Masks(automaton, tokens)
    state = 0
    for step in range(60):
        state = automaton.step(state, b"(["[step % 2])
        mask = masks.mask(state)
        assert mask.tolist() == [automaton.follow(state, one) >= 0 for one in brackets]
    assert len(walks) < 15


def test_masks_that_are_remembered_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks_module, "_MASKS", 32)
    automaton = made("root ::= [a-c]{100}")
    masks = Masks(automaton, BYTES)
    state = 0
    for _ in range(90):
        masks.mask(state)
        state = automaton.step(state, ord("a"))
    assert len(masks._masks) <= 32
    assert len(masks._walks) <= 32
