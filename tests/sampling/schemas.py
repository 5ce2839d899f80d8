"""JSON schemas of every shape that can be used: by hand, and made at random from all keywords."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

Schema = dict[str, Any]

_TREE: Schema = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "children": {"type": "array", "items": {"$ref": "#"}, "maxItems": 2},
    },
    "required": ["name"],
    "additionalProperties": False,
}

BY_HAND: dict[str, Schema] = {
    "anything": {},
    "every type": {"type": ["object", "array", "string", "number", "integer", "boolean", "null"]},
    **{f"type {name}": {"type": name} for name in ("object", "array", "string", "number")},
    **{f"type {name}": {"type": name} for name in ("integer", "boolean", "null")},
    "two types": {"type": ["string", "null"]},
    "annotations": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://example.org/a",
        "$comment": "c",
        "title": "t",
        "description": "d",
        "default": 1,
        "examples": [1],
        "deprecated": True,
        "readOnly": True,
        "writeOnly": True,
        "contentEncoding": "base64",
        "contentMediaType": "text/plain",
        "x-mine": {"not": {}},
        "type": "integer",
    },
    # enum and const
    "enum of words": {"enum": ["red", "green", "blue"]},
    "enum of all": {"enum": [None, True, False, 0, -1.5, "", "é", [1, [2]], {"a": {"b": []}}]},
    "enum and type": {"enum": ["a", 1, None], "type": ["string", "null"]},
    "enum of a thousand": {"enum": [f"word {n}" for n in range(1_000)]},
    "enum that begins alike": {"enum": ["a", "ab", "abc", "abcd", "b"]},
    "const text": {"const": 'a "quoted" \\ text\n'},
    "const object": {"const": {"a": [1, 2, {"b": None}]}},
    "const empty": {"const": {}},
    "const false": {"const": False},
    "const zero": {"const": 0},
    # text
    "minLength": {"type": "string", "minLength": 5, "maxLength": 100},
    "maxLength": {"type": "string", "maxLength": 3},
    "length none": {"type": "string", "maxLength": 0},
    "length exactly": {"type": "string", "minLength": 4, "maxLength": 4},
    "length as a float": {"type": "string", "maxLength": 2.0},
    "pattern": {"type": "string", "pattern": "^[a-z]{2,5}-[0-9]+$"},
    "pattern anywhere": {"type": "string", "pattern": "[0-9]{2}", "maxLength": 20},
    "pattern at the end": {"type": "string", "pattern": "ing$", "maxLength": 12},
    "pattern of classes": {"type": "string", "pattern": r"^\d\w\s\D\W\S$"},
    "pattern of alternatives": {"type": "string", "pattern": "^(ab|cd|[ef]g?)*$", "maxLength": 30},
    "pattern of unicode": {"type": "string", "pattern": "^[à-ý]+é?😀{1,3}$", "maxLength": 12},
    "pattern of quotes": {"type": "string", "pattern": r'^"\\[/"]{1,4}$'},
    "pattern and length": {"type": "string", "pattern": "^a*b*$", "minLength": 2, "maxLength": 6},
    "pattern for texts only": {"pattern": "^a$", "type": ["string", "integer"]},
    **{
        f"format {name}": {"type": "string", "format": name}
        for name in ("date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6")
    },
    "format uuid": {"type": "string", "format": "uuid"},
    "format uri": {"type": "string", "format": "uri", "maxLength": 80},
    # numbers
    "minimum": {"type": "integer", "minimum": 7},
    "maximum": {"type": "integer", "maximum": -12},
    "range": {"type": "integer", "minimum": -5, "maximum": 1_234},
    "range exclusive": {"type": "integer", "exclusiveMinimum": 9, "exclusiveMaximum": 12},
    "range of one": {"type": "integer", "minimum": 42, "maximum": 42},
    "range of fractions for integers": {"type": "integer", "minimum": 0.5, "maximum": 3.5},
    "number from": {"type": "number", "minimum": 0},
    "number below": {"type": "number", "exclusiveMaximum": 0},
    "number range": {"type": "number", "minimum": -1.5, "maximum": 2.25},
    "number range exclusive": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    "number tiny range": {"type": "number", "minimum": 0.001, "maximum": 0.002},
    "multipleOf": {"type": "integer", "multipleOf": 7},
    "multipleOf in a range": {"type": "integer", "multipleOf": 25, "minimum": 10, "maximum": 500},
    "multipleOf a fraction": {"type": "number", "multipleOf": 0.01, "minimum": 0, "maximum": 9},
    "multipleOf half": {"type": "number", "multipleOf": 0.5},
    "bounds for numbers only": {"minimum": 3, "maximum": 5, "type": ["number", "boolean"]},
    # arrays
    "items": {"type": "array", "items": {"type": "integer"}},
    "items none": {"type": "array", "items": False},
    "minItems": {"type": "array", "items": {"type": "null"}, "minItems": 3, "maxItems": 30},
    "maxItems": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
    "maxItems none": {"type": "array", "maxItems": 0},
    "items exactly": {"type": "array", "items": {"const": 1}, "minItems": 4, "maxItems": 4},
    "prefixItems": {"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}]},
    "prefixItems only": {"type": "array", "prefixItems": [{"const": 1}, {}], "items": False},
    "prefixItems all": {
        "type": "array",
        "prefixItems": [{"type": "string"}, {"type": "integer"}],
        "items": {"type": "null"},
        "minItems": 2,
    },
    "uniqueItems of one": {"type": "array", "uniqueItems": True, "maxItems": 1},
    "uniqueItems false": {"type": "array", "uniqueItems": False, "items": {"const": "x"}},
    "matrix": {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
    # objects
    "properties": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {}}},
    "required": {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]},
    "required of no schema": {"type": "object", "required": ["z", "y"]},
    "additionalProperties false": {
        "type": "object",
        "properties": {"a": {"type": "null"}, "b": {"type": "null"}, "c": {"type": "null"}},
        "additionalProperties": False,
    },
    "additionalProperties": {"type": "object", "additionalProperties": {"type": "integer"}},
    "additionalProperties beside": {
        "type": "object",
        "properties": {"a": {"type": "string"}},
        "required": ["a"],
        "additionalProperties": {"type": "boolean"},
    },
    "no properties": {"type": "object", "additionalProperties": False},
    "property never": {"type": "object", "properties": {"a": False, "b": {"type": "integer"}}},
    "patternProperties": {
        "type": "object",
        "patternProperties": {"^n_": {"type": "integer"}, "^s_": {"type": "string"}},
        "additionalProperties": False,
    },
    "patternProperties beside": {
        "type": "object",
        "properties": {"id": {"type": "integer"}},
        "patternProperties": {"^x": {"type": "null"}},
        "additionalProperties": {"type": "boolean"},
    },
    "propertyNames": {"type": "object", "propertyNames": {"pattern": "^[a-c]{1,4}$"}},
    "minProperties": {"type": "object", "minProperties": 1},
    "minProperties that are required": {
        "type": "object",
        "required": ["a", "b"],
        "properties": {"a": {"const": 1}, "b": {"const": 2}},
        "minProperties": 2,
    },
    "maxProperties": {"type": "object", "maxProperties": 2, "additionalProperties": {"const": 1}},
    "maxProperties none": {"type": "object", "maxProperties": 0},
    "names that look like others": {
        "type": "object",
        "properties": {"a": {"const": 1}, "aa": {"const": 2}, "A": {"const": 3}, "": {"const": 4}},
        "additionalProperties": {"const": 5},
    },
    "names with marks": {
        "type": "object",
        "properties": {'"': {"const": 1}, "\\": {"const": 2}, "\n": {"const": 3}, "/~": {}},
        "required": ['"', "\\", "\n", "/~"],
    },
    "names of unicode": {
        "type": "object",
        "properties": {"é": {"const": "ü"}, "名前": {"type": "string"}, "😀": {"const": "🎉"}},
        "required": ["é", "名前", "😀"],
        "additionalProperties": False,
    },
    "objects in objects": {
        "type": "object",
        "properties": {
            "a": {
                "type": "object",
                "properties": {"b": {"type": "object", "properties": {"c": {"const": 1}}}},
                "required": ["b"],
            }
        },
        "required": ["a"],
    },
    # combinations
    "anyOf": {"anyOf": [{"type": "string", "maxLength": 3}, {"type": "integer"}]},
    "anyOf that overlap": {"anyOf": [{"type": "number"}, {"type": "integer"}, {"minimum": 3}]},
    "anyOf beside": {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "anyOf": [{"required": ["a"]}, {"properties": {"b": {"const": 1}}, "required": ["b"]}],
    },
    "anyOf of shapes": {
        "anyOf": [
            {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]},
            {"type": "array", "items": {"type": "boolean"}},
            {"const": None},
        ]
    },
    "oneOf types": {"oneOf": [{"type": "string"}, {"type": "array"}, {"type": "null"}]},
    "oneOf tagged": {
        "oneOf": [
            {
                "type": "object",
                "properties": {"kind": {"const": kind}, "size": {"type": "integer"}},
                "required": ["kind"],
            }
            for kind in ("circle", "square", "line")
        ]
    },
    "oneOf tagged by reference": {
        "oneOf": [{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}],
        "discriminator": {"propertyName": "pet"},
        "$defs": {
            name: {"type": "object", "properties": {"pet": {"enum": [name]}}, "required": ["pet"]}
            for name in ("cat", "dog")
        },
    },
    "oneOf values": {"oneOf": [{"const": 1}, {"const": "1"}, {"enum": [True, [1]]}]},
    "allOf": {"allOf": [{"type": "integer"}, {"minimum": 3}, {"maximum": 9}]},
    "allOf of objects": {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
            {"type": "object", "properties": {"b": {"type": "string"}}, "required": ["b"]},
        ]
    },
    "allOf of the same property": {
        "type": "object",
        "properties": {"a": {"type": "integer", "minimum": 2}},
        "required": ["a"],
        "allOf": [{"properties": {"a": {"maximum": 7}}}],
    },
    "allOf of patterns": {
        "type": "string",
        "allOf": [{"pattern": "^[a-f]*$"}, {"pattern": "c"}, {"maxLength": 9}],
    },
    "allOf with anyOf": {
        "allOf": [
            {"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 4}]},
            {"anyOf": [{"type": "integer", "minimum": 10}, {"type": "string", "minLength": 2}]},
        ]
    },
    "allOf closed": {
        "properties": {"a": {"type": "integer"}},
        "additionalProperties": False,
        "type": "object",
        "allOf": [{"properties": {"a": {"minimum": 5}}, "required": ["a"]}],
    },
    # references
    "reference": {"$ref": "#/$defs/a", "$defs": {"a": {"type": "integer"}}},
    "reference of old": {"$ref": "#/definitions/a", "definitions": {"a": {"const": 1}}},
    "reference to a place": {
        "type": "object",
        "properties": {"a": {"enum": [1, 2]}, "b": {"$ref": "#/properties/a"}},
        "required": ["a", "b"],
    },
    "reference with escapes": {
        "$ref": "#/$defs/a~1b~0c%20d",
        "$defs": {"a/b~c d": {"type": "boolean"}},
    },
    "reference into a list": {
        "type": "array",
        "prefixItems": [{"const": 1}, {"$ref": "#/prefixItems/0"}],
    },
    "reference to a reference": {
        "$ref": "#/$defs/a",
        "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"type": "null"}},
    },
    "reference beside": {
        "$ref": "#/$defs/a",
        "properties": {"x": {"type": "integer"}},
        "required": ["x"],
        "$defs": {"a": {"type": "object", "properties": {"y": {"const": 1}}, "required": ["y"]}},
    },
    "tree": _TREE,
    "list by recursion": {
        "$ref": "#/$defs/list",
        "$defs": {
            "list": {
                "anyOf": [
                    {"type": "null"},
                    {
                        "type": "array",
                        "prefixItems": [{"type": "integer"}, {"$ref": "#/$defs/list"}],
                        "items": False,
                        "minItems": 2,
                    },
                ]
            }
        },
    },
    "two that need each other": {
        "$ref": "#/$defs/a",
        "$defs": {
            "a": {
                "type": "object",
                "properties": {"b": {"$ref": "#/$defs/b"}},
                "additionalProperties": False,
            },
            "b": {"type": "array", "items": {"$ref": "#/$defs/a"}, "maxItems": 2},
        },
    },
    "an expression": {
        "$ref": "#/$defs/term",
        "$defs": {
            "term": {
                "anyOf": [
                    {"type": "integer"},
                    {
                        "type": "object",
                        "properties": {
                            "op": {"enum": ["+", "*"]},
                            "of": {
                                "type": "array",
                                "items": {"$ref": "#/$defs/term"},
                                "minItems": 2,
                                "maxItems": 3,
                            },
                        },
                        "required": ["op", "of"],
                        "additionalProperties": False,
                    },
                ]
            }
        },
    },
}


def made(seed: int) -> Schema:
    """A schema of random keywords."""
    return _Maker(random.Random(seed)).schema(3)


class _Maker:
    def __init__(self, source: random.Random) -> None:
        self._source = source

    def schema(self, depth: int) -> Schema:
        kinds: list[Callable[[int], Schema]] = [self.text, self.integer, self.number, self.values]
        if depth:
            kinds += [self.array, self.tuple, self.object, self.object, self.map, self.any_of]
            kinds += [self.all_of]
        return self._source.choice(kinds)(depth - 1)

    def text(self, _: int) -> Schema:
        least = self._source.randrange(4)
        found: Schema = {"type": "string"}
        match self._source.randrange(4):
            case 0:
                found |= {"minLength": least, "maxLength": least + self._source.randrange(6)}
            case 1:
                found["maxLength"] = self._source.randrange(12)
            case 2:
                found["pattern"] = self._source.choice(
                    ["^[a-z]+$", "^(é|ü){1,3}$", "^[^a-z]{0,4}$", r"^\d{1,3}(\.\d+)?$", "^.{2}$"]
                )
            case 3:
                found["format"] = self._source.choice(["date", "ipv4", "uuid", "time"])
        return found

    def integer(self, _: int) -> Schema:
        low = self._source.randrange(-500, 500)
        found: Schema = {"type": "integer"}
        if self._source.random() < 0.5:
            found[self._source.choice(["minimum", "exclusiveMinimum"])] = low
        if self._source.random() < 0.5:
            high = low + self._source.randrange(60, 900)
            found[self._source.choice(["maximum", "exclusiveMaximum"])] = high
        if self._source.random() < 0.3:
            found["multipleOf"] = self._source.choice([1, 2, 3, 5, 10])
        return found

    def number(self, _: int) -> Schema:
        low = self._source.randrange(-90, 90) / self._source.choice([1, 2, 10])
        found: Schema = {"type": "number"}
        if self._source.random() < 0.6:
            found[self._source.choice(["minimum", "exclusiveMinimum"])] = low
        if self._source.random() < 0.6:
            found[self._source.choice(["maximum", "exclusiveMaximum"])] = low + 7.5
        return found

    def values(self, _: int) -> Schema:
        some = [None, True, 0, 1.5, "", "long word", "é😀", [], [1, "a"], {"k": 1}, 'say "x"']
        if self._source.random() < 0.3:
            return {"const": self._source.choice(some)}
        return {"enum": self._source.sample(some, self._source.randrange(1, 6))}

    def array(self, depth: int) -> Schema:
        least = self._source.randrange(3)
        found: Schema = {"type": "array", "items": self.schema(depth)}
        if self._source.random() < 0.7:
            found |= {"minItems": least, "maxItems": least + self._source.randrange(3)}
        return found

    def tuple(self, depth: int) -> Schema:
        items = [self.schema(depth) for _ in range(self._source.randrange(1, 4))]
        rest: Any = self._source.choice([False, {"type": "boolean"}])
        return {"type": "array", "prefixItems": items, "items": rest}

    def object(self, depth: int) -> Schema:
        names = self._source.sample(["a", "b", "ab", "é", "x y", "z"], self._source.randrange(1, 4))
        found: Schema = {
            "type": "object",
            "properties": {name: self.schema(depth) for name in names},
            "required": [name for name in names if self._source.random() < 0.5],
        }
        if self._source.random() < 0.7:
            found["additionalProperties"] = self._source.choice([False, {"type": "integer"}])
        return found

    def map(self, depth: int) -> Schema:
        part = self.schema(depth)
        if self._source.random() < 0.5:
            return {
                "type": "object",
                "patternProperties": {"^[a-m]": part},
                "additionalProperties": False,
            }
        return {"type": "object", "additionalProperties": part, "maxProperties": 3}

    def any_of(self, depth: int) -> Schema:
        return {"anyOf": [self.schema(depth) for _ in range(self._source.randrange(1, 4))]}

    def all_of(self, depth: int) -> Schema:
        """Objects with properties of their own."""
        parts = []
        for name in self._source.sample(["p", "q", "r"], self._source.randrange(1, 4)):
            required = [name] if self._source.random() < 0.6 else []
            part = {"type": "object", "properties": {name: self.schema(depth)}}
            parts.append({**part, "required": required})
        return {"allOf": parts}


class _LongNumbers(_Maker):
    """Like it, with numbers of more digits than a double has."""

    def integer(self, _: int) -> Schema:
        low = self._source.choice([-1, 1]) * self._source.randrange(
            10 ** self._source.choice([3, 19, 40])
        )
        found: Schema = {"type": "integer"}
        if self._source.random() < 0.6:
            found[self._source.choice(["minimum", "exclusiveMinimum"])] = low
        if self._source.random() < 0.6:
            high = low + 1_000 + self._source.randrange(10 ** self._source.choice([2, 18, 30]))
            found[self._source.choice(["maximum", "exclusiveMaximum"])] = high
        if self._source.random() < 0.3:
            found["multipleOf"] = self._source.choice([1, 2, 4, 5, 10, 25, 200])
        return found

    def number(self, _: int) -> Schema:
        digits = str(self._source.randrange(10**25))
        at = self._source.randrange(1, len(digits))
        low = f"{int(digits[:at])}.{digits[at:] or 0}"
        if self._source.random() < 0.5:
            return {"type": "number", "minimum": Decimal(low), "maximum": Decimal(f"{low}5")}
        return {"type": "number", "exclusiveMaximum": Decimal(f"-{low}")}

    def values(self, _: int) -> Schema:
        some: list[Any] = [None, "a", "\x7f", 2**53 + 1, -(2**63), 10**30, Decimal("1e400"), 1.5]
        some += [[1, 2**64], {"k": Decimal("0.10000000000000000001"), "\x7f": []}]
        if self._source.random() < 0.4:
            return {"const": self._source.choice(some)}
        return {"enum": self._source.sample(some, self._source.randrange(1, 6))}

    def any_type(self, depth: int) -> Schema:
        return {**self.integer(depth), "type": ["integer", "string", "null", "array"]}

    def all_of(self, depth: int) -> Schema:
        if self._source.random() < 0.5:
            return super().all_of(depth)
        low = self._source.randrange(10**20)
        return {"allOf": [{"minimum": low, "type": ["integer", "null"]}, {"maximum": low + 10**19}]}


def made_with_long_numbers(seed: int) -> Schema:
    """A schema of random keywords, and numbers of many digits."""
    return _LongNumbers(random.Random(seed)).schema(3)


def text_of(schema: Schema) -> str:
    """As JSON, with all digits of its decimals."""
    decimals: list[str] = []

    def kept(value: Any) -> str:
        decimals.append(str(value).lower())
        return f"@{len(decimals) - 1}@"

    text = json.dumps(schema, default=kept)
    return re.sub(r'"@(\d+)@"', lambda found: decimals[int(found[1])], text)


def with_references(schema: Schema) -> Schema:
    """The same, with each part of its objects and arrays at a place of its own."""
    places: dict[str, Schema] = {}

    def moved(part: Any) -> Any:
        if not isinstance(part, dict) or part.keys() & {"const", "enum"}:
            return part
        name = f"p{len(places)}"
        places[name] = {}
        places[name] = {key: inside(key, value) for key, value in part.items()}
        return {"$ref": f"#/$defs/{name}"}

    def inside(key: str, value: Any) -> Any:
        if key in ("properties", "patternProperties"):
            return {name: moved(one) for name, one in value.items()}
        if key in ("prefixItems", "anyOf", "allOf"):
            return [moved(one) for one in value]
        return moved(value) if key in ("items", "additionalProperties") else value

    return {**moved(schema), "$defs": places}


SCHEMAS: dict[str, Schema] = {
    **BY_HAND,
    **{f"made {seed}": made(seed) for seed in range(160)},
    **{f"made with references {seed}": with_references(made(seed)) for seed in range(160, 240)},
}
