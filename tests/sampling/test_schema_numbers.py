"""Numbers of a schema are what is written, with all their digits."""

from __future__ import annotations

import json
import random
import re
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from erllama.errors import InvalidGrammar
from erllama.sampling import Grammar
from erllama.sampling.exact_numbers import is_multiple, is_plain, read_decimal, written
from erllama.sampling.guided import Guide
from erllama.sampling.json_schema import read_schema
from erllama.sampling.number_ranges import at_least, at_most, multiples
from tests.sampling.schemas import made_with_long_numbers, text_of, with_references
from tests.sampling.taking import taker
from tests.sampling.walking import END, TOKENS, check_valid, walked

INT64 = {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}

CONSTANTS = (
    "9007199254740993",
    "1234567890123456789",
    "-239854183.02107054",
    "-9223372036854775808",
    "18446744073709551615",
    "0.30000000000000004",
    "1.00000000000000000000000000001",
    "-0.1",
    "5e-324",
    "1.7976931348623157e308",
    "1e400",
    "1e999999999",
    "-1.5e-999999999",
    "1" * 3_999,
)


@pytest.mark.parametrize("number", CONSTANTS)
@pytest.mark.parametrize("shape", ['{"const": %s}', '{"enum": ["a", [1, {"k": %s}]]}'])
def test_a_constant_keeps_all_its_digits(number: str, shape: str) -> None:
    takes = taker(shape % number)
    exact = written(read_decimal(number))
    value = exact if "const" in shape else f'[1, {{"k": {exact}}}]'
    assert takes(value)
    parsed = json.loads(exact, parse_float=Decimal, parse_int=Decimal)
    assert parsed == Decimal(number)
    for other in (f"{value}0", value.replace(exact, "7"), value.replace(exact, exact[:-1] or "3")):
        assert not takes(other), other


def test_numbers_near_a_constant_are_others() -> None:
    takes = taker({"enum": [2**53 + 1, -(2**64)]})
    assert not takes(str(2**53))
    assert not takes(str(2**53 + 2))
    assert not takes(str(2**64))


def test_a_float_of_a_dict_is_the_number_that_it_shows() -> None:
    assert taker({"const": 0.1 + 0.2})("0.30000000000000004")
    assert taker({"const": 1.0})("1")
    assert taker({"const": -0.0})("0")


RANGES: list[tuple[Any, list[str], list[str]]] = [
    (
        {"type": "integer", "minimum": 1 - 2**53, "maximum": 2**53 - 1},
        ["9007199254740991", "-9007199254740991", "0"],
        ["9007199254740992", "-9007199254740992", "1.0"],
    ),
    (
        INT64,
        ["-9223372036854775808", "9223372036854775807", "0"],
        ["-9223372036854775809", "9223372036854775808", "00"],
    ),
    (
        {"type": "integer", "minimum": 0, "maximum": 2**64 - 1},
        ["0", "18446744073709551615", "9999999999999999999"],
        ["-1", "18446744073709551616", "1e3"],
    ),
    (
        {"type": "integer", "exclusiveMinimum": 2**64, "exclusiveMaximum": 2**64 + 2},
        ["18446744073709551617"],
        ["18446744073709551616", "18446744073709551618"],
    ),
    ({"type": "integer", "minimum": 10**300}, ["1" + "0" * 300], ["9" * 300]),
    (
        '{"type": "number", "maximum": 1.00000000000000000001}',
        ["1.00000000000000000001", "1", "1.0", "-3.5"],
        ["1.00000000000000000002", "1.1", "2"],
    ),
    (
        '{"type": "number", "exclusiveMinimum": -0.1234567890123456789}',
        ["-0.1234567890123456788", "0", "17.5"],
        ["-0.1234567890123456789", "-0.12345678901234567890", "-0.2"],
    ),
    (
        {"type": ["integer", "string"], "maximum": 2**60, "maxLength": 2},
        ["1152921504606846976", '"ab"'],
        ["1152921504606846977", '"abc"', "null"],
    ),
    (
        {"minimum": 2**60},
        ["null", '"x"', "[1]", '{"a": 1}', "1152921504606846976.5"],
        ["1", "1e30"],
    ),
    (
        {"allOf": [{"type": "integer", "minimum": 2**60}, {"maximum": 2**60 + 1}]},
        ["1152921504606846976", "1152921504606846977"],
        ["1152921504606846975", "1152921504606846978"],
    ),
    (
        {"anyOf": [INT64, {"type": "null"}], "enum": [1, 2**63, None, 2**62]},
        ["1", "null", "4611686018427387904"],
        ["9223372036854775808", "2"],
    ),
    (
        {"type": "integer", "maximum": 2**64 - 1, "multipleOf": 250},
        ["18446744073709551500", "-250", "0"],
        ["18446744073709551750", "125"],
    ),
    (
        {"type": "integer", "maximum": 2**53 - 1, "multipleOf": 7},
        ["9007199254740988", "-14"],
        ["9007199254740991", "8"],
    ),
    ({"type": "integer", "maximum": 2**64, "multipleOf": 7}, ["21", "-700"], ["22"]),
    ({"type": "number", "maximum": 2**64, "multipleOf": 0.05}, ["0.05", "1.10", "3"], ["0.01"]),
    ({"type": "number", "multipleOf": 0.25, "maximum": 3}, ["0.75", "-1.50"], ["0.3", "3.25"]),
    (
        {"type": "array", "items": INT64, "minItems": 1, "maxItems": 2},
        ["[9223372036854775807]", "[1, -9223372036854775808]"],
        ["[]", "[9223372036854775808]", "[1,2,3]"],
    ),
    (
        {
            "type": "object",
            "properties": {"id": INT64, "tag": {"type": "string", "pattern": "^x+$"}},
            "required": ["id"],
        },
        ['{"id": 1}', '{ "id" : 9223372036854775807 , "tag" : "xx" , "more" : { } }'],
        ["{}", '{"id": 9223372036854775808}', '{"id": 1, "tag": "y"}', '{"id": 1, "id": 2}'],
    ),
    (
        {
            "type": "object",
            "additionalProperties": INT64,
            "properties": {"a": False},
            "minProperties": 1,
            "maxProperties": 2,
        },
        ['{"b": 1}', '{"b": 1, "c": -9223372036854775808}'],
        ["{}", '{"a": 1}', '{"b": 9223372036854775808}', '{"b": 1, "c": 2, "d": 3}'],
    ),
    (
        {
            "allOf": [
                {"properties": {"a": INT64}, "additionalProperties": {"type": "null"}},
                {"properties": {"b": {}, "a": {"minimum": 2**62}}, "required": ["a"]},
            ],
            "type": "object",
        },
        ['{"a": 4611686018427387904}', '{"a": 4611686018427387904, "b": null, "c": null}'],
        ['{"a": 1}', '{"a": 4611686018427387904, "b": 1}', '{"b": null}'],
    ),
    (
        {"patternProperties": {"^n": INT64}, "additionalProperties": False, "type": "object"},
        ["{}", '{"n": 1, "nn": 9223372036854775807}'],
        ['{"m": 1}', '{"n": 9223372036854775808}'],
    ),
    (
        {
            "$ref": "#/$defs/node",
            "$defs": {
                "node": {
                    "type": "object",
                    "properties": {"value": INT64, "next": {"$ref": "#/$defs/node"}},
                    "required": ["value"],
                    "additionalProperties": False,
                }
            },
        },
        ['{"value": 1, "next": {"value": 9223372036854775807}}'],
        ['{"value": 1, "next": {"value": 9223372036854775808}}', '{"next": {"value": 1}}'],
    ),
    (
        {
            "properties": {"a": {"$ref": "#/$defs/never"}, "b": INT64},
            "type": "object",
            "$defs": {"never": {"type": "integer", "minimum": 2**70, "maximum": 2**69}},
        },
        ["{}", '{"b": 1}', '{"c": 2}'],
        ['{"a": 1}'],
    ),
]


@pytest.mark.parametrize(("schema", "good", "bad"), RANGES)
def test_bounds_of_any_size_are_followed(schema: Any, good: list[str], bad: list[str]) -> None:
    takes = taker(schema)
    assert [text for text in good if not takes(text)] == []
    assert [text for text in bad if takes(text)] == []


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "integer", "minimum": 2**64, "maximum": 2**63}, "no value can match"),
        ({"type": "string", "enum": [2**64]}, "no value can match"),
        ({"type": "integer", "minimum": 2**60, "multipleOf": 7, "maximum": 2**64}, "15 digits"),
        ('{"maximum": 1e331}', "at /maximum: expected a number of at most 330 digits"),
        ('{"minimum": -1e999999999}', "at /minimum: expected a number of at most 330 digits"),
        ('{"multipleOf": 1e999999999}', "at /multipleOf: .* takes too long"),
        ('{"multipleOf": 1e-999999999}', "at /multipleOf: .* takes too long"),
        ('{"minLength": 1e999999999}', "at /minLength: expected a whole number"),
        ('{"uniqueItems": 1e999999999}', "at /uniqueItems: "),
        ('{"const": 1e9999999999999999999}', "exponent of 1e9+ has too many digits"),
        ('{"const": %s}' % ("1" * 5_000), "more than 4,000 digits"),
        ('{"type": "integer", "type": "string"}', 'the key "type" twice'),
        (
            {"patternProperties": {"^a": INT64}, "properties": {"b": {}}},
            "15 digits below patternProperties",
        ),
    ],
)
def test_numbers_that_cannot_be_followed_are_refused_at_once(schema: Any, said: str) -> None:
    with pytest.raises(InvalidGrammar, match=f"json_schema: .*{said}"):
        taker(schema)


@pytest.fixture(scope="module")
def guide() -> Guide:
    return Guide(TOKENS)


@pytest.mark.parametrize(
    "seeds",
    [
        pytest.param(range(25), id="some"),
        pytest.param(
            range(25, 1_000), id="many", marks=[pytest.mark.long, pytest.mark.timeout(600)]
        ),
    ],
)
def test_texts_of_random_schemas_with_long_numbers_are_valid(guide: Guide, seeds: range) -> None:
    for seed in seeds:
        schema = made_with_long_numbers(seed)
        text = text_of(with_references(schema) if seed % 3 == 0 else schema)
        stage = Grammar(text, "json_schema")
        compiled = guide.compiled(stage)
        for draw in range(3):
            check_valid(walked(guide.constraint(stage, compiled, [END]), TOKENS, END, draw), text)


def test_the_exclusive_bound_of_two_that_are_equal_counts() -> None:
    both = {"type": "integer", "minimum": 2**64, "exclusiveMinimum": 2**64}
    assert not taker(both)(str(2**64))
    assert taker(both)(str(2**64 + 1))


def texts_of_numbers(source: random.Random) -> str:
    whole = source.choice(["0", "1", "9", "10", "99", "100", str(source.randrange(3_000))])
    behind = source.choice(["", ".0", ".00", ".5", ".05", ".50", ".25", ".1230", ".999", ".001"])
    return f"{source.choice(['', '-'])}{whole}{behind}"


def bounds(source: random.Random) -> Fraction:
    whole = source.choice([0, 1, 9, 10, 99, 100, 123, source.randrange(3_000)])
    behind = source.choice(["0", "0", "0.5", "0.05", "0.999"])
    return source.choice([1, -1]) * (whole + Fraction(behind))


def test_expressions_of_bounds_match_what_is_within() -> None:
    source = random.Random(5)
    texts = {texts_of_numbers(source) for _ in range(800)}
    for _ in range(60):
        bound = bounds(source)
        for strictly in (False, True):
            low = re.compile(at_least(bound, strictly=strictly))
            high = re.compile(at_most(bound, strictly=strictly))
            for text in texts:
                value = Fraction(text)
                within = value > bound if strictly else value >= bound
                no_zero = text.startswith("-") and not value and bound >= 0  # -0 is never needed
                assert bool(low.fullmatch(text)) == (within and not no_zero), (bound, text)
                within = value < bound if strictly else value <= bound
                assert bool(high.fullmatch(text)) == within, (bound, text)


@pytest.mark.parametrize("step", ["1", "2", "5", "8", "25", "250", "0.5", "0.25", "0.01", "2.5"])
def test_expressions_of_multiples_match_these(step: str) -> None:
    source = random.Random(6)
    found = multiples(Fraction(step))
    assert found is not None
    expression = re.compile(found)
    for _ in range(600):
        text = texts_of_numbers(source)
        multiple = Fraction(text) % Fraction(step) == 0
        assert bool(expression.fullmatch(text)) == multiple, text
        assert is_multiple(Decimal(text), Fraction(step)) == multiple


def test_other_multiples_have_no_expression() -> None:
    assert multiples(Fraction(3)) is None
    assert multiples(Fraction(1024)) is None


@pytest.mark.parametrize(
    ("number", "of", "multiple"),
    [("1e999999999", "7", False), ("7e999999999", "7", True), ("1e-999999999", "0.1", False)],
)
def test_a_multiple_is_told_from_a_huge_exponent(number: str, of: str, multiple: bool) -> None:
    assert is_multiple(read_decimal(number), Fraction(of)) is multiple


@pytest.mark.parametrize(
    ("number", "double"),
    [
        ("9007199254740992", True),
        ("9007199254740993", False),
        ("123456789012345.5", False),
        ("0.000000000000001", True),
        ("0.0000000000000001", False),
        ("1e-400", False),
        ("1e15", True),
        ("1.50", True),
        ("0.30000000000000004", False),
    ],
)
def test_which_numbers_every_library_reads_alike(number: str, double: bool) -> None:
    assert is_plain(read_decimal(number)) is double


def test_a_schema_is_read_with_all_digits() -> None:
    read = read_schema('{"const": [18446744073709551617, 0.10000000000000000001]}').schema
    assert read == {"const": [2**64 + 1, Decimal("0.10000000000000000001")]}


@pytest.mark.parametrize("text", ["a\x7fb", "\x7f"])
def test_a_delete_character_of_a_constant_is_written(text: str) -> None:
    spelt = json.dumps(text).replace("\x7f", "\\u007f")
    for schema in ({"const": text}, {"enum": ["a", text]}, {"type": "string", "const": text}):
        takes = taker(schema)
        assert takes(spelt)
        assert not takes('"ab"')
        assert not takes('""')
    takes = taker({"properties": {text: {"const": {text: 1}}}, "required": [text]})
    assert takes(f"{{{spelt}: {{{spelt}: 1}}}}")
    assert not takes("{}")
