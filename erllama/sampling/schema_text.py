"""A JSON schema as text, within bounds. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

from erllama.errors import InvalidGrammar, RequestError

MAX_SCHEMA_CHARACTERS = 200_000
MAX_SCHEMA_PARTS = 50_000
MAX_SCHEMA_DEPTH = 100
_MAX_BITS = 1_000


def schema_text(schema: Mapping[str, Any]) -> str:
    """A schema as JSON text; takes a bounded time.

    Raises:
        RequestError: too large, too deep, or not made of what JSON has.
    """
    _check_size(schema)
    return json.dumps(schema, ensure_ascii=False)


def parsed_schema(text: str) -> Any:
    """What a schema's text says.

    Raises:
        InvalidGrammar: no JSON, or too large or too deep.
    """
    try:
        schema = json.loads(text, parse_constant=_no_number)
        _check_size(schema)
    except RecursionError:
        raise _bad(_too_deep()) from None
    except (RequestError, ValueError) as error:
        reason = str(error).removeprefix("json_schema: ")
        raise _bad(reason if isinstance(error, RequestError) else f"no JSON: {reason}") from None
    return schema


def _check_size(schema: object) -> None:
    parts, room, todo = MAX_SCHEMA_PARTS, MAX_SCHEMA_CHARACTERS, [(schema, 0)]
    while todo:
        value, depth = todo.pop()
        inside = _inside(value, parts)
        room -= _characters(value)
        parts -= 1
        if parts < len(inside) or room < 0:
            raise RequestError(
                f"json_schema: has more than {MAX_SCHEMA_PARTS:,} parts or "
                f"{MAX_SCHEMA_CHARACTERS:,} characters; make it smaller"
            )
        if inside and depth == MAX_SCHEMA_DEPTH:
            raise RequestError(f"json_schema: {_too_deep()}")
        todo += [(part, depth + 1) for part in inside]


def _inside(value: object, most: int) -> list[Any]:
    if isinstance(value, Mapping):
        return [*value, *value.values()] if len(value) <= most else [None] * (most + 1)
    if isinstance(value, list | tuple):
        return list(value) if len(value) <= most else [None] * (most + 1)
    return []


def _characters(value: object) -> int:
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
            raise RequestError("json_schema: has half of a surrogate pair; remove it")
        return len(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise RequestError(f"json_schema: {value} is no number of JSON; leave it out")
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        raise RequestError(f"json_schema: an integer of more than {_MAX_BITS:,} bits; shorten it")
    if value is None or isinstance(value, bool | int | float | Mapping | list | tuple):
        return 1
    raise RequestError(f"json_schema: has a {type(value).__name__}, which JSON does not have")


def _too_deep() -> str:
    return f"nested more than {MAX_SCHEMA_DEPTH} deep; use $defs"


def _no_number(name: str) -> NoReturn:
    raise RequestError(f"{name} is no number of JSON")


def _bad(reason: str) -> InvalidGrammar:
    return InvalidGrammar(reason, field="json_schema", path="")
