"""Whether no value can match both of two JSON schemas, as far as that shows. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from erllama.sampling.exact_numbers import is_integral, is_number

_DEPTH = 6
_ALL = frozenset(("object", "array", "string", "number", "integer", "boolean", "null"))

Resolve = Callable[[str], Any]
"""What a reference means."""


@dataclass(slots=True)
class _View:
    """What a schema and those it includes say together."""

    types: frozenset[str] = _ALL
    values: list[Any] | None = None
    required: set[str] = field(default_factory=set)
    properties: dict[str, list[Any]] = field(default_factory=dict)


def disjoint(one: Any, other: Any, resolve: Resolve, depth: int = _DEPTH) -> bool:
    """True if the types differ, or the constants, or those of a property that both require."""
    if not depth or not isinstance(one, dict) or not isinstance(other, dict):
        return one is False or other is False
    a, b = _view(one, resolve), _view(other, resolve)
    if not a.types & b.types:
        return True
    if a.values is not None and b.values is not None:
        return not {comparable(value) for value in a.values} & {
            comparable(value) for value in b.values
        }
    return a.types & b.types == {"object"} and any(
        disjoint(x, y, resolve, depth - 1)
        for name in a.required & b.required
        for x in a.properties.get(name, ())
        for y in b.properties.get(name, ())
    )


def json_type(value: Any) -> str:
    """The type of a JSON value; `integer` for numbers without a fraction."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if is_number(value):
        return "integer" if is_integral(value) else "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def _view(schema: dict[str, Any], resolve: Resolve) -> _View:
    view = _View()
    for part in _parts(schema, resolve, _DEPTH):
        _look(part, view)
    return view


def _parts(schema: Any, resolve: Resolve, depth: int) -> Iterator[dict[str, Any]]:
    if not depth or not isinstance(schema, dict):
        return
    yield schema
    if isinstance(schema.get("$ref"), str):
        yield from _parts(resolve(schema["$ref"]), resolve, depth - 1)
    if isinstance(schema.get("allOf"), list):
        for part in schema["allOf"]:
            yield from _parts(part, resolve, depth - 1)


def _look(schema: dict[str, Any], view: _View) -> None:
    types = schema.get("type")
    if isinstance(types, str | list):
        named = {types} if isinstance(types, str) else {one for one in types if one in _ALL}
        view.types &= named | ({"integer"} if "number" in named else set())
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(values, list):
        view.values = values
        view.types &= {json_type(value) for value in values}
    if isinstance(schema.get("required"), list):
        view.required |= {name for name in schema["required"] if isinstance(name, str)}
    if isinstance(schema.get("properties"), dict):
        for name, part in schema["properties"].items():
            view.properties.setdefault(name, []).append(part)


def comparable(value: Any) -> Any:
    """The same for equal values of JSON, in which 1 is 1.0 but not true."""
    if isinstance(value, list):
        return ("array", *map(comparable, value))
    if isinstance(value, dict):
        return "object", frozenset((name, comparable(one)) for name, one in value.items())
    kind = json_type(value)
    return ("number" if kind == "integer" else kind), value
