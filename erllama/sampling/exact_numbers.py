"""Numbers of JSON with all their digits. Pure.

Those of a schema's text are `int` where they are written as integers, else `decimal.Decimal`: both
compare exactly with each other, also where an exponent has nine digits, and in little time.
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from typing import Any, TypeAlias

from erllama.errors import RequestError

MAX_DIGITS = 4_000
"""Of a number in a schema; Python converts up to 4,300 from and to text."""
MAX_EXPONENT = 999_999_999_999
MOST_OF_DOUBLES = 2**53
"""Up to it a double is any integer."""
_FLOAT_DIGITS = 15
_NEAR = 10**15

Number: TypeAlias = "int | float | Decimal"


def read_integer(text: str) -> int:
    """An integer as JSON writes it.

    Raises:
        RequestError: it has too many digits.
    """
    _check_length(text)
    return int(text)


def read_decimal(text: str) -> Decimal:
    """A number with a fraction or an exponent as JSON writes it.

    Raises:
        RequestError: it has too many digits, or its exponent has.
    """
    _check_length(text)
    exponent = re.search(r"[eE][+-]?0*(\d*)$", text)
    if exponent and len(exponent[1]) > len(str(MAX_EXPONENT)):
        raise RequestError(f"json_schema: the exponent of {text[:40]} has too many digits")
    return Decimal(text)


def is_number(value: Any) -> bool:
    """Whether it is a number of JSON."""
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def is_integral(value: Number) -> bool:
    """Whether it has no fraction, as 1.0 and 1e300 have none."""
    if isinstance(value, int):
        return True
    exact = Decimal(value)
    return exact == exact.to_integral_value()


def is_zero(value: Number) -> bool:
    """Whether it is 0 or -0."""
    return not value


def magnitude(value: Number) -> int:
    """The power of ten of its first digit; 0 of zero."""
    exact = Decimal(value)
    return exact.adjusted() if exact else 0


def fraction(value: Number) -> Fraction:
    """The same; takes as much memory as it has digits without an exponent."""
    return Fraction(value)


def is_multiple(value: Number, of: Fraction) -> bool:
    """Whether it is an integer times `of`; takes little time for any exponent."""
    _, digits, exponent = Decimal(value).as_tuple()
    if not isinstance(exponent, int) or exponent <= 0:
        small = magnitude(value) < -MAX_DIGITS
        return is_zero(value) if small else fraction(value) % of == 0
    number = int("".join(map(str, digits))) * of.denominator
    return number * pow(10, exponent, of.numerator) % of.numerator == 0


def is_plain(value: Number) -> bool:
    """Whether a double, read and written by any library, is the same number.

    That holds for integers up to 2 to the 53rd, and for up to 15 digits of which none is more than
    15 places from the point.
    """
    exact = Decimal(value)
    if exact == exact.to_integral_value():
        return exact.copy_abs() <= MOST_OF_DOUBLES
    _, digits, exponent = exact.as_tuple()
    text = "".join(map(str, digits)).lstrip("0")
    kept = text.rstrip("0")
    places = len(text) - len(kept) + (exponent if isinstance(exponent, int) else 0)
    return len(kept) <= _FLOAT_DIGITS and places >= -_FLOAT_DIGITS and exact.copy_abs() < _NEAR


def plain(value: Number) -> int | float:
    """Where it is one, the same as a number that every library writes alike."""
    return int(value) if is_integral(value) else float(value)


def written(value: Number) -> str:
    """As JSON writes it, with all digits.

    An integer without an exponent if it has at most `MAX_DIGITS` digits.
    """
    if isinstance(value, int):
        return str(value)
    exact = Decimal(value)
    if not exact:
        return "0"
    if is_integral(exact) and exact.adjusted() < MAX_DIGITS:
        return str(int(exact))
    text = str(exact)
    mantissa, e, exponent = text.partition("E")
    if "." in mantissa:
        mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}{e.lower()}{exponent}"


def _check_length(text: str) -> None:
    if len(text) > MAX_DIGITS:
        raise RequestError(
            f"json_schema: has a number of more than {MAX_DIGITS:,} digits; shorten it"
        )
