"""Keywords of JSON Schema that limit a value by itself: their values checked, and read. Pure."""

from __future__ import annotations

import functools
import json
from decimal import Decimal
from fractions import Fraction
from typing import Any, NoReturn

from erllama.errors import InvalidGrammar
from erllama.sampling.ecma_pattern import PatternError, translated
from erllama.sampling.exact_numbers import (
    Number,
    fraction,
    is_integral,
    is_number,
    magnitude,
    written,
)
from erllama.sampling.expressions import pattern_error
from erllama.sampling.number_ranges import multiples
from erllama.sampling.schema_formats import FORMATS

MAX_MULTIPLE = 10_000
MAX_CONTAINERS = 1_000
MAX_BOUND_DIGITS = 330
MAX_COUNT = 100_000
_MAX_PLACES = 15
_ESCAPED = frozenset("\n\r\t\b\f")  # the control characters that have a short spelling
_MAX_COEFFICIENT = 2**32

TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")


def fail(path: str, reason: str) -> NoReturn:
    """Refuse a schema.

    Raises:
        InvalidGrammar: always; `path` is the JSON pointer of what cannot be used.
    """
    raise InvalidGrammar(reason, field="json_schema", path=path)


def below(path: str, key: str | int) -> str:
    """The JSON pointer of a part."""
    return f"{path}/{str(key).replace('~', '~0').replace('/', '~1')}"


def expect(part: Any, kind: type, path: str, what: str) -> Any:
    """The same, if it is of a kind."""
    if not isinstance(part, kind):
        fail(path, f"expected {what}, got {shown(part)}")
    return part


def shown(value: Any) -> str:
    """A value as a message shows it."""
    text = json.dumps(value, default=lambda one: f"{one}")
    return text if len(text) <= 40 else f"{text[:39]}…"


def read_type(part: Any, path: str) -> dict[str, Any]:
    """`type`."""
    types = part if isinstance(part, list) else [part]
    if not types or not all(isinstance(one, str) and one in TYPES for one in types):
        fail(path, f"expected one of {', '.join(TYPES)}, or a list of them")
    return {"type": part}


def read_const(part: Any, path: str) -> dict[str, Any]:
    """`const`."""
    _check_value(part, path)
    return {"const": part}


def read_enum(part: Any, path: str) -> dict[str, Any]:
    """`enum`."""
    if not expect(part, list, path, "a list of values"):
        fail(path, "is empty, which matches nothing")
    for at, value in enumerate(part):
        _check_value(value, below(path, at))
    if sum(isinstance(value, list | dict) for value in part) > MAX_CONTAINERS:
        fail(path, f"has more than {MAX_CONTAINERS:,} objects and arrays; use fewer")
    return {"enum": part}


def _check_value(value: Any, path: str) -> None:
    if isinstance(value, str):
        check_spelling(value, path)
    elif isinstance(value, list):
        for at, one in enumerate(value):
            _check_value(one, below(path, at))
    elif isinstance(value, dict):
        for name, one in value.items():
            check_spelling(name, below(path, name))
            _check_value(one, below(path, name))


def check_spelling(text: str, path: str) -> None:
    """Refuse a text that llguidance would have to spell with an escape that it is not given."""
    if any(char < " " and char not in _ESCAPED for char in text):
        fail(path, "has a control character that only \\u could spell; remove it")


def read_count(part: Any, path: str) -> int:
    """`maxLength` and its like."""
    if not is_number(part) or not 0 <= part <= MAX_COUNT or not is_integral(part):
        fail(path, f"expected a whole number from 0 to {MAX_COUNT:,}, got {shown(part)}")
    return int(part)


def read_bound(part: Any, path: str) -> Number:
    """`minimum` and its like."""
    digits = len(Decimal(part).as_tuple().digits) if is_number(part) else MAX_BOUND_DIGITS + 1
    if digits > MAX_BOUND_DIGITS or abs(magnitude(part)) > MAX_BOUND_DIGITS:
        fail(
            path,
            f"expected a number of at most {MAX_BOUND_DIGITS} digits before and behind the point, "
            f"got {shown(part)}",
        )
    number: Number = part
    return number


def read_multiple(part: Any, path: str) -> Fraction:
    """`multipleOf`."""
    if not is_number(part) or not part > 0:
        fail(path, f"expected a number above 0, got {shown(part)}")
    if abs(magnitude(part)) > _MAX_PLACES:
        fail(path, f"{written(part)} takes too long to follow; give at most {MAX_MULTIPLE:,}")
    exact = fraction(part)
    if exact.numerator > MAX_MULTIPLE:
        fail(path, f"{written(part)} takes too long to follow; give at most {MAX_MULTIPLE:,}")
    if not is_plain_multiple(exact) and multiples(exact) is None:
        fail(path, f"{written(part)} cannot be followed exactly; use fewer digits")
    return exact


@functools.lru_cache(1_000)
def is_plain_multiple(value: Fraction) -> bool:
    """Whether llguidance reads its digits from a double as they are."""
    double, places = float(value), 0
    while double % 1 and places < 2 * _MAX_PLACES:
        double, places = double * 10, places + 1
    return double < _MAX_COEFFICIENT and Fraction(int(double), 10**places) == value


def read_pattern(part: Any, path: str) -> str:
    """A regular expression of ECMA-262, as llguidance takes it."""
    try:
        pattern = translated(expect(part, str, path, "a regular expression"))
    except PatternError as error:
        fail(path, str(error))
    wrong = pattern_error(pattern)
    if wrong:
        fail(path, wrong)
    return pattern


def read_format(part: Any, path: str) -> list[dict[str, Any]] | None:
    """What limits a text of a format, all of it at once; None if nothing can be followed."""
    known = FORMATS.get(expect(part, str, path, "the name of a format"))
    if known is None:
        return None
    limits: list[dict[str, Any]] = [{"pattern": one} for one in known.patterns]
    return limits if known.longest is None else [*limits, {"maxLength": known.longest}]
