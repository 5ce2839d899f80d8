"""JSON Schema (draft 2020-12) in the words that llguidance takes. Pure.

llguidance, which compiles the result, leaves words aside that it does not know. So each keyword
that limits values and cannot be carried out is refused here, with its JSON pointer, and so are
schemas that would overflow its stack or keep it busy for ever.

Narrower than the specification, so that all that is written is valid: properties come in the order
in which the schema names them, each string has one spelling, and `format` counts.
"""

from __future__ import annotations

import json
import math
import urllib.parse
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NoReturn, TypeAlias

from erllama.errors import InvalidGrammar
from erllama.sampling.expressions import pattern_error
from erllama.sampling.schema_disjoint import disjoint
from erllama.sampling.schema_text import parsed_schema

MAX_LEVELS = 2_000
MAX_ALTERNATIVES = 200
MAX_MULTIPLE = 10_000
MAX_MULTIPLES = 50_000
MAX_MEETING = 12
MAX_PATTERN_PROPERTIES = 100
MAX_CONTAINERS = 1_000
MAX_BOUND = 10**15
MAX_COUNT = 100_000

TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
FORMATS = (
    "date-time",
    "date",
    "time",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "uuid",
    "uri",
)

Schema: TypeAlias = "dict[str, Any] | bool"

_SILENT = frozenset(
    (
        "$schema",
        "$id",
        "$comment",
        "$anchor",
        "$dynamicAnchor",
        "$vocabulary",
        "$defs",
        "definitions",
        "title",
        "description",
        "default",
        "examples",
        "example",
        "deprecated",
        "readOnly",
        "writeOnly",
        "contentEncoding",
        "contentMediaType",
        "contentSchema",
        "discriminator",
    )
)
_ESCAPED = frozenset("\n\r\t\b\f")  # the control characters that have a short spelling
_OPTIONS = {"json_allowed_escapes": 'nrbtf\\"'}
"""Without \\u a property of another name cannot be a spelling of a named one."""


def read_schema(text: str) -> dict[str, Any]:
    """A schema in the words that llguidance takes, its options included.

    Raises:
        InvalidGrammar: with the JSON pointer of what cannot be used, and why.
    """
    return {"x-guidance": _OPTIONS, **_Reader(parsed_schema(text)).read()}


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
        self._multiples: set[int] = set()
        self._combines = False
        self._part = ""  # the name of the part of the value; "" is the definition's own
        self._patterned: Counter[str] = Counter()  # by such names, wherever they are
        self._of_parts: list[tuple[str, _Definition]] = []
        self._pattern_properties = 0

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
                _fail(path, "false matches nothing")
            return {} if schema else False
        if not isinstance(schema, dict):
            _fail(path, f"expected a schema (an object, true or false), got {_kind(schema)}")
        self._level += 1
        self._now.levels = max(self._now.levels, self._level)
        read: dict[str, Any] = {}
        for key, part in schema.items():
            self._keyword(schema, key, part, _below(path, key), read)
        self._level -= 1
        return read

    def _keyword(
        self, schema: dict[str, Any], key: str, part: Any, path: str, read: dict[str, Any]
    ) -> None:
        if key == "$id" and path != "/$id":
            _fail(path, "a base for references; only the root can have one")
        if key in _SILENT or key.startswith("x-"):
            return
        reader = _KEYWORDS.get(key)
        if reader is None:
            _fail(path, _REASONS.get(key, "is no keyword; remove it, or call it x-..."))
        for name, value in reader(self, part, path, schema).items():
            if name in read:
                _fail(path, f"cannot be used beside another that makes {name}; put it into allOf")
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
        return _pattern(part, path)

    def _formatted(self, part: Any, path: str, _: Any) -> dict[str, Any]:
        self._meets()
        return _format(part, path)

    def _properties(self, part: Any, path: str, _: Any) -> dict[str, Any]:
        return {"properties": self._named(part, path)}

    def _patterns(self, part: Any, path: str, schema: Any) -> dict[str, Any]:
        if len(_expect(part, dict, path, "an object of schemas")) > MAX_PATTERN_PROPERTIES:
            _fail(path, f"has {len(part):,} patterns; give at most {MAX_PATTERN_PROPERTIES}")
        self._pattern_properties += len(part)
        for pattern in part:
            _pattern(pattern, _below(path, pattern))
        return {"patternProperties": self._named(part, path)}

    def _named(self, part: Any, path: str) -> dict[str, Any]:
        for name in _expect(part, dict, path, "an object of schemas"):
            _check_spelling(name, _below(path, name))
        return {name: self._child(one, _below(path, name)) for name, one in part.items()}

    def _additional(self, part: Any, path: str, _: Any) -> dict[str, Any]:
        return {"additionalProperties": self._child(part, path)}

    def _names(self, part: Any, path: str, schema: Any) -> dict[str, Any]:
        beside = {"properties", "patternProperties", "additionalProperties"} & set(schema)
        if not isinstance(part, dict) or set(part) - {"pattern", "type"} or beside:
            _fail(path, "only {'pattern': ...} without properties beside it can be used")
        pattern = part.get("pattern", "")
        return {**self._patterns({pattern: True}, path, schema), "additionalProperties": False}

    def _items(self, part: Any, path: str, _: Any) -> dict[str, Any]:
        if isinstance(part, list):
            _fail(path, "a list of schemas is of an older draft; write prefixItems")
        return {"items": self._child(part, path)}

    def _prefix(self, part: Any, path: str, _: Any) -> dict[str, Any]:
        schemas = _expect(part, list, path, "a list of schemas")
        read = [self._child(one, _below(path, at)) for at, one in enumerate(schemas)]
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
                    _fail(
                        _below(path, at),
                        "a value may match this one and one before it, which cannot be kept out; "
                        "use anyOf, or require a property with a const of its own in each",
                    )
        return {"anyOf": read}

    def _each(self, part: Any, path: str) -> list[Any]:
        schemas = _expect(part, list, path, "a list of schemas")
        if not 1 <= len(schemas) <= MAX_ALTERNATIVES:
            _fail(path, f"has {len(schemas):,} schemas; give 1 to {MAX_ALTERNATIVES}")
        return [self._schema(one, _below(path, at)) for at, one in enumerate(schemas)]

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
            _fail(path, "only a pointer into the schema itself can be used, such as #/$defs/name")
        target = self._root
        for part in urllib.parse.unquote(reference[1:]).split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(target, dict) and key in target:
                target = target[key]
            elif isinstance(target, list) and key.isdecimal() and int(key) < len(target):
                target = target[int(key)]
            else:
                _fail(path, f"there is nothing at {reference}")
        return target

    # Values

    def _type(self, part: Any, path: str, _: Any) -> dict[str, Any]:
        types = part if isinstance(part, list) else [part]
        if not types or not all(one in TYPES for one in types if isinstance(one, str)):
            _fail(path, f"expected one of {', '.join(TYPES)}, or a list of them")
        if not all(isinstance(one, str) for one in types):
            _fail(path, f"expected one of {', '.join(TYPES)}, or a list of them")
        return {"type": part}

    def _const(self, part: Any, path: str, _: Any) -> dict[str, Any]:
        _check_value(part, path)
        return {"const": part}

    def _enum(self, part: Any, path: str, _: Any) -> dict[str, Any]:
        if not _expect(part, list, path, "a list of values"):
            _fail(path, "is empty, which matches nothing")
        for at, value in enumerate(part):
            _check_value(value, _below(path, at))
        if sum(isinstance(value, list | dict) for value in part) > MAX_CONTAINERS:
            _fail(path, f"has more than {MAX_CONTAINERS:,} objects and arrays; use fewer")
        return {"enum": part}

    def _required(self, part: Any, path: str, _: Any) -> dict[str, Any]:
        names = _expect(part, list, path, "a list of names")
        for at, name in enumerate(names):
            _check_spelling(_expect(name, str, _below(path, at), "a name"), _below(path, at))
        return {"required": list(dict.fromkeys(names))}

    def _least_properties(self, part: Any, path: str, schema: Any) -> dict[str, Any]:
        least = _count(part, path)
        required = schema.get("required")
        if least <= (len(set(map(str, required))) if isinstance(required, list) else 0):
            return {}
        if least > 1:
            _fail(path, "more than the required ones cannot be counted; require them by name")
        return {"minProperties": least}

    def _multiple(self, part: Any, path: str, _: Any) -> dict[str, Any]:
        value = _bound(part, path)
        if value <= 0:
            _fail(path, "expected a number above 0")
        numerator = Fraction(str(value)).limit_denominator(10**9).numerator
        if numerator > MAX_MULTIPLE:
            _fail(path, f"{value} takes too long to follow; give at most {MAX_MULTIPLE:,}")
        self._multiples.add(numerator)
        return {"multipleOf": part}

    def _unique(self, part: Any, path: str, schema: Any) -> dict[str, Any]:
        most = schema.get("maxItems")
        if part is not False and not (isinstance(most, int) and most <= 1):
            _fail(path, "cannot be followed; use false, or maxItems of 1")
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
                _fail(one.path, "refers to itself for the same value, which never ends")
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
                _fail(one.path, _MEETING)
        for part, definition in self._of_parts:
            self._patterned[part] += definition.meeting
        for part, count in self._patterned.items():
            if count > MAX_MEETING:
                _fail("", f"{part}: {_MEETING}")
        if self._pattern_properties > MAX_PATTERN_PROPERTIES:
            _fail("", f"has more than {MAX_PATTERN_PROPERTIES} patternProperties beside allOf")

    def _check_cost(self) -> None:
        referring = [one.levels + 1 for one in self._definitions.values() if one.refers]
        if sum(referring) > MAX_LEVELS:
            _fail("", f"its definitions have more than {MAX_LEVELS:,} levels together; use fewer")
        if sum(self._multiples) > MAX_MULTIPLES:
            _fail("", f"its multipleOf add up to more than {MAX_MULTIPLES:,}; use fewer")
        if self._combines and math.prod(self._multiples) > MAX_MULTIPLE:
            _fail("", "its multipleOf take too long to follow together; use fewer or smaller ones")


# Single keywords


def _counted(key: str) -> Reading:
    return lambda _, part, path, __: {key: _count(part, path)}


def _bounded(key: str) -> Reading:
    return lambda _, part, path, __: {key: _bound(part, path)}


def _pattern(part: Any, path: str) -> dict[str, Any]:
    wrong = pattern_error(_expect(part, str, path, "a regular expression"))
    if wrong:
        _fail(path, wrong)
    return {"pattern": part}


def _format(part: Any, path: str) -> dict[str, Any]:
    if part not in FORMATS:
        _fail(path, f"expected one of {', '.join(FORMATS)}; or use a pattern")
    return {"format": part}


def _count(part: Any, path: str) -> int:
    whole = isinstance(part, int | float) and not isinstance(part, bool) and part == int(part)
    if not whole or not 0 <= part <= MAX_COUNT:
        _fail(path, f"expected a whole number from 0 to {MAX_COUNT:,}, got {_kind(part)}")
    return int(part)


def _bound(part: Any, path: str) -> float:
    if isinstance(part, bool) or not isinstance(part, int | float) or abs(part) > MAX_BOUND:
        _fail(path, f"expected a number up to {MAX_BOUND:.0e}, got {_kind(part)}")
    return part


def _check_value(value: Any, path: str) -> None:
    if isinstance(value, str):
        _check_spelling(value, path)
    elif isinstance(value, list):
        for at, one in enumerate(value):
            _check_value(one, _below(path, at))
    elif isinstance(value, dict):
        for name, one in value.items():
            _check_spelling(name, _below(path, name))
            _check_value(one, _below(path, name))


def _check_spelling(text: str, path: str) -> None:
    if any(char < " " and char not in _ESCAPED for char in text):
        _fail(path, "has a control character that only \\u could spell; remove it")


def _expect(part: Any, kind: type, path: str, what: str) -> Any:
    if not isinstance(part, kind):
        _fail(path, f"expected {what}, got {_kind(part)}")
    return part


def _kind(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:39]}…"


def _below(path: str, key: str | int) -> str:
    return f"{path}/{str(key).replace('~', '~0').replace('/', '~1')}"


def _fail(path: str, reason: str) -> NoReturn:
    raise InvalidGrammar(reason, field="json_schema", path=path)


Reading: TypeAlias = "Callable[[_Reader, Any, str, Any], dict[str, Any]]"
"""From a keyword's value, its pointer and the schema around it to keywords of llguidance."""

_KEYWORDS: dict[str, Reading] = {
    "type": _Reader._type,
    "const": _Reader._const,
    "enum": _Reader._enum,
    "properties": _Reader._properties,
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
_LOOKS_BACK = "cannot be followed while a text is written; leave it out and check the result"
_REASONS = {
    **dict.fromkeys(("not", "if", "then", "else", "contains", "minContains"), _LOOKS_BACK),
    **dict.fromkeys(("maxContains", "dependentRequired", "dependentSchemas"), _LOOKS_BACK),
    **dict.fromkeys(("unevaluatedProperties", "unevaluatedItems"), _LOOKS_BACK),
    "dependencies": "is of an older draft, and cannot be followed; leave it out",
    "additionalItems": "is of an older draft; write items beside prefixItems",
    "nullable": "is none of JSON Schema; add null to the type",
    "$dynamicRef": "write $ref",
    "$recursiveRef": "write $ref",
}
