"""Grammars are read, or refused with the place and the reason."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama import InvalidGrammar, RequestError
from erllama.sampling.gbnf import LAST_CODE_POINT, Ref, parse_gbnf
from tests.sampling.grammars import GRAMMARS


def code(char: str) -> tuple[tuple[int, int], ...]:
    return ((ord(char), ord(char)),)


def root_of(text: str) -> tuple[tuple[object, ...], ...]:
    rules = parse_gbnf(text)
    return rules.alternatives[rules.root]


def test_a_literal_is_a_class_for_each_character() -> None:
    assert root_of('root ::= "aé"') == ((code("a"), code("é")),)


def test_classes_are_ranges_in_order() -> None:
    assert root_of(r"root ::= [c-ea-b\]x-]") == ((((45, 45), (93, 93), (97, 101), (120, 120)),),)


def test_inverse_classes_and_any_character_leave_out_nul() -> None:
    last = LAST_CODE_POINT
    assert root_of("root ::= [^b-z] .") == ((((1, 97), (123, last)), ((1, last),)),)
    assert root_of(r"root ::= [\x00-\x1F]") == ((((0, 31),),),)


def test_escapes_are_the_characters_that_they_name() -> None:
    escaped = root_of(r'root ::= "\x41\u00e9\U0001F600\n\t\r\\\""')
    assert escaped == (tuple(code(char) for char in 'Aé😀\n\t\r\\"'),)


def test_alternatives_references_and_groups() -> None:
    rules = parse_gbnf('root ::= a | (a "x")\na ::= "y"')
    first, second = rules.alternatives[rules.root]
    assert isinstance(first[0], Ref)
    assert rules.alternatives[first[0].rule] == ((code("y"),),)
    assert isinstance(second[0], Ref)
    assert rules.alternatives[second[0].rule] == ((first[0], code("x")),)


def lengths(text: str) -> set[int]:
    """Lengths, up to 6, of what a grammar of single characters makes."""
    rules = parse_gbnf(text)
    found: dict[int, set[int]] = {rule: set() for rule in range(len(rules.alternatives))}
    for _ in range(12):
        for rule, alternatives in enumerate(rules.alternatives):
            for sequence in alternatives:
                sums = {0}
                for element in sequence:
                    more = found[element.rule] if isinstance(element, Ref) else {1}
                    sums = {a + b for a in sums for b in more if a + b <= 6}
                found[rule] |= sums
    return found[rules.root]


@pytest.mark.parametrize(
    ("repeated", "expected"),
    [
        ('"a"*', {0, 1, 2, 3, 4, 5, 6}),
        ('"a"+', {1, 2, 3, 4, 5, 6}),
        ('"a"?', {0, 1}),
        ('"a"{3}', {3}),
        ('"a"{0}', {0}),
        ('"a"{2,4}', {2, 3, 4}),
        ('"a"{4,}', {4, 5, 6}),
        ('"a"{ 1 , 2 }', {1, 2}),
        ('"ab"{1,2}', {2, 4}),
        ('("a" | "bc"){2}', {2, 3, 4}),
        ('"x" "a"?', {1, 2}),
        ('"a"?{2}', {0, 1, 2}),
    ],
)
def test_repetitions_repeat_what_is_before_them(repeated: str, expected: set[int]) -> None:
    assert lengths(f"root ::= {repeated}") == expected


def test_rules_go_on_after_bars_and_in_parentheses_and_end_with_the_line() -> None:
    text = '# one\nroot ::= "a" | # two\n  "b" (\n "c"\n "d" )\n\n\nother ::= "e"\n# end'
    assert len(parse_gbnf(text).alternatives) == 3


@pytest.mark.parametrize("text", GRAMMARS.values(), ids=GRAMMARS.keys())
def test_grammars_of_many_shapes_are_read(text: str) -> None:
    assert parse_gbnf(text).alternatives


WRONG = {
    "": (1, 1, "there is no rule `root`"),
    "# only words": (1, 1, "there is no rule `root`"),
    'a ::= "b"': (1, 1, "there is no rule `root`"),
    'root = "a"': (1, 6, "expected `::=`"),
    '"a"': (1, 1, "expected the name of a rule"),
    'root ::= "a': (1, 10, "the string does not end"),
    "root ::= [a": (1, 10, "the character class does not end"),
    "root ::= []": (1, 10, "the character class is empty"),
    "root ::= [z-a]": (1, 11, "the range goes downwards"),
    r'root ::= "\q"': (1, 11, "there is no escape `\\q`"),
    r'root ::= "\u12"': (1, 11, "expected 4 hexadecimal digits"),
    r'root ::= "\U00110000"': (1, 11, "expected 8 hexadecimal digits"),
    'root ::= "a"{': (1, 14, "expected a number"),
    'root ::= "a"{1': (1, 15, "expected `}`"),
    'root ::= "a"{3,2}': (1, 18, "at least 3 and at most 2 times is never"),
    'root ::= "a"{10001}': (1, 14, "more than 10,000 repetitions"),
    'root ::= "a"{99999999999999999999}': (1, 14, "more than 10,000 repetitions"),
    "root ::= *": (1, 10, "nothing before `*` to repeat"),
    'root ::= ""+': (1, 12, "nothing before `+` to repeat"),
    'root ::= ("a"': (1, 10, "expected `)`"),
    'root ::= "a" )': (1, 14, "expected a new line"),
    'root ::= "a"\x00': (1, 13, "expected a new line"),
    "root ::= <think>": (1, 10, "terminals that name tokens are not supported"),
    "root ::= !<[5]>": (1, 10, "terminals that name tokens are not supported"),
    'root ::= "a"\nroot ::= "b"': (2, 1, "the rule `root` is defined twice"),
    'root ::= a b\na ::= "x"': (1, 12, "the rule `b` is not defined"),
    'root ::= root "a" | "b"': (1, 1, "the rule `root` begins with itself"),
    'root ::= "x" a\na ::= b "y"\nb ::= a "z" | "w"': (2, 1, "the rule `a` begins with itself"),
    # nothing in front but what may be empty, which llama.cpp overlooks
    'root ::= b root "z" | "x"\nb ::= c\nc ::= "" | "y"': (1, 1, "the rule `root` begins with"),
    'root ::= "a"{9999}{9999}': (1, 19, "the grammar grows beyond 200,000 elements"),
    "root ::= " + "(" * 20_000 + '"a"' + ")" * 20_000: (
        1,
        110,
        "parentheses nested more than 100 deep",
    ),
}


@pytest.mark.parametrize("text", WRONG, ids=lambda text: repr(text)[:40])
def test_a_wrong_grammar_is_refused_at_the_place(text: str) -> None:
    line, column, said = WRONG[text]
    with pytest.raises(InvalidGrammar) as refused:
        parse_gbnf(text)
    error = refused.value
    assert isinstance(error, RequestError)
    assert (error.line, error.column) == (line, column)
    assert str(error).startswith(f"grammar: line {line}, column {column}: {said}")
    assert len(str(error)) < 300


@pytest.mark.parametrize(
    "text",
    ['root ::= ("a"?)* "b"', 'root ::= x "q"\nx ::= ("a"? x)?', "root ::= ([a-z]* [0-9]*)+"],
)
def test_a_rule_that_comes_back_to_itself_at_its_very_end_is_no_left_recursion(text: str) -> None:
    assert parse_gbnf(text)


def test_long_chains_of_rules_are_no_recursion_of_ours() -> None:
    chain = "\n".join(f"r{n} ::= r{n + 1}" for n in range(10_000))
    assert parse_gbnf(f'root ::= r0\n{chain}\nr10000 ::= "" | "x"')
    with pytest.raises(InvalidGrammar, match="begins with itself"):
        parse_gbnf(f'root ::= r0\n{chain}\nr10000 ::= "" | r0 "x"')


@given(st.text(st.sampled_from('ab:= \n"[]()|*+?{}1,-^\\x<!#.'), max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse_gbnf("root ::= " + text)
    except InvalidGrammar as error:
        assert error.line >= 1  # noqa: PT017
        assert error.column >= 1  # noqa: PT017


@pytest.mark.parametrize(
    ("grammar", "rule", "line", "column"),
    [
        ("root ::= root", "root", 1, 1),
        ("root ::= (root)", "root", 1, 1),
        ('root ::= "a" root', "root", 1, 1),
        ('root ::= ("a" root)+ | [b] root', "root", 1, 1),
        ('root ::= "a" | b\nb ::= "x" b', "b", 2, 1),
        ('root ::= "a" b?\nb ::= "x" c\n c ::= "y" b', "b", 2, 1),
        ('root ::= a\na ::= "(" b ")"\nb ::= [0-9] b | b', "b", 3, 1),
    ],
)
def test_a_rule_that_never_ends_is_refused(grammar: str, rule: str, line: int, column: int) -> None:
    with pytest.raises(InvalidGrammar, match=f"the rule `{rule}` never ends") as refused:
        parse_gbnf(grammar)
    assert (refused.value.line, refused.value.column) == (line, column)


@pytest.mark.parametrize(
    "grammar",
    [
        'root ::= "a" root | ""',
        "root ::= [a]\nb ::= b",  # nothing leads there
        'root ::= ("a" root?)+',
        'root ::= a\na ::= "x" b | "y"\nb ::= "z" a',
    ],
)
def test_a_rule_that_may_end_is_one(grammar: str) -> None:
    parse_gbnf(grammar)


@pytest.mark.parametrize("nothing", ["[^\\x01-\\U0010FFFF]", "[\\uD800-\\uDFFF]", '"\\uDABC"'])
def test_what_no_character_can_match_is_refused(nothing: str) -> None:
    with pytest.raises(InvalidGrammar, match="no character can match this"):
        parse_gbnf(f'root ::= "a" | {nothing}')


def test_long_chains_of_rules_are_looked_through_without_recursion() -> None:
    chain = "\n".join(f'r{n} ::= "x" r{n + 1}' for n in range(8_000))
    parse_gbnf(f'root ::= r0\n{chain}\nr8000 ::= "a"')
    with pytest.raises(InvalidGrammar, match="the rule `r0` never ends"):
        parse_gbnf(f"root ::= r0\n{chain}\nr8000 ::= r0")
