"""JSON Schema (draft 2020-12) in the words that llguidance takes. Pure.

llguidance, which compiles the result, leaves words aside that it does not know. So each keyword
that limits values and cannot be carried out is refused here, with its JSON pointer, and so are
schemas that would overflow its stack or keep it busy for ever. What the specification calls
annotations limits nothing: unknown keywords, and formats that cannot be followed.

Narrower than the specification, so that all that is written is valid: properties come in the order
in which the schema names them, each string has one spelling, and `format` counts.
"""

from __future__ import annotations

import math
import urllib.parse
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

from erllama.sampling.schema_disjoint import disjoint
from erllama.sampling.schema_text import parsed_schema
from erllama.sampling.schema_values import (
    MAX_MULTIPLE,
    below,
    check_spelling,
    expect,
    fail,
    read_bound,
    read_const,
    read_count,
    read_enum,
    read_format,
    read_multiple,
    read_pattern,
    read_type,
    shown,
)
from erllama.sampling.schema_vocabulary import REFUSED, SILENT, Warnings

MAX_LEVELS = 2_000
MAX_ALTERNATIVES = 200
MAX_MULTIPLES = 50_000
MAX_MEETING = 12
MAX_PATTERN_PROPERTIES = 100
_MAX_COEFFICIENT = 2**32

Schema: TypeAlias = "dict[str, Any] | bool"


@dataclass(frozen=True, slots=True)
class ReadSchema:
    """A schema in few words, with nothing in it that cannot be followed.

    Attributes:
        schema: `$ref`s in it are of the form `#/$defs/number`; patterns are for the whole text and
            in the notation of the Rust library.
        warnings: annotations that may have been meant to limit something.
    """

    schema: dict[str, Any]
    warnings: tuple[str, ...]


def read_schema(text: str) -> ReadSchema:
    """What the text of a schema says.

    Raises:
        InvalidGrammar: with the JSON pointer of what cannot be used, and why.
    """
    reader = _Reader(parsed_schema(text))
    return ReadSchema(reader.read(), reader.warnings.all())


class _Definition:
    """A schema that is read on its own: the root, or what a reference means."""

    def __init__(self, number: int, path: str, source: Any) -> None:
        self.number = number
        self.path = path
        self.source = source
        self.schema: dict[str, Any] = {}
        self.levels = 1
        self.refers = False
        self.meeting = 0  # patterns that its own value must match at once
        self.same: list[int] = []  # definitions that its own value must match as well


class _Reader:
    def __init__(self, root: Any) -> None:
        self._root = root
        self._now = _Definition(0, "", root)
        self._definitions = {"": self._now}
        self._todo = [self._now]
        self._level = 0
        self._inside = 0  # steps from the value of the definition to that of the schema
        self._multiples: set[Fraction] = set()
        self._combines = False
        self._part = ""  # the name of the part of the value; "" is the definition's own
        self._patterned: Counter[str] = Counter()  # by such names, wherever they are
        self._of_parts: list[tuple[str, _Definition]] = []
        self._pattern_properties = 0
        self.warnings = Warnings()

    def read(self) -> dict[str, Any]:
        while self._todo:
            self._now = self._todo.pop()
            read = self._schema(self._now.source, self._now.path)
            self._now.schema = read if isinstance(read, dict) else {"enum": []}
        self._check_cycles()
        self._check_cost()
        if not any(one.refers for one in self._definitions.values()):
            return self._definitions[""].schema
        schemas = {str(one.number): one.schema for one in self._definitions.values()}
        return {"$ref": "#/$defs/0", "$defs": schemas}

    # Schemas in schemas

    def _schema(self, schema: Any, path: str) -> Schema:
        if isinstance(schema, bool):
            if not schema and not path:
                fail(path, "false matches nothing")
            return {} if schema else False
        if not isinstance(schema, dict):
            fail(path, f"expected a schema (an object, true or false), got {shown(schema)}")
        self._level += 1
        self._now.levels = max(self._now.levels, self._level)
        read: dict[str, Any] = {}
        for key, part in schema.items():
            self._keyword(schema, key, part, below(path, key), read)
        self._level -= 1
        return read

    def _keyword(
        self, schema: dict[str, Any], key: str, part: Any, path: str, read: dict[str, Any]
    ) -> None:
        if key == "$id" and path != "/$id":
            fail(path, "a base for references; only the root can have one")
        if key in SILENT or key.startswith("x-"):
            return
        if key in REFUSED:
            fail(path, REFUSED[key])
        reader = _KEYWORDS.get(key)
        if reader is None:
            self.warnings.unknown_keyword(path)
            return
        for name, value in reader(self, part, path, schema).items():
            if name == "allOf" and name in read:
                read[name] = [*read[name], *value]
            elif name in read:
                fail(path, f"cannot be used beside another that makes {name}; put it into allOf")
            else:
                read[name] = value

    def _child(self, schema: Any, path: str) -> Schema:
        """Of a part of the value."""
        around, self._part = self._part, path.rpartition("/")[2]
        self._inside += 1
        read = self._schema(schema, path)
        self._inside -= 1
        self._part = around
        return read

    def _meets(self) -> None:
        """Count a pattern of the part that is being read."""
        if self._inside:
            self._patterned[self._part] += 1
        else:
            self._now.meeting += 1

    def _matched(self, part: Any, path: str, _: Any) -> dict[str, Any]:
        self._meets()
        return {"pattern": read_pattern(part, path)}

    def _formatted(self, part: Any, path: str, schema: Any) -> dict[str, Any]:
        """Of texts only, so it limits nothing where there can be none."""
        limits = read_format(part, path)
        types = schema.get("type", "string")
        if limits is None:
            self.warnings.unknown_format(path, part)
        if limits is None or "string" not in (types if isinstance(types, list) else [types]):
            return {}
        self._meets()
        return limits[0] if len(limits) == 1 and "pattern" not in schema else {"allOf": limits}

    def _patterns(self, part: Any, path: str, schema: Any) -> dict[str, Any]:
        if len(expect(part, dict, path, "an object of schemas")) > MAX_PATTERN_PROPERTIES:
            fail(path, f"has {len(part):,} patterns; give at most {MAX_PATTERN_PROPERTIES}")
        self._pattern_properties += len(part)
        found: dict[str, Any] = {}
        for pattern, one in part.items():
            translated = read_pattern(pattern, below(path, pattern))
            read = self._child(one, below(path, pattern))
            same = translated in found
            found[translated] = {"allOf": [found[translated], read]} if same else read
        return {"patternProperties": found}

    def _named(self, part: Any, path: str, _: Any) -> dict[str, Any]:
        for name in expect(part, dict, path, "an object of schemas"):
            check_spelling(name, below(path, name))
        read = {name: self._child(one, below(path, name)) for name, one in part.items()}
        return {"properties": read}

    def _additional(self, part: Any, path: str, _: Any) -> dict[str, Any]:
        return {"additionalProperties": self._child(part, path)}

    def _names(self, part: Any, path: str, schema: Any) -> dict[str, Any]:
        beside = {"properties", "patternProperties", "additionalProperties"} & set(schema)
        if not isinstance(part, dict) or set(part) - {"pattern", "type"} or beside:
            fail(path, "only {'pattern': ...} without properties beside it can be used")
        pattern = part.get("pattern", "")
        return {**self._patterns({pattern: True}, path, schema), "additionalProperties": False}

    def _items(self, part: Any, path: str, _: Any) -> dict[str, Any]:
        if isinstance(part, list):
            fail(path, "a list of schemas is of an older draft; write prefixItems")
        return {"items": self._child(part, path)}

    def _prefix(self, part: Any, path: str, _: Any) -> dict[str, Any]:
        schemas = expect(part, list, path, "a list of schemas")
        read = [self._child(one, below(path, at)) for at, one in enumerate(schemas)]
        return {"prefixItems": read}

    # Schemas of the same value

    def _all(self, part: Any, path: str, _: Any) -> dict[str, Any]:
        self._combines = True
        return {"allOf": self._each(part, path)}

    def _any(self, part: Any, path: str, schema: Any) -> dict[str, Any]:
        self._combines |= len(schema) > 1
        return {"anyOf": self._each(part, path)}

    def _one(self, part: Any, path: str, schema: Any) -> dict[str, Any]:
        """Where no two of them can hold at once, it is anyOf."""
        self._combines |= len(schema) > 1
        read = self._each(part, path)
        for at, one in enumerate(part):
            for before in part[:at]:
                if not disjoint(before, one, self._resolve):
                    fail(
                        below(path, at),
                        "a value may match this one and one before it, which cannot be kept out; "
                        "use anyOf, or require a property with a const of its own in each",
                    )
        return {"anyOf": read}

    def _each(self, part: Any, path: str) -> list[Any]:
        schemas = expect(part, list, path, "a list of schemas")
        if not 1 <= len(schemas) <= MAX_ALTERNATIVES:
            fail(path, f"has {len(schemas):,} schemas; give 1 to {MAX_ALTERNATIVES}")
        return [self._schema(one, below(path, at)) for at, one in enumerate(schemas)]

    def _ref(self, part: Any, path: str, schema: Any) -> dict[str, Any]:
        self._combines |= len(schema) > 1
        target = self._resolve(part, path)
        pointer = urllib.parse.unquote(part[1:])
        known = self._definitions.get(pointer)
        if known is None:
            known = _Definition(len(self._definitions), pointer, target)
            self._definitions[pointer] = known
            self._todo.append(known)
        self._now.refers = True
        if self._inside:
            self._of_parts.append((self._part, known))
        else:
            self._now.same.append(known.number)
        return {"$ref": f"#/$defs/{known.number}"}

    def _resolve(self, reference: Any, path: str = "") -> Any:
        if not isinstance(reference, str) or reference[:2] not in ("#", "#/"):
            fail(path, "only a pointer into the schema itself can be used, such as #/$defs/name")
        target = self._root
        for part in urllib.parse.unquote(reference[1:]).split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(target, dict) and key in target:
                target = target[key]
            elif isinstance(target, list) and key.isdecimal() and int(key) < len(target):
                target = target[int(key)]
            else:
                fail(path, f"there is nothing at {reference}")
        return target

    # Values

    def _required(self, part: Any, path: str, _: Any) -> dict[str, Any]:
        names = expect(part, list, path, "a list of names")
        for at, name in enumerate(names):
            check_spelling(expect(name, str, below(path, at), "a name"), below(path, at))
        return {"required": list(dict.fromkeys(names))}

    def _least_properties(self, part: Any, path: str, schema: Any) -> dict[str, Any]:
        least = read_count(part, path)
        required = schema.get("required")
        if least <= (len(set(map(str, required))) if isinstance(required, list) else 0):
            return {}
        if least > 1:
            fail(path, "more than the required ones cannot be counted; require them by name")
        return {"minProperties": least}

    def _multiple(self, part: Any, path: str, _: Any) -> dict[str, Any]:
        self._multiples.add(read_multiple(part, path))
        return {"multipleOf": part}

    def _unique(self, part: Any, path: str, schema: Any) -> dict[str, Any]:
        most = schema.get("maxItems")
        if part is not False and not (isinstance(most, int) and most <= 1):
            fail(path, "cannot be followed; use false, or maxItems of 1")
        return {}

    # All of it

    def _check_cycles(self) -> None:
        ends = {one.number: one.same for one in self._definitions.values()}
        open_ = {number: len(set(same)) for number, same in ends.items()}
        users: dict[int, list[int]] = {number: [] for number in ends}
        for number, same in ends.items():
            for other in set(same):
                users[other].append(number)
        done = [number for number, left in open_.items() if not left]
        for number in done:
            for user in users[number]:
                open_[user] -= 1
                if not open_[user]:
                    done.append(user)
        for one in reversed(self._definitions.values()):
            if open_[one.number]:
                fail(one.path, "refers to itself for the same value, which never ends")
        self._check_meeting(done)

    def _check_meeting(self, order: list[int]) -> None:
        """The compiler takes twice as long for each pattern more that a value must match.

        Args:
            order: the definitions, each behind those that its own value must match as well.
        """
        if not self._combines:
            return
        definitions = list(self._definitions.values())
        for number in order:
            one = definitions[number]
            one.meeting += sum(definitions[other].meeting for other in one.same)
            if one.meeting > MAX_MEETING:
                fail(one.path, _MEETING)
        for part, definition in self._of_parts:
            self._patterned[part] += definition.meeting
        for part, count in self._patterned.items():
            if count > MAX_MEETING:
                fail("", f"{part}: {_MEETING}")
        if self._pattern_properties > MAX_PATTERN_PROPERTIES:
            fail("", f"has more than {MAX_PATTERN_PROPERTIES} patternProperties beside allOf")

    def _check_cost(self) -> None:
        referring = [one.levels + 1 for one in self._definitions.values() if one.refers]
        if sum(referring) > MAX_LEVELS:
            fail("", f"its definitions have more than {MAX_LEVELS:,} levels together; use fewer")
        numerators = [one.numerator for one in self._multiples]
        if sum(numerators) > MAX_MULTIPLES:
            fail("", f"its multipleOf add up to more than {MAX_MULTIPLES:,}; use fewer")
        together = math.prod(numerators)
        scale = math.lcm(*(one.denominator for one in self._multiples))
        if self._combines and (together > MAX_MULTIPLE or together * scale > _MAX_COEFFICIENT):
            fail("", "its multipleOf take too long to follow together; use fewer or smaller ones")


# Which keyword is read how


def _counted(key: str) -> Reading:
    return lambda _, part, path, __: {key: read_count(part, path)}


def _bounded(key: str) -> Reading:
    return lambda _, part, path, __: {key: read_bound(part, path)}


Reading: TypeAlias = "Callable[[_Reader, Any, str, Any], dict[str, Any]]"
"""From a keyword's value, its pointer and the schema around it to keywords of llguidance."""

_KEYWORDS: dict[str, Reading] = {
    "type": lambda _, part, path, __: read_type(part, path),
    "const": lambda _, part, path, __: read_const(part, path),
    "enum": lambda _, part, path, __: read_enum(part, path),
    "properties": _Reader._named,
    "patternProperties": _Reader._patterns,
    "additionalProperties": _Reader._additional,
    "propertyNames": _Reader._names,
    "required": _Reader._required,
    "minProperties": _Reader._least_properties,
    "items": _Reader._items,
    "prefixItems": _Reader._prefix,
    "uniqueItems": _Reader._unique,
    "allOf": _Reader._all,
    "anyOf": _Reader._any,
    "oneOf": _Reader._one,
    "$ref": _Reader._ref,
    "multipleOf": _Reader._multiple,
    "pattern": _Reader._matched,
    "format": _Reader._formatted,
    **{key: _counted(key) for key in ("minLength", "maxLength", "minItems", "maxItems")},
    "maxProperties": _counted("maxProperties"),
    **{
        key: _bounded(key) for key in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
    },
}

_MEETING = (
    f"more than {MAX_MEETING} patterns and formats may have to hold at once beside allOf, anyOf or "
    "$ref; use fewer"
)
