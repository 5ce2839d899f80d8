"""A schema whose values never end is refused before a text of it is begun."""

from __future__ import annotations

import json
from typing import Any

import pytest

from erllama import InvalidGrammar
from erllama.sampling.guided import Guide
from erllama.sampling.plan import Grammar
from erllama.sampling.structure import check_structure
from erllama.sampling.token_bytes import TokenBytes

LOOP = {"type": "object", "properties": {"next": {"$ref": "#/$defs/loop"}}, "required": ["next"]}


def with_loop(**schema: Any) -> dict[str, Any]:
    return {**schema, "$defs": {"loop": LOOP}}


ENDLESS: list[tuple[str, dict[str, Any], str]] = [
    ("an item at least", {"type": "array", "items": {"$ref": "#"}, "minItems": 1}, "its root"),
    ("a required property", with_loop(**{"$ref": "#/$defs/loop"}), "/$defs/loop"),
    ("one that may come", with_loop(properties={"a": {"$ref": "#/$defs/loop"}}), "/$defs/loop"),
    (
        "one of two ways",
        with_loop(anyOf=[{"type": "null"}, {"$ref": "#/$defs/loop"}]),
        "/$defs/loop",
    ),
    (
        "any property",
        {"type": "object", "additionalProperties": {"$ref": "#"}, "minProperties": 1},
        "its root",
    ),
    (
        "a first item",
        {"type": "array", "prefixItems": [True, {"$ref": "#"}], "minItems": 2},
        "its root",
    ),
    (
        "by turns",
        {
            "$ref": "#/$defs/a",
            "$defs": {
                "a": {"type": "array", "items": {"$ref": "#/$defs/b"}, "minItems": 1},
                "b": {"anyOf": [{"$ref": "#/$defs/c"}, {"allOf": [{"$ref": "#/$defs/c"}]}]},
                "c": {
                    "type": "object",
                    "required": ["a"],
                    "properties": {"a": {"$ref": "#/$defs/a"}},
                },
            },
        },
        "/$defs/a",
    ),
]
ENDING: list[dict[str, Any]] = [
    {"type": "array", "items": {"$ref": "#"}},
    {"items": {"$ref": "#"}, "minItems": 1},  # or no array at all
    {"type": "object", "properties": {"next": {"$ref": "#"}}},
    {
        "type": "object",
        "properties": {"next": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}},
        "required": ["next"],
    },
    {"type": ["array", "null"], "items": {"$ref": "#"}, "minItems": 1},
    {"properties": {"a": False, "b": {"$ref": "#/$defs/b"}}, "$defs": {"b": {"type": "null"}}},
    {"$defs": {"loop": LOOP}},  # nothing leads there
    {"type": "array", "prefixItems": [{"$ref": "#"}]},
]


@pytest.mark.parametrize(("name", "schema", "place"), ENDLESS, ids=[one[0] for one in ENDLESS])
def test_a_schema_that_never_ends_is_refused(name: str, schema: dict[str, Any], place: str) -> None:
    with pytest.raises(InvalidGrammar, match=f"at {place.replace('$', '.')}: never ends"):
        check_structure(Grammar(json.dumps(schema), "json_schema"))


@pytest.mark.parametrize("schema", ENDING)
def test_a_schema_that_may_end_is_one(schema: dict[str, Any]) -> None:
    check_structure(Grammar(json.dumps(schema), "json_schema"))


def test_many_definitions_are_looked_through_without_recursion() -> None:
    chain = {str(n): {"items": {"$ref": f"#/$defs/{n + 1}"}} for n in range(600)}
    last = {"600": {"type": "array", "items": {"$ref": "#/$defs/600"}, "minItems": 1}}
    schema = {"$ref": "#/$defs/0", "$defs": {**chain, **last}}
    with pytest.raises(InvalidGrammar, match=r"at /.defs/600: never ends"):
        check_structure(Grammar(json.dumps(schema), "json_schema"))


GUIDE = Guide(TokenBytes([bytes([byte]) for byte in range(256)]))


@pytest.mark.parametrize("nothing", [r"[^\s\S]", r"a[^\s\S]", r"x[^\s\S]+|[^\s\S]"])
def test_what_nothing_matches_is_refused(nothing: str) -> None:
    schema = json.dumps({"type": "string", "pattern": f"^({nothing})$"})
    for stage in (Grammar(nothing, "regex"), Grammar(schema, "json_schema")):
        with pytest.raises(InvalidGrammar):
            GUIDE.compiled(stage)
