"""A schema that cannot be carried out in full is refused, with the place in it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from erllama.errors import InvalidGrammar, RequestError
from erllama.sampling import Grammar, SamplingParams
from erllama.sampling.json_schema import read_schema
from erllama.sampling.schema_disjoint import disjoint
from erllama.sampling.schema_text import MAX_SCHEMA_CHARACTERS, schema_text
from erllama.sampling.structure import check_structure
from tests.sampling.schemas import SCHEMAS

UNFOLLOWED: tuple[str, ...] = (
    "not",
    "if",
    "then",
    "else",
    "contains",
    "minContains",
    "maxContains",
)
UNFOLLOWED += ("dependentRequired", "dependentSchemas", "unevaluatedProperties", "unevaluatedItems")

REFUSED: list[tuple[Any, str, str]] = [
    *(({"items": {key: {}}}, f"/items/{key}", "while a text is written") for key in UNFOLLOWED),
    ({"items": [{}]}, "/items", "write prefixItems"),
    ({"additionalItems": {}}, "/additionalItems", "older draft"),
    ({"$dynamicRef": "#a"}, "/$dynamicRef", "write $ref"),
    ({"items": {"$id": "b"}}, "/items/$id", "only the root"),
    ([1], "", "expected a schema"),
    ({"items": 3}, "/items", "expected a schema"),
    (False, "", "matches nothing"),
    ({"type": "strin"}, "/type", "expected one of object, array"),
    ({"type": []}, "/type", "expected one of"),
    ({"type": ["string", 1]}, "/type", "expected one of"),
    ({"enum": []}, "/enum", "is empty"),
    ({"enum": {"a": 1}}, "/enum", "expected a list"),
    ({"enum": ["a", {"b": ["\x01"]}]}, "/enum/1/b/0", "control character"),
    ({"const": "\x00"}, "/const", "control character"),
    ({"properties": []}, "/properties", "expected an object"),
    ({"required": "a"}, "/required", "expected a list of names"),
    ({"required": ["a", 1]}, "/required/1", "expected a name"),
    ({"minProperties": 2}, "/minProperties", "require them by name"),
    ({"propertyNames": {"maxLength": 3}}, "/propertyNames", "only {'pattern'"),
    ({"patternProperties": {"(": {}}}, "/patternProperties/(", "unclosed group"),
    ({"pattern": "(?!a)"}, "/pattern", "look-around"),
    ({"pattern": "(a)\\1"}, "/pattern", "backreferences"),
    ({"pattern": 1}, "/pattern", "expected a regular expression"),
    ({"minLength": -1}, "/minLength", "from 0 to 100,000, got -1"),
    ({"maxLength": 1.5}, "/maxLength", "whole number"),
    ({"minItems": True}, "/minItems", "whole number"),
    ({"maxItems": "3"}, "/maxItems", 'got "3"'),
    ({"minimum": "1"}, "/minimum", "expected a number"),
    ({"exclusiveMinimum": True}, "/exclusiveMinimum", "expected a number"),
    ({"minimum": 10**331}, "/minimum", "at most 330 digits"),
    ({"format": 3}, "/format", "the name of a format"),
    ({"multipleOf": 0}, "/multipleOf", "above 0"),
    ({"multipleOf": 0.07}, "/multipleOf", "0.07 cannot be followed exactly"),
    ({"multipleOf": 1_000_003}, "/multipleOf", "too long"),
    ({"allOf": [{"multipleOf": 997}, {"multipleOf": 991}]}, "", "too long to follow together"),
    ({"uniqueItems": True}, "/uniqueItems", "maxItems of 1"),
    ({"anyOf": []}, "/anyOf", "has 0 schemas"),
    ({"anyOf": [{}] * 201}, "/anyOf", "give 1 to 200"),
    ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "/oneOf/1", "use anyOf"),
    ({"anyOf": [{}], "oneOf": [{"type": "null"}]}, "/oneOf", "put it into allOf"),
    ({"$ref": "#/$defs/x"}, "/$ref", "nothing at #/$defs/x"),
    ({"$ref": "other.json"}, "/$ref", "only a pointer"),
    ({"$ref": "#name"}, "/$ref", "only a pointer"),
    ({"$ref": "#"}, "", "refers to itself"),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}}, "/$defs/a", "self"),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"not": {}}}}, "/$defs/a/not", "cannot be followed"),
    ({"type": "integer", "minimum": 3, "maximum": 2}, "", "minimum"),
    ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "", "incompatible"),
    ({"patternProperties": {"^a": {"const": 1}, "b$": {"const": 2}}}, "", "not disjoint"),
    (
        {"patternProperties": {f"^{n}$": {} for n in range(101)}},
        "/patternProperties",
        "at most 100",
    ),
    ({"enum": [[n] for n in range(1_001)]}, "/enum", "more than 1,000 objects and arrays"),
    ({"prefixItems": [{"multipleOf": n} for n in range(9_000, 9_006)]}, "", "add up to more than"),
    ({"pattern": "(" * 9_000 + ")" * 9_000}, "/pattern", "nested parentheses"),
    ({"$ref": "http://127.0.0.1:1/schema.json"}, "/$ref", "only a pointer"),
    ({"$ref": "file:///etc/hosts"}, "/$ref", "only a pointer"),
]


@pytest.mark.parametrize(("schema", "path", "said"), REFUSED)
def test_what_cannot_be_carried_out_is_refused_with_its_place(
    schema: Any, path: str, said: str
) -> None:
    with pytest.raises(InvalidGrammar, match=re.escape(said)) as refused:
        check_structure(Grammar(json.dumps(schema), "json_schema"))
    assert refused.value.path == path
    assert str(refused.value).startswith(f"json_schema: at {path or 'its root'}: ")
    assert "llguidance" not in str(refused.value)


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_can_be_carried_out_is_not_refused(name: str) -> None:
    check_structure(Grammar(json.dumps(SCHEMAS[name]), "json_schema"))


@pytest.mark.parametrize("text", ["{", "nul", "[1,]", "{'a': 1}", "NaN", '{"minimum": Infinity}'])
def test_text_that_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(InvalidGrammar, match=r"json_schema: at its root: .*no (JSON|number)"):
        read_schema(text)


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


def test_a_schema_that_is_too_large_or_too_deep_is_refused_when_it_is_given() -> None:
    endless: dict[str, Any] = {}
    endless["items"] = endless
    for schema, said in (
        (nested(20_000), "nested more than 100 deep"),
        (endless, "nested more than 100 deep"),
        ({"enum": ["x" * 1_000] * 10_000}, "200,000 characters"),
        ({"enum": list(range(60_000))}, "50,000 parts"),
        ({"enum": [float("nan")]}, "nan is no number"),
        ({"enum": [10**4_001]}, "more than 4,000 digits"),
        ({"enum": [{1, 2}]}, "has a set"),
        ({"const": Decimal(1)}, "has a Decimal"),
        ({"const": "\ud800"}, "half of a surrogate pair"),
    ):
        with pytest.raises(RequestError, match=f"json_schema: .*{said}"):
            SamplingParams(json_schema=schema)
    with pytest.raises(RequestError, match=r"json_schema: expected .* at most 200,000"):
        SamplingParams(json_schema=" " * (MAX_SCHEMA_CHARACTERS + 1))


def test_text_that_is_too_deep_is_refused_before_it_is_compiled() -> None:
    for depth in (101, 15_000):
        with pytest.raises(InvalidGrammar, match="nested more than 100 deep"):
            read_schema('{"items":' * depth + "{}" + "}" * depth)
    read_schema(json.dumps(nested(60)))


def chained(length: int) -> str:
    """Objects of which each has the next; the compiler recurses along them."""
    schemas: dict[str, Any] = {
        str(n): {"type": "object", "properties": {"a": {"$ref": f"#/$defs/{n + 1}"}}}
        for n in range(length)
    }
    return schema_text({"$ref": "#/$defs/0", "$defs": {**schemas, str(length): {}}})


def test_a_chain_of_references_compiles_up_to_a_length_and_is_refused_beyond() -> None:
    check_structure(Grammar(chained(600), "json_schema"))
    with pytest.raises(InvalidGrammar, match="more than 2,000 levels together"):
        check_structure(Grammar(chained(900), "json_schema"))


def test_combinations_that_multiply_are_refused() -> None:
    both = [
        {"anyOf": [{"properties": {f"a{n}": {"const": 1}}}, {"properties": {f"b{n}": {}}}]}
        for n in range(30)
    ]
    with pytest.raises(InvalidGrammar, match="too large"):
        check_structure(Grammar(schema_text({"allOf": both}), "json_schema"))


def test_the_text_of_a_schema_is_taken_when_it_is_given() -> None:
    schema: dict[str, Any] = {"type": "integer"}
    params = SamplingParams(json_schema=schema)
    schema["type"] = "string"
    assert params.json_schema == '{"type": "integer"}'
    assert SamplingParams(json_schema='{"type": "null"}').json_schema == '{"type": "null"}'


def tagged(kind: int, **more: Any) -> dict[str, Any]:
    return {"required": ["k"], "properties": {"k": {"const": kind}}, **more}


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        ({"type": "string"}, {"type": "integer"}, True),
        ({"type": "number"}, {"type": "integer"}, False),
        ({"type": ["string", "null"]}, {"type": ["null", "array"]}, False),
        ({"const": 1}, {"const": 1.0}, False),
        ({"const": 1}, {"const": True}, True),
        ({"enum": ["a", "b"]}, {"enum": ["b"]}, False),
        ({"enum": [{"a": 1}]}, {"const": {"a": 2}}, True),
        ({"const": "a"}, {"minLength": 3}, False),
        ({"const": "a"}, {"type": "null"}, True),
        ({}, False, True),
        ({}, {}, False),
        (tagged(1, type="object"), tagged(2, type="object"), True),
        (tagged(1, type="object"), tagged(2, type="object", required=[]), False),
        (tagged(1), tagged(2), False),
        ({"allOf": [{"type": "string"}]}, {"type": "null"}, True),
        ({"$ref": "#/text"}, {"type": "null"}, True),
    ],
)
def test_schemas_are_apart_only_if_no_value_matches_both(one: Any, other: Any, apart: bool) -> None:
    def resolve(_: str) -> Any:
        return {"type": "string"}

    assert disjoint(one, other, resolve) is apart
    assert disjoint(other, one, resolve) is apart


def alike(number: int) -> dict[str, Any]:
    return {"pattern": f"a.*{number}"}


MEETING: dict[str, Callable[[int], dict[str, Any]]] = {
    "in allOf": lambda n: {"allOf": [alike(one) for one in range(n)]},
    "of a property": lambda n: {
        "allOf": [{"properties": {"a": alike(one)}} for one in range(n)],
    },
    "by references": lambda n: {
        "allOf": [{"$ref": f"#/$defs/{one}"} for one in range(n)],
        "$defs": {str(one): alike(one) for one in range(n)},
    },
    "of a property by references": lambda n: {
        "allOf": [{"properties": {"a": {"$ref": f"#/$defs/{one}"}}} for one in range(n)],
        "$defs": {str(one): alike(one) for one in range(n)},
    },
}


@pytest.mark.parametrize("name", MEETING)
def test_many_patterns_of_one_value_are_refused(name: str) -> None:
    """Each doubles the time that the compiler takes."""
    read_schema(json.dumps(MEETING[name](12)))
    with pytest.raises(InvalidGrammar, match="more than 12 patterns and formats may have to hold"):
        read_schema(json.dumps(MEETING[name](13)))


def test_many_patterns_of_different_values_are_not() -> None:
    each = {f"p{n}": {"$ref": f"#/$defs/{n}"} for n in range(40)}
    read_schema(
        json.dumps(
            {
                "allOf": [{"type": "object", "properties": each}],
                "$defs": {str(n): alike(n) for n in range(40)},
            }
        )
    )
