"""A JSON schema as text, within bounds. Pure."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NoReturn

from erllama.errors import InvalidGrammar, RequestError
from erllama.sampling.exact_numbers import MAX_DIGITS, read_decimal, read_integer

MAX_SCHEMA_CHARACTERS = 200_000
MAX_SCHEMA_PARTS = 50_000
MAX_SCHEMA_DEPTH = 100
_MAX_BITS = (10**MAX_DIGITS).bit_length()


def schema_text(schema: Mapping[str, Any]) -> str:
    """A schema as JSON text; takes a bounded time.

    Raises:
        RequestError: too large, too deep, or not made of what JSON has.
    """
    _check_size(schema)
    return json.dumps(schema, ensure_ascii=False, default=_no_value)


def parsed_schema(text: str) -> Any:
    """What a schema's text says; its numbers with all their digits, see `exact_numbers`.

    Raises:
        InvalidGrammar: no JSON, a key given twice, or too large or too deep.
    """
    try:
        schema = json.loads(
            text,
            parse_int=read_integer,
            parse_float=read_decimal,
            parse_constant=_no_number,
            object_pairs_hook=_once,
        )
        _check_size(schema)
    except RecursionError:
        raise _bad(_too_deep()) from None
    except (RequestError, ValueError) as error:
        reason = str(error).removeprefix("json_schema: ")
        raise _bad(reason if isinstance(error, RequestError) else f"no JSON: {reason}") from None
    return schema


def _check_size(schema: object) -> None:
    """Look at each part once, and at none behind the bounds."""
    parts, room = MAX_SCHEMA_PARTS, MAX_SCHEMA_CHARACTERS
    level: list[Any] = [schema]
    for depth in range(MAX_SCHEMA_DEPTH + 2):
        if depth > MAX_SCHEMA_DEPTH and level:
            raise RequestError(f"json_schema: {_too_deep()}")
        below: list[Any] = []
        for value in level:
            if isinstance(value, str):
                room -= _text(value)
            elif isinstance(value, Mapping | list | tuple):
                parts -= len(value) * (1 + isinstance(value, Mapping))
                if parts >= 0:
                    below += [*value, *value.values()] if isinstance(value, Mapping) else value
            elif value is not None and not isinstance(value, bool):
                room -= _digits(value)
            if parts <= 0 or room < 0:
                raise RequestError(
                    f"json_schema: has more than {MAX_SCHEMA_PARTS:,} parts or "
                    f"{MAX_SCHEMA_CHARACTERS:,} characters; make it smaller"
                )
        level = below


def _text(value: str) -> int:
    """How many characters it has."""
    if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
        raise RequestError("json_schema: has half of a surrogate pair; remove it")
    return len(value)


def _digits(value: object) -> int:
    """About how many a number has."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise RequestError(f"json_schema: {value} is no number of JSON; leave it out")
    elif isinstance(value, Decimal):
        return len(value.as_tuple().digits)
    elif not isinstance(value, int):
        _no_value(value)
    elif value.bit_length() >= _MAX_BITS:
        raise RequestError(
            f"json_schema: an integer of more than {MAX_DIGITS:,} digits; shorten it"
        )
    else:
        return value.bit_length() // 3
    return 1


def _too_deep() -> str:
    return f"nested more than {MAX_SCHEMA_DEPTH} deep; use $defs"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise RequestError(f"has the key {json.dumps(twice[:40])} twice; keep one of them")
    return found


def _no_value(value: object) -> NoReturn:
    raise RequestError(f"json_schema: has a {type(value).__name__}, which JSON does not have")


def _no_number(name: str) -> NoReturn:
    raise RequestError(f"{name} is no number of JSON")


def _bad(reason: str) -> InvalidGrammar:
    return InvalidGrammar(reason, field="json_schema", path="")
