r"""Regular expressions for the decimal texts of numbers within bounds. Pure.

Digit by digit, so a bound may have as many as it likes; a double has 15. A text has no exponent.
Each expression stands for all texts on one side of a bound; whoever wants both intersects them.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

INTEGER = "-?(?:0|[1-9][0-9]*)"
ANY_NUMBER = r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
DECIMAL = r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?"
_FRACTION = r"(?:\.[0-9]+)?"
MAX_SUFFIXES = 2_000
_TOGETHER = 16  # digits between two groups: the library follows few alternatives faster


def at_least(bound: Fraction, *, strictly: bool = False) -> str:
    """Texts of numbers that are at least `bound`, a fraction whose denominator divides 10**n."""
    if bound < 0:
        positive = f"(?:0|[1-9][0-9]*){_FRACTION}"
        return _either(positive, f"-{_small(-bound, strictly)}")
    return _large(bound, strictly)


def at_most(bound: Fraction, *, strictly: bool = False) -> str:
    """Texts of numbers that are at most `bound`."""
    if bound > 0:
        return _either(_small(bound, strictly), f"-(?:0|[1-9][0-9]*){_FRACTION}")
    if bound == 0 and not strictly:
        return _either(r"-?0(?:\.0+)?", f"-{_large(-bound, True)}")
    return f"-{_large(-bound, strictly)}"


def multiples(of: Fraction) -> str | None:
    """Texts of the multiples of a number whose digits have but 2 and 5 as factors; else None.

    Whether 10**k is a multiple of it, where its last digit is at 1, tells by the last k digits.
    """
    places = next((n for n in range(40) if (of * 10**n).denominator == 1), None)
    if places is None:
        return None
    found = []
    for shown in range(places + 1):
        step = of * 10**shown
        line = _multiples_with(shown, step.numerator)
        if line is None:
            return None
        more = "0*" if shown == places and shown else ""
        found.append(f"{line}{more}")
    if not places:
        found[0] += r"(?:\.0+)?"
    return f"-?{_either(*found)}"


def _multiples_with(places: int, step: int) -> str | None:
    """Digits with a point before the last `places`, whose number is a multiple of `step`."""
    length = next((n for n in range(20) if 10**n % step == 0), None)
    if length is None or 10**length // step > MAX_SUFFIXES:
        return None
    if length <= places:
        ends = _either(*(f"{n:0{length}}" for n in range(0, 10**length, step))) if length else ""
        point = rf"\.[0-9]{{{places - length}}}" if places else ""
        return f"(?:0|[1-9][0-9]*){point}{ends}"
    parts = []
    for n in range(0, 10**length, step):
        digits = f"{n:0{length}}"
        whole, behind = digits[: length - places], digits[length - places :]
        short = whole.lstrip("0") or "0"
        point = rf"\.{behind}" if places else ""
        parts.append(f"(?:{short}|[1-9][0-9]*{whole}){point}")
    return _either(*parts)


def _either(*parts: str) -> str:
    return f"(?:{'|'.join(parts)})"


def _split(bound: Fraction) -> tuple[int, str]:
    """The integer before the point, and the digits behind it."""
    whole, rest = divmod(bound, 1)
    digits = ""
    while rest:
        digit, rest = divmod(rest * 10, 1)
        digits += str(int(digit))
    return int(whole), digits


# Texts without a sign


def _large(bound: Fraction, strictly: bool) -> str:
    """At least `bound`, which is not negative."""
    whole, digits = _split(bound)
    return _either(f"{_above(whole)}{_FRACTION}", f"{whole}{_behind_least(digits, strictly)}")


def _small(bound: Fraction, strictly: bool) -> str:
    """At most `bound`, which is above zero."""
    whole, digits = _split(bound)
    parts = []
    if whole:
        parts.append(f"{_below(whole)}{_FRACTION}")
    if digits or not strictly:
        parts.append(f"{whole}{_behind_most(digits, strictly)}")
    return _either(*parts)


def _above(whole: int) -> str:
    """Integers above one."""
    digits = str(whole)

    def larger(at: int) -> list[str]:
        digit = int(digits[at])
        return [f"{_digit(digit + 1, 9)}{_free(len(digits) - at - 1)}"] if digit < 9 else []

    return _either(f"[1-9][0-9]{{{len(digits)},}}", *_along(digits, larger))


def _below(whole: int) -> str:
    """Integers from 0 on that are below one."""
    digits = str(whole)

    def smaller(at: int) -> list[str]:
        digit, first = int(digits[at]), 0 if at else 1
        return [f"{_digit(first, digit - 1)}{_free(len(digits) - at - 1)}"] if digit > first else []

    shorter = [f"[1-9][0-9]{{0,{len(digits) - 2}}}"] if len(digits) > 1 else []
    return _either("0", *shorter, *_along(digits, smaller))


def _behind_least(digits: str, strictly: bool) -> str:
    """The point and what is behind it, if that is at least 0.digits."""
    if not digits and not strictly:
        return _FRACTION

    def larger(at: int) -> list[str]:
        return [f"{_digit(int(digits[at]) + 1, 9)}[0-9]*"] if digits[at] < "9" else []

    end = "[0-9]*[1-9][0-9]*" if strictly else "[0-9]*"
    return rf"\.{_either(*_along(digits, larger, end))}"


def _behind_most(digits: str, strictly: bool) -> str:
    """The point and what is behind it, if that is at most 0.digits."""
    if not digits:
        return "" if strictly else r"(?:\.0+)?"

    def smaller(at: int) -> list[str]:
        here = [""] if at else []
        return [f"[0-{int(digits[at]) - 1}][0-9]*", *here] if digits[at] > "0" else here

    found = _along(digits, smaller, None if strictly else "0*")
    return rf"(?:\.{_either(*found)})?"


def _along(digits: str, aside: Callable[[int], list[str]], end: str | None = None) -> list[str]:
    """Texts that begin like `digits`, then leave them at a place, or go on behind them.

    Args:
        aside: from a place to what may stand there instead of the digit.
        end: what may stand behind all of them; None: nothing ends there.
    """
    inner = [] if end is None else [end]
    for start in reversed(range(0, len(digits), _TOGETHER)):
        chunk = digits[start : start + _TOGETHER]
        left = [f"{chunk[:at]}{one}" for at in range(len(chunk)) for one in aside(start + at)]
        inner = [*left, f"{chunk}{_either(*inner)}"] if inner else left
    return inner


def _digit(first: int, last: int) -> str:
    return str(first) if first == last else f"[{first}-{last}]"


def _free(count: int) -> str:
    return f"[0-9]{{{count}}}" if count else ""
