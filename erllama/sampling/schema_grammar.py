"""Schemas that llguidance cannot follow by itself, as a grammar in its notation. Pure.

It reads numbers as doubles and leaves U+007F out of texts. Where a schema has a number of more
digits or that character, what lies around it is written out as rules here; all other parts remain
schemas, which it compiles together with the rules (its `%json`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any

from erllama.sampling.exact_numbers import (
    MOST_OF_DOUBLES,
    fraction,
    is_number,
    is_plain,
    plain,
    written,
)
from erllama.sampling.expressions import schema_error
from erllama.sampling.number_ranges import DECIMAL, INTEGER, at_least, at_most, multiples
from erllama.sampling.schema_disjoint import json_type
from erllama.sampling.schema_flat import Flat, Schema, constant, flattened, of_type
from erllama.sampling.schema_sequences import Pair, array, properties
from erllama.sampling.schema_values import fail, is_plain_multiple

MAX_SOURCE = 4_000_000  # characters of a grammar
MAX_ROUNDS = 20  # each finds more definitions that nothing matches
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_ONE = ("items", "additionalProperties")
_MANY = ("allOf", "anyOf", "prefixItems")
_NAMED = ("properties", "patternProperties")
_POSSIBLE = frozenset(("type", "enum", "const"))
"""Something matches any schema of one of these alone."""
_UNSPELT = "\x7f"
_STRING = r'"(?:[^"\\\x00-\x1f\x7f]|\\["\\bfnrt])*"'


def grammar(schema: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[str, str] | None:
    """The rules for a schema, and what `start` is; None: llguidance follows it by itself.

    Args:
        schema: as `read_schema` reads it.
        options: for llguidance, of each schema that is left.

    Raises:
        InvalidGrammar: it matches nothing, or takes too much.
    """
    definitions = {f"#/$defs/{name}": one for name, one in schema.get("$defs", {}).items()}
    inexact = _inexact(schema, definitions)
    root = {key: part for key, part in schema.items() if key != "$defs"}
    if not _is_inexact(root, inexact):
        return None
    impossible: set[str] = set()
    known: dict[str, bool] = {}
    for _ in range(MAX_ROUNDS):
        writer = _Writer(definitions, inexact, options, impossible, known)
        start = writer.value(root)
        if start is None:
            fail("", "no value can match")
        new = writer.finish()
        if not new:
            break
        impossible |= new
    else:
        fail("", "too many of its definitions match nothing; remove these")
    return "\n".join(writer.rules), start


def dumped(schema: Any) -> str:
    """A schema as JSON text, with the numbers that every library reads alike."""
    return json.dumps(schema, default=plain)


# What llguidance does not follow


def _inexact(schema: Mapping[str, Any], definitions: Mapping[str, Schema]) -> frozenset[str]:
    """The references to what it does not follow, or what leads there."""
    found = {name for name, one in definitions.items() if _is_inexact(one, frozenset())}
    users: dict[str, set[str]] = {name: set() for name in definitions}
    for name, one in definitions.items():
        for reference in _references(one):
            users[reference].add(name)
    todo = list(found)
    for name in todo:
        todo += [user for user in users[name] if user not in found]
        found |= users[name]
    return frozenset(found)


def _is_inexact(schema: Schema, inexact: frozenset[str]) -> bool:
    if isinstance(schema, bool):
        return False
    if any(key in schema and not is_plain(schema[key]) for key in _BOUNDS):
        return True
    if "multipleOf" in schema and not is_plain_multiple(fraction(schema["multipleOf"])):
        return True
    values = [*schema.get("enum", ()), *([schema["const"]] if "const" in schema else [])]
    names = [*schema.get("properties", ()), *schema.get("required", ())]
    if any(map(_is_inexact_value, values)) or any(map(_is_unspelt, names)):
        return True
    if schema.get("$ref") in inexact:
        return True
    return any(_is_inexact(part, inexact) for part in _parts(schema))


def _is_inexact_value(value: Any) -> bool:
    if isinstance(value, str):
        return _is_unspelt(value)
    if is_number(value):
        return not is_plain(value)
    if isinstance(value, dict):
        return any(map(_is_unspelt, value)) or any(map(_is_inexact_value, value.values()))
    return isinstance(value, list) and any(map(_is_inexact_value, value))


def _is_unspelt(text: str) -> bool:
    return _UNSPELT in text


def _parts(schema: Mapping[str, Any]) -> Iterable[Schema]:
    for key in _ONE:
        if key in schema:
            yield schema[key]
    for key in _MANY:
        yield from schema.get(key, ())
    for key in _NAMED:
        yield from schema.get(key, {}).values()


def _references(schema: Schema) -> Iterable[str]:
    if isinstance(schema, bool):
        return
    if "$ref" in schema:
        yield schema["$ref"]
    for part in _parts(schema):
        yield from _references(part)


# Rules


class _Writer:
    def __init__(
        self,
        definitions: Mapping[str, Schema],
        inexact: frozenset[str],
        options: Mapping[str, Any],
        impossible: set[str],
        known: dict[str, bool],
    ) -> None:
        self._definitions = definitions
        self._inexact = inexact
        self._options = options
        self._impossible = impossible  # references to what matches nothing
        self.rules: list[str] = []
        self._names: dict[str, str] = {}  # of rules, by what they say
        self._room = MAX_SOURCE
        self._referred: dict[str, str] = {}
        self._todo: list[str] = []
        self._known = known  # whether something matches a schema, by its text

    def finish(self) -> set[str]:
        """Make the rules of references too; those of them that match nothing."""
        found = set()
        for reference in self._todo:
            body = self.value(self._definitions[reference], named=False)
            if body is None:
                found.add(reference)
            self._add(f"{self._referred[reference]}: {body}")
        return found

    def _add(self, line: str) -> None:
        self._room -= len(line)
        if self._room < 0:
            fail("", f"makes more than {MAX_SOURCE:,} characters of rules; make it smaller")
        self.rules.append(line)

    def rule(self, body: str, prefix: str = "r") -> str:
        """The name of a rule; with a prefix in capitals it is a terminal."""
        known = self._names.get(body)
        if known is None:
            known = self._names[body] = f"{prefix}{len(self._names)}"
            self._add(f"{known}: {body}")
        return known

    def value(self, schema: Schema, *, named: bool = True) -> str | None:
        """What stands for a value in a rule; None: nothing matches."""
        if isinstance(schema, bool) and not schema:
            return None
        if isinstance(schema, bool) or not _is_inexact(schema, self._inexact):
            return self._left({} if isinstance(schema, bool) else schema)
        if named and set(schema) == {"$ref"}:
            return self._reference(schema["$ref"])
        options = [
            option
            for flat in flattened(schema, self._definitions)
            for option in self._options_of(flat)
        ]
        return self.rule(" | ".join(dict.fromkeys(options))) if options else None

    def _reference(self, reference: str) -> str | None:
        if reference in self._impossible:
            return None
        if reference not in self._referred:
            self._referred[reference] = f"d{len(self._referred)}"
            self._todo.append(reference)
        return self._referred[reference]

    def _left(self, schema: Mapping[str, Any]) -> str | None:
        """A schema that llguidance follows, with what it refers to; None: nothing matches it."""
        whole: dict[str, Any] = {"x-guidance": self._options, **schema}
        needed = dict.fromkeys(_references(schema))
        todo = list(needed)
        for reference in todo:
            new = [one for one in _references(self._definitions[reference]) if one not in needed]
            needed |= dict.fromkeys(new)
            todo += dict.fromkeys(new)
        if needed:
            prefix = len("#/$defs/")
            whole["$defs"] = {one[prefix:]: self._definitions[one] for one in needed}
        text = dumped(whole)
        if (len(schema) <= 1 and set(schema) <= _POSSIBLE) or self._may_be(text):
            return self.rule(f"%json {text}")
        return None

    def _may_be(self, text: str) -> bool:
        """Whether something may match a schema; asked once for each."""
        known = self._known.get(text)
        if known is None:
            wrong = schema_error(text)
            known = self._known[text] = not wrong.startswith("Unsatisfiable")
            if wrong and known:
                fail("", wrong)
        return known

    # One alternative

    def _options_of(self, flat: Flat) -> list[str]:
        if flat.values is not None:
            return self._constants(flat, flat.values)
        found = [self._number(flat), self._array(flat), self._object(flat), self._other(flat)]
        return [one for one in found if one is not None]

    def _constants(self, flat: Flat, values: tuple[Any, ...]) -> list[str]:
        free = dataclasses.replace(flat, values=None)
        found: list[str | None] = []
        for value in values:
            kind = json_type(value)
            if kind not in flat.types:
                continue
            if isinstance(value, list | dict):
                found.append(self.value({"allOf": [constant(value), *_schema_of(free)]}))
            elif not isinstance(value, str) or not flat.text:
                allowed = not is_number(value) or flat.allows(value)
                found.append(self._literal(_json(value)) if allowed else None)
        if flat.text and "string" in flat.types:
            found.append(self._texts(flat, of_type(values, "string")))
        return [one for one in found if one is not None]

    def _texts(self, flat: Flat, texts: list[str]) -> str | None:
        """Of constant texts, those that meet what else is said of them."""
        if any(map(_is_unspelt, texts)):
            fail("", "U+007F in enum or const beside pattern or length; leave these out")
        limits = [{key: part} for key, part in flat.text]
        return self._left({"enum": texts, "allOf": limits}) if texts else None

    def _literal(self, text: str) -> str:
        return self.rule(json.dumps(text, ensure_ascii=False).replace(_UNSPELT, "\\u007f"), "L")

    def _other(self, flat: Flat) -> str | None:
        """Null, booleans and texts."""
        types = sorted(flat.types & {"null", "boolean", "string"})
        limits = [{key: part} for key, part in flat.text]
        more = {"allOf": limits} if limits else {}
        return self._left({"type": types, **more}) if types else None

    def _number(self, flat: Flat) -> str | None:
        if "integer" not in flat.types or not flat.has_number:
            return None
        bounds = [bound for bound in (flat.low, flat.high) if bound]
        steps = flat.multiples
        if all(is_plain(number) for number, _ in bounds) and all(map(is_plain_multiple, steps)):
            return self._left(_plain_number(flat))
        parts = [INTEGER if flat.integral else DECIMAL]
        if flat.low:
            parts.append(at_least(fraction(flat.low[0]), strictly=flat.low[1]))
        if flat.high:
            parts.append(at_most(fraction(flat.high[0]), strictly=flat.high[1]))
        if steps:
            found = multiples(flat.multiple)
            if found is None:
                return self._left(_nearer(flat))
            parts.append(found)
        return self.rule(" & ".join(f"/{part}/" for part in parts), "N")

    def _array(self, flat: Flat) -> str | None:
        if "array" not in flat.types:
            return None
        return array(
            self.rule,
            [self.value(one) for one in flat.prefix],
            self.value(flat.items),
            flat.least_items,
            flat.most_items,
        )

    def _object(self, flat: Flat) -> str | None:
        if "object" not in flat.types:
            return None
        names = dict.fromkeys((*flat.properties, *flat.required))
        pairs = []
        for name in names:
            value = self.value(flat.properties.get(name, flat.additional))
            pair = None if value is None else f'{self._literal(_json(name))} ":" {value}'
            pairs.append(Pair(pair, name in flat.required))
        return properties(
            self.rule, pairs, self._more(flat, names), flat.least_properties, flat.most_properties
        )

    def _more(self, flat: Flat, names: Iterable[str]) -> str | None:
        """Any property that has no name of its own."""
        value = self.value(flat.additional)
        if flat.patterns:
            return self._matching(flat, names, value)
        if value is None:
            return None
        taken = [self._literal(_json(name)) for name in names if not _is_unspelt(name)]
        others = f" & ~({' | '.join(taken)})" if taken else ""
        return f'{self.rule(f"/{_STRING}/{others}", "K")} ":" {value}'

    def _matching(self, flat: Flat, names: Iterable[str], others: str | None) -> str | None:
        if list(names) or others is not None or len(flat.patterns) > 1:
            fail(
                "",
                "numbers of more than 15 digits below patternProperties can be followed only with "
                "one pattern, additionalProperties false and no named properties beside it",
            )
        pattern, schema = next(iter(flat.patterns.items()))
        value = self.value(schema)
        key = self._left({"type": "string", "pattern": pattern})
        return None if value is None or key is None else f'{key} ":" {value}'


def _json(value: Any) -> str:
    """A text, a number, true, false or null as JSON writes it."""
    if is_number(value):
        return written(value)
    return json.dumps(value, ensure_ascii=False).replace(_UNSPELT, "\\u007f")


def _nearer(flat: Flat) -> dict[str, Any]:
    """Of the multiples of a number those that a double can be, as far as llguidance takes them."""
    first, last = flat.ends
    most = Fraction(MOST_OF_DOUBLES)
    first = None if first is None else max(first, -(most // flat.multiple) * flat.multiple)
    last = None if last is None else min(last, most // flat.multiple * flat.multiple)
    if first is not None and last is not None and first > last:
        fail("", "multipleOf cannot be followed where all numbers have more than 15 digits")
    low = None if first is None else (_decimal(first), False)
    high = None if last is None else (_decimal(last), False)
    return _plain_number(dataclasses.replace(flat, low=low, high=high))


def _decimal(value: Fraction) -> Decimal | int:
    return int(value) if value.denominator == 1 else Decimal(value.numerator) / value.denominator


def _plain_number(flat: Flat) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "integer" if flat.integral else "number"}
    if flat.low:
        found["exclusiveMinimum" if flat.low[1] else "minimum"] = flat.low[0]
    if flat.high:
        found["exclusiveMaximum" if flat.high[1] else "maximum"] = flat.high[0]
    if flat.multiples:
        found["allOf"] = [{"multipleOf": _decimal(step)} for step in flat.multiples]
    return found


def _schema_of(flat: Flat) -> list[Schema]:
    """What is said of an array or an object, as a schema again."""
    found: dict[str, Any] = {
        "prefixItems": list(flat.prefix),
        "items": flat.items,
        "minItems": flat.least_items,
        "properties": dict(flat.properties),
        "patternProperties": dict(flat.patterns),
        "additionalProperties": flat.additional,
        "required": list(flat.required),
        "minProperties": flat.least_properties,
    }
    if flat.most_items is not None:
        found["maxItems"] = flat.most_items
    if flat.most_properties is not None:
        found["maxProperties"] = flat.most_properties
    return [found]
