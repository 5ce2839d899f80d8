"""What a JSON schema or a regular expression rules matches it, whatever the model prefers."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import llguidance
import numpy as np
import pytest

from erllama.errors import InvalidGrammar
from erllama.sampling import Grammar
from erllama.sampling import guided as module
from erllama.sampling.chain import NothingToDraw
from erllama.sampling.guided import Guide, GuidedConstraint
from tests.sampling.schemas import SCHEMAS, Schema
from tests.sampling.walking import END, TOKENS, check_valid, walked


@pytest.fixture(scope="module")
def guide() -> Guide:
    return Guide(TOKENS)


def begun(guide: Guide, kind: Any, text: str) -> GuidedConstraint:
    stage = Grammar(text, kind)
    return guide.constraint(stage, guide.compiled(stage), [END])


def test_there_are_many_schemas() -> None:
    assert len(SCHEMAS) >= 300


@pytest.mark.parametrize("name", SCHEMAS)
def test_any_text_of_a_schema_is_valid(name: str, guide: Guide) -> None:
    stage = Grammar(json.dumps(SCHEMAS[name]), "json_schema")
    compiled = guide.compiled(stage)
    for seed in range(4):
        text = walked(guide.constraint(stage, compiled, [END]), TOKENS, END, seed)
        check_valid(text, json.dumps(SCHEMAS[name]))


EXPRESSIONS = [
    "[a-z]{3,8}",
    "(yes|no)!*",
    r"\d+(\.\d+)?",
    "é+ ?[😀-😂]",
    'a/b"[^"]{0,5}"',
    "^x$",
    "a?",
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_any_text_of_an_expression_matches_all_of_it(expression: str, guide: Guide) -> None:
    texts = set()
    for seed in range(6):
        text = walked(begun(guide, "regex", expression), TOKENS, END, seed).decode()
        assert re.fullmatch(expression, text)
        texts.add(text)
    assert len(texts) > 1 or expression in ("^x$", "a?")


def takes(rule: GuidedConstraint, text: str) -> bool:
    """Whether a text, in bytes, is one that may end."""
    try:
        for byte in [*text.encode(), END]:
            rule.accept(byte)
    except NothingToDraw:
        return False
    return True


ACCEPTED: list[tuple[Schema, list[str], list[str]]] = [
    ({"type": "integer", "minimum": 3, "maximum": 11}, ["3", "10", "11"], ["2", "12", "03", "3.0"]),
    ({"type": "string", "maxLength": 1}, ['"😀"', '"\\n"', '""'], ['"ab"', '"', "a"]),
    ({"enum": ["a", 1]}, ['"a"', "1"], ['"b"', "2", "true"]),
    ({"type": "array", "items": {"const": 1}, "minItems": 1}, ["[1]", "[1, 1]"], ["[]", "[2]"]),
    (
        {"type": "object", "properties": {"a": {"const": 1}, "b": {}}, "required": ["a"]},
        ['{"a":1}', '{"a": 1, "b": [true]}', '{"a":1,"c":2}', '{\n"a" : 1}'],
        ["{}", '{"a":2}', '{"b":1}', '{"a":1,"\\u0061":2}', '{"a":1,"a":1}'],
    ),
    ({"properties": {"a": {"type": "null"}}}, ["3", '"x"', '{"a":null}'], ['{"a":1}', "{"]),
    ({"pattern": "^ab+$"}, ['"abb"', "null"], ['"a"', '"xab"']),
    ({"anyOf": [{"const": 1}, {"const": 2}]}, ["1", "2"], ["3", "12"]),
    ({"type": "number", "multipleOf": 0.25}, ["0.75", "1.50"], ["0.3"]),
]


@pytest.mark.parametrize(("schema", "good", "bad"), ACCEPTED)
def test_a_schema_takes_what_is_valid_and_nothing_else(
    schema: Schema, good: list[str], bad: list[str], guide: Guide
) -> None:
    for text in good:
        assert takes(begun(guide, "json_schema", json.dumps(schema)), text), text
    for text in bad:
        assert not takes(begun(guide, "json_schema", json.dumps(schema)), text), text


def test_a_mask_is_what_may_be_accepted(guide: Guide) -> None:
    schema = json.dumps({"type": "object", "properties": {"a": {"enum": ["b", None]}}})
    choose = random.Random(1)
    taken: list[int] = []
    rule = begun(guide, "json_schema", schema)
    for _ in range(12):
        logits = np.zeros(TOKENS.size, np.float32)
        rule.apply(logits)
        allowed = [int(token) for token in np.flatnonzero(logits == 0)]
        for token in choose.sample(range(TOKENS.size), 25):
            again = begun(guide, "json_schema", schema)
            for one in taken:
                again.accept(one)
            if token in allowed:
                again.accept(token)
            else:
                with pytest.raises(NothingToDraw, match=f"json_schema: token {token} of the text"):
                    again.accept(token)
        taken.append(choose.choice(allowed))
        if taken[-1] == END:
            break
        rule.accept(taken[-1])


def test_a_token_that_was_refused_changes_nothing(guide: Guide) -> None:
    rule = begun(guide, "regex", "ab")
    with pytest.raises(NothingToDraw):
        rule.accept(ord("x"))
    rule.accept(ord("a"))
    with pytest.raises(NothingToDraw):
        rule.accept(END)
    rule.accept(ord("b"))
    rule.accept(END)


def test_texts_of_one_schema_do_not_disturb_each_other(guide: Guide) -> None:
    stage = Grammar('{"type": "boolean"}', "json_schema")
    compiled = guide.compiled(stage)
    one, other = (guide.constraint(stage, compiled, [END]) for _ in range(2))
    one.accept(ord("t"))
    other.accept(ord("f"))
    assert takes(one, "rue")
    assert takes(other, "alse")


def test_a_ban_from_elsewhere_stays(guide: Guide) -> None:
    logits = np.zeros(TOKENS.size, np.float32)
    logits[ord("a")] = -np.inf
    begun(guide, "regex", "[ab]").apply(logits)
    assert np.flatnonzero(logits == 0).tolist() == [ord("b")]


WRONG = [
    ("(a", 1, 1, "unclosed group"),
    ("(?=a)b", 1, 1, "look-around"),
    ("[z-a]", 1, 2, "invalid character class"),
    (r"\d\w/+(a)\1", 1, 10, "backreferences are not supported"),
    ("a\n\n b)", 3, 3, "unopened group"),
    ("é\x00(", 1, 3, "unclosed group"),
    ("ab\\", 1, 3, "a backslash with nothing behind it"),
    ("(" * 4_990 + "a" + ")" * 4_990, 1, 251, "nested parentheses"),
    (r"[^\s\S]", 1, 1, "no text can match"),
    ("(a?b?c?)*" * 1_100, 1, 1, "too complicated"),
]


@pytest.mark.parametrize(("expression", "line", "column", "said"), WRONG)
def test_a_wrong_expression_is_refused_at_the_place(
    expression: str, line: int, column: int, said: str, guide: Guide
) -> None:
    with pytest.raises(
        InvalidGrammar, match=f"regex: line {line}, column {column}: .*{said}"
    ) as no:
        begun(guide, "regex", expression)
    assert (no.value.line, no.value.column) == (line, column)
    assert "llguidance" not in str(no.value)
    assert len(str(no.value)) < 400


def test_when_the_library_breaks_down_the_request_is_refused(
    guide: Guide, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Panic(BaseException):
        pass

    def broken(*_: object, **__: object) -> None:
        raise Panic("index out of bounds")

    monkeypatch.setattr(llguidance, "LLMatcher", broken)
    with pytest.raises(InvalidGrammar, match=r"regex: .*compiled: index out of bounds"):
        begun(guide, "regex", "a")


def test_what_takes_too_long_to_follow_fails_its_own_text(
    guide: Guide, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = llguidance.LLParserLimits(max_lexer_states=60, verbose_errors=False)
    monkeypatch.setattr(module, "limits", lambda: few)
    rule = begun(guide, "regex", "(.*a.{40}b|.*b.{39}a)*.{200}")
    with pytest.raises(NothingToDraw, match="regex: cannot be followed any further: "):
        walked(rule, TOKENS, END, 1)
