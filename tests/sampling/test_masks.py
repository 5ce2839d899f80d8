"""A mask is what following each token byte by byte says, whatever way it was made."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest

from erllama import InvalidGrammar
from erllama.sampling import masks as module
from erllama.sampling.automaton import Automaton
from erllama.sampling.effort import TooAmbiguous
from erllama.sampling.gbnf import parse_gbnf
from erllama.sampling.masks import Follower, Masks
from erllama.sampling.token_bytes import TokenBytes
from tests.sampling.grammars import GRAMMARS

LETTERS = 'aabcdenotrulfs0123456789  {}[]":,.\\\n\t\x00()*+éπß€ह中文字한글😀😁\U0010ffff'
MORE = {
    "counted": 'root ::= "\\"" [^"\\\\]{0,12} "\\""',
    "words": 'root ::= ([a-z]+ " ")+ "."',
    "names": "root ::= [a-z_] [a-z0-9_]* (root | [0-9]{2,3})?",
    "many classes": "root ::= ("
    + " | ".join(f'"{chr(0x4E00 + 7 * n)}{chr(0x61 + n % 26)}"' for n in range(90))
    + " | [^a-c中] | [\\uac00-\\ud7a3] [0-9])*",
    "parts of ranges": "root ::= ([é-ÿ] | [ß-π] | [😀-😅] | [\\u4e00-\\u4e2f] | [^\\x01-\\u9fff])*",
    "deep": 'root ::= "[" x "]"\nx ::= y? [a-c]* y?\ny ::= "(" x ")" | "[" x "]" | root',
    "not one of two": 'root ::= ([^ab] "a" | [^bc] "c")*',
    "empty at the end": 'root ::= "a" x x x x x\nx ::= "b"? " "?',
}
ALL = {**GRAMMARS, **MORE}


def pieces(choose: random.Random, count: int) -> list[bytes]:
    """Texts of a few letters, of which some are cut within a character, and bytes."""
    found = {bytes([byte]): None for byte in range(256)}
    while len(found) < count:
        text = "".join(choose.choices(LETTERS, k=choose.choice((1, 2, 2, 3, 3, 4, 6, 12)))).encode()
        start, end = choose.choice((0, 0, 0, 1)), len(text) - choose.choice((0, 0, 0, 1, 2))
        found[text[start:end] or b"ab"] = None
    return [*found, b""]


TOKENS = TokenBytes(pieces(random.Random(5), 1_500))


def places(masks: Masks, choose: random.Random, most: int) -> Iterator[int]:
    """The states along a random text, which begins anew where it may go on no further."""
    state = 0
    for _ in range(most):
        yield state
        allowed = np.flatnonzero(masks.mask(state))
        if not len(allowed):
            state = 0
            continue
        state = masks.automaton.follow(state, TOKENS.pieces[choose.choice(allowed.tolist())])


def check(masks: Masks, choose: random.Random, most: int) -> None:
    for state in places(masks, choose, most):
        follow = masks.automaton.follow
        expected = [bool(one) and follow(state, one) >= 0 for one in TOKENS.pieces]
        wrong = np.flatnonzero(masks.mask(state) != np.array(expected))
        assert not len(wrong), [(TOKENS.pieces[token], expected[token]) for token in wrong[:5]]


@pytest.mark.parametrize("many", [0, 10**6])
@pytest.mark.parametrize("name", ALL)
def test_a_mask_is_what_following_each_token_says(
    name: str, many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MANY", many)  # all at once by classes, or none
    monkeypatch.setattr(module, "MASK_STEPS", 10**9)  # which takes more steps than it should
    masks = Masks(Automaton(parse_gbnf(ALL[name])), TOKENS)
    if many:
        masks.begin()
    check(masks, random.Random(name), 25)


def random_grammar(choose: random.Random) -> str:
    def item(depth: int) -> str:
        kind = choose.random()
        if kind < 0.3:
            return choose.choice(["a", "r1", "r2", "[a-c]", "[^a-d]", ".", "[é-中]", "[0-9 ]"])
        if kind < 0.6 or depth > 2:
            return choose.choice(['"a"', '"ab"', '"中"', '"😀"', '"[" r1 "]"', '""', '"\\n"'])
        inside = " | ".join(item(depth + 1) for _ in range(choose.randint(1, 3)))
        return f"({inside})" + choose.choice(["", "*", "+", "?", "{0,3}", "{2}"])

    rules = ("root", "r1", "r2", "a")
    return "\n".join(
        f"{rule} ::= " + " ".join(item(0) for _ in range(choose.randint(1, 4))) for rule in rules
    )


def test_masks_of_random_grammars_are_what_following_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MANY", 20)
    checked = 0
    for seed in range(60):
        choose = random.Random(seed)
        try:
            masks = Masks(Automaton(parse_gbnf(random_grammar(choose))), TOKENS)
            check(masks, choose, 4)
        except (InvalidGrammar, TooAmbiguous):
            continue
        checked += 1
    assert checked > 20


def test_inside_a_string_nearly_no_token_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MANY", 0)
    followed: list[int] = []
    walk = Masks._walk

    def counted(self: Masks, state: int, tokens: object, allowed: object) -> object:
        followed.append(len(tokens))  # type: ignore[arg-type]
        return walk(self, state, tokens, allowed)  # type: ignore[arg-type]

    monkeypatch.setattr(Masks, "_walk", counted)
    masks = Masks(Automaton(parse_gbnf('root ::= "\\"" [^"\\\\]{0,30} "\\""')), TOKENS)
    masks.mask(masks.automaton.follow(0, b'"ab'))
    assert max(followed) < TOKENS.size / 3


def test_a_text_goes_on_with_a_new_automaton_when_one_remembers_too_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    masks = Masks(Automaton(parse_gbnf(MORE["deep"])), TOKENS)
    monkeypatch.setattr("erllama.sampling.automaton.MAX_STATES", 20)
    follower, other = Follower(masks), masks
    choose = random.Random(2)
    state = 0
    for _ in range(20):
        allowed = follower.allowed()
        assert np.array_equal(allowed, other.mask(state))
        token = choose.choice(np.flatnonzero(allowed).tolist())
        assert follower.accept(token)
        state = other.automaton.follow(state, TOKENS.pieces[token])
    assert follower._masks is not masks
