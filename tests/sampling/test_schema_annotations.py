"""What the specification calls an annotation refuses no schema, and is told of."""

from __future__ import annotations

import json
from typing import Any

import pytest

from erllama.sampling.schema_source import schema_warnings
from tests.sampling.taking import taker

NO_KEYWORD = "no keyword of JSON Schema 2020-12, so it limits nothing"

WARNED: list[tuple[Any, list[str]]] = [
    ({"type": "integer", "format": "int64"}, ["/format: the format 'int64' is not followed"]),
    ({"type": "string", "format": "password"}, ["/format: the format 'password' is not followed"]),
    ({"format": "idn-hostname"}, ["/format: the format 'idn-hostname' is not followed"]),
    ({"markdownDescription": "*a*", "type": "null"}, [f"/markdownDescription: {NO_KEYWORD}"]),
    (
        {"properties": {"a/b": {"requried": []}}},
        [f"/properties/a~1b/requried: {NO_KEYWORD}"],
    ),
    (
        {"items": {"nullable": True}, "id": "x"},
        [f"/items/nullable: {NO_KEYWORD}", f"/id: {NO_KEYWORD}"],
    ),
    ({"anyOf": [{"kind": 1}, {"type": "null"}]}, [f"/anyOf/0/kind: {NO_KEYWORD}"]),
    (
        {"$ref": "#/$defs/a", "$defs": {"a": {"format": "x"}, "b": {"format": "y"}}},
        ["/$defs/a/format: the format 'x' is not followed"],
    ),
]


@pytest.mark.parametrize(("schema", "said"), WARNED)
def test_annotations_are_told_with_their_place(schema: Any, said: list[str]) -> None:
    found = schema_warnings(json.dumps(schema))
    assert len(found) == len(said)
    for warning, part in zip(found, said, strict=True):
        assert warning.startswith(f"json_schema: at {part}")
    taker(schema)  # is not refused


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "format": "date", "title": "t", "description": "d", "x-order": 1},
        {"type": "integer", "format": "date"},
        {"$schema": "https://json-schema.org/draft/2020-12/schema", "$comment": "c"},
        {"default": 1, "examples": [1], "deprecated": True, "readOnly": True},
        {"format": "uri-reference"},
    ],
)
def test_nothing_is_told_of_what_the_specification_has(schema: Any) -> None:
    assert schema_warnings(json.dumps(schema)) == ()


def test_what_is_told_is_bounded() -> None:
    many = {"properties": {str(n): {"nonsense": n} for n in range(200)}}
    found = schema_warnings(json.dumps(many))
    assert len(found) == 51
    assert found[-1] == "json_schema: 150 more of this kind"
    long = schema_warnings(json.dumps({"format": "x" * 1_000}))
    assert len(long[0]) < 150


def test_an_unknown_keyword_limits_nothing() -> None:
    takes = taker({"type": "integer", "maximun": 3, "format": "int32"})
    assert takes("4")
    assert takes(str(2**40))
    assert not takes("null")


@pytest.mark.parametrize("whitespace", [0, 1, 8])
@pytest.mark.parametrize("most", [10, 2**64])
def test_white_space_between_tokens_is_bounded(whitespace: int, most: int) -> None:
    """Also where a schema becomes rules, as the larger bound makes it."""
    takes = taker(
        {
            "type": "object",
            "properties": {
                "a": {"type": "integer", "maximum": most},
                "b": {"type": "array", "items": {"type": "object"}},
            },
            "required": ["a"],
        },
        whitespace,
    )
    shape = '{@"a"@:@1@,@"b"@:@[@{@}@,@{@"x"@:@"y"@}@]@}'
    for length in range(whitespace + 2):
        for space in (" ", "\n", "\t", "\r"):
            text = shape.replace("@", space * length)
            assert takes(text) is (length <= whitespace), text
    assert takes('{"a":1}')
    mixed = shape.replace("@", ("\n\t  \r \n ")[:whitespace])
    assert takes(mixed)
    assert takes('{"a":1,"b":[{"x":"      any         "}]}')


@pytest.mark.parametrize("most", [10, 2**64])
def test_no_white_space_comes_before_a_text(most: int) -> None:
    takes = taker({"type": "integer", "maximum": most})
    assert takes("7")
    assert not takes(" 7")
