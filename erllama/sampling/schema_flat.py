"""A schema as alternatives that each say all of one value at once. Pure.

`allOf`, `anyOf`, `$ref` and keywords beside them are multiplied out, with numbers compared exactly.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, TypeAlias

from erllama.sampling.exact_numbers import Number, fraction, is_multiple, is_number
from erllama.sampling.schema_disjoint import comparable, json_type
from erllama.sampling.schema_values import fail

MAX_ALTERNATIVES = 500
MAX_STEPS = 50  # of references and combinations to one value
TYPES = frozenset(("object", "array", "string", "number", "integer", "boolean", "null"))

Schema: TypeAlias = "Mapping[str, Any] | bool"
Bound: TypeAlias = "tuple[Number, bool]"
"""A number, and whether it is excluded itself."""
Definitions: TypeAlias = "Mapping[str, Schema]"
"""Schemas by the references to them."""


@dataclass(frozen=True, slots=True)
class Flat:
    """One alternative.

    Attributes:
        types: that the value may have; with `number`, `integer` is among them.
        values: what it may be; None: anything of these types.
        low: the least number.
        high: the largest number.
        multiples: what a number is a multiple of.
        text: what limits a text, all of it at once, as keywords.
        items: of an array, behind those that `prefix` describes.
        patterns: schemas of properties whose names match.
        additional: of properties that are neither named nor match.
    """

    types: frozenset[str] = TYPES
    values: tuple[Any, ...] | None = None
    low: Bound | None = None
    high: Bound | None = None
    multiples: tuple[Fraction, ...] = ()
    text: tuple[tuple[str, Any], ...] = ()
    prefix: tuple[Schema, ...] = ()
    items: Schema = True
    least_items: int = 0
    most_items: int | None = None
    properties: Mapping[str, Schema] = field(default_factory=dict)
    patterns: Mapping[str, Schema] = field(default_factory=dict)
    additional: Schema = True
    required: tuple[str, ...] = ()
    least_properties: int = 0
    most_properties: int | None = None

    @property
    def integral(self) -> bool:
        """Whether a number can only be an integer."""
        return "number" not in self.types

    def allows(self, value: Number) -> bool:
        """Whether a number is within the bounds, and a multiple of what it should be."""
        if self.low and (value < self.low[0] or (self.low[1] and value == self.low[0])):
            return False
        if self.high and (value > self.high[0] or (self.high[1] and value == self.high[0])):
            return False
        return not self.multiples or is_multiple(value, self.multiple)

    @property
    def multiple(self) -> Fraction:
        """The least common multiple of `multiples`."""
        scale = math.lcm(*(one.denominator for one in self.multiples))
        return Fraction(math.lcm(*(int(one * scale) for one in self.multiples)), scale)

    @property
    def has_number(self) -> bool:
        """Whether a number that is no constant can meet it."""
        if self.low is None or self.high is None:
            return True
        if self.multiples or self.integral:
            first, last = self.ends
            return first is None or last is None or first <= last
        low, high = self.low[0], self.high[0]
        return low < high or (low == high and not (self.low[1] or self.high[1]))

    @property
    def ends(self) -> tuple[Fraction | None, Fraction | None]:
        """The first and the last number within the bounds, where numbers have a step."""
        steps = (*self.multiples, Fraction(1)) if self.integral else self.multiples
        step = dataclasses.replace(self, multiples=steps).multiple
        low = None if self.low is None else fraction(self.low[0])
        high = None if self.high is None else fraction(self.high[0])
        first = last = None
        if low is not None and self.low is not None:
            first = (math.ceil(low / step) + (self.low[1] and low % step == 0)) * step
        if high is not None and self.high is not None:
            last = (math.floor(high / step) - (self.high[1] and high % step == 0)) * step
        return first, last


def flattened(schema: Schema, definitions: Definitions, steps: int = MAX_STEPS) -> list[Flat]:
    """The alternatives of a schema; none: it matches nothing.

    Raises:
        InvalidGrammar: they are too many, or cannot be followed.
    """
    if isinstance(schema, bool):
        return [Flat()] if schema else []
    if not steps:
        fail("", f"refers more than {MAX_STEPS} steps for one value; write it out")
    found = [_own(schema)]
    for part in schema.get("allOf", ()):
        found = _product(found, flattened(part, definitions, steps - 1))
    if "anyOf" in schema:
        options = [
            one for part in schema["anyOf"] for one in flattened(part, definitions, steps - 1)
        ]
        found = _product(found, options)
    if "$ref" in schema:
        found = _product(found, flattened(definitions[schema["$ref"]], definitions, steps - 1))
    return found


def _product(some: list[Flat], others: list[Flat]) -> list[Flat]:
    if len(some) * len(others) > MAX_ALTERNATIVES:
        fail("", f"its combinations have more than {MAX_ALTERNATIVES} alternatives; use fewer")
    met = (_meet(one, other) for one in some for other in others)
    return [one for one in met if one.types and one.values != ()]


def _own(schema: Mapping[str, Any]) -> Flat:
    """What the keywords say that limit a value by themselves."""
    low = _tighter(max, (schema.get("minimum"), False), (schema.get("exclusiveMinimum"), True))
    high = _tighter(min, (schema.get("maximum"), False), (schema.get("exclusiveMaximum"), True))
    steps = schema.get("multipleOf")
    return Flat(
        types=_types(schema),
        values=_values(schema),
        low=low,
        high=high,
        multiples=() if steps is None else (fraction(steps),),
        text=tuple(
            (key, schema[key]) for key in ("pattern", "minLength", "maxLength") if key in schema
        ),
        prefix=tuple(schema.get("prefixItems", ())),
        items=schema.get("items", True),
        least_items=schema.get("minItems", 0),
        most_items=schema.get("maxItems"),
        properties=schema.get("properties", {}),
        patterns=schema.get("patternProperties", {}),
        additional=schema.get("additionalProperties", True),
        required=tuple(schema.get("required", ())),
        least_properties=schema.get("minProperties", 0),
        most_properties=schema.get("maxProperties"),
    )


def _types(schema: Mapping[str, Any]) -> frozenset[str]:
    if "type" not in schema:
        return TYPES
    named = schema["type"]
    types = frozenset([named] if isinstance(named, str) else named)
    return types | {"integer"} if "number" in types else types


def _values(schema: Mapping[str, Any]) -> tuple[Any, ...] | None:
    values = None if "enum" not in schema else tuple(schema["enum"])
    return _common(values, None if "const" not in schema else (schema["const"],))


def _common(some: tuple[Any, ...] | None, others: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
    if some is None or others is None:
        return others if some is None else some
    known = {comparable(value) for value in others}
    return tuple(value for value in some if comparable(value) in known)


def _tighter(choose: Callable[..., Any], *bounds: tuple[Number | None, bool]) -> Bound | None:
    """The one that allows less; of equal ones the one that is excluded."""
    given = [(number, strict) for number, strict in bounds if number is not None]
    if not given:
        return None
    best = choose(number for number, _ in given)
    return best, any(strict for number, strict in given if number == best)


def _least(some: int | None, others: int | None) -> int | None:
    return min((one for one in (some, others) if one is not None), default=None)


def _meet(a: Flat, b: Flat) -> Flat:
    """What meets both."""
    lows = [bound for bound in (a.low, b.low) if bound]
    highs = [bound for bound in (a.high, b.high) if bound]
    length = max(len(a.prefix), len(b.prefix))
    properties, patterns = _properties(a, b)
    return Flat(
        types=a.types & b.types,
        values=_common(a.values, b.values),
        low=_tighter(max, *lows),
        high=_tighter(min, *highs),
        multiples=(*a.multiples, *b.multiples),
        text=(*a.text, *b.text),
        prefix=tuple(both(_item(a, at), _item(b, at)) for at in range(length)),
        items=both(a.items, b.items),
        least_items=max(a.least_items, b.least_items),
        most_items=_least(a.most_items, b.most_items),
        properties=properties,
        patterns=patterns,
        additional=both(a.additional, b.additional),
        required=tuple(dict.fromkeys((*a.required, *b.required))),
        least_properties=max(a.least_properties, b.least_properties),
        most_properties=_least(a.most_properties, b.most_properties),
    )


def both(some: Schema, other: Schema) -> Schema:
    """What meets two schemas."""
    if some is False or other is False:
        return False
    if some in (True, {}) or some == other:
        return other
    return some if other in (True, {}) else {"allOf": [some, other]}


def _item(flat: Flat, at: int) -> Schema:
    return flat.prefix[at] if at < len(flat.prefix) else flat.items


def _properties(a: Flat, b: Flat) -> tuple[Mapping[str, Schema], Mapping[str, Schema]]:
    if not (_describes(a) and _describes(b)):
        one = a if _describes(a) else b
        return one.properties, one.patterns
    if a.patterns or b.patterns:
        fail(
            "",
            "patternProperties together with other properties of the same object cannot be "
            "followed where numbers have more than 15 digits; write the properties out",
        )
    names = dict.fromkeys((*a.properties, *b.properties))
    return {
        name: both(a.properties.get(name, a.additional), b.properties.get(name, b.additional))
        for name in names
    }, {}


def _describes(flat: Flat) -> bool:
    return bool(flat.properties or flat.patterns or flat.additional not in (True, {}))


def constant(value: Any) -> Schema:
    """The schema of an array or an object that is `value`."""
    if isinstance(value, list):
        parts = [{"const": one} for one in value]
        return {
            "type": "array",
            "prefixItems": parts,
            "items": False,
            "minItems": len(parts),
        }
    return {
        "type": "object",
        "properties": {name: {"const": one} for name, one in value.items()},
        "required": list(value),
        "additionalProperties": False,
    }


def of_type(values: Iterable[Any], kind: str) -> list[Any]:
    """Those of a type; `number` for all numbers."""
    return [
        one for one in values if (is_number(one) if kind == "number" else json_type(one) == kind)
    ]
