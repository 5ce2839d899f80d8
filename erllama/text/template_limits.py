"""What a chat template may use up. Pure.

A template is a program that came with a model file, and a program can loop for ever or make texts
that no memory holds. Nothing stops a thread from outside, so a template pays as it goes: for
turns of loops, for calls, and for the characters that it moves. Whoever has paid too much is
refused, in a time that depends on the template alone. What one native call could blow up beyond
all bounds is refused before it is made.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

WORK = 10_000_000
"""Turns of loops, or the like: some seconds."""
LONGEST = 50_000_000
"""Characters of a text."""

_PER_CHARACTER = 100  # characters that cost as much as a turn of a loop
_CALL = 16  # turns of a loop that a call takes as long as
_VALUE = 64  # characters that a value counts as which is no text
_WIDEST = 1_000  # of padding, indentation and columns
_BITS = 10_000  # of a number
_DIGITS = re.compile(r"\d{5}")  # of a width in a format
_FORMATS = ("format", "format_map")
_REFUSED = ("expandtabs", "translate", "encode", "to_bytes")


class TooMuch(Exception):
    """A template is over a limit; the message says which."""


_left: ContextVar[list[int] | None] = ContextVar("erllama_template_work", default=None)


@contextlib.contextmanager
def limited_work(work: int = WORK) -> Iterator[None]:
    """What is rendered here may pay so much."""
    token = _left.set([work])
    try:
        yield
    finally:
        _left.reset(token)


def pay(amount: int) -> None:
    """Raises `TooMuch` once nothing is left; outside of `limited_work` everything is free."""
    left = _left.get()
    if left is None:
        return
    left[0] -= amount
    if left[0] < 0:
        raise TooMuch("it does not come to an end")


def pay_for(value: object) -> Any:
    """Pay for a value that was made, and give it back."""
    if isinstance(value, str):
        check_length(len(value))
    elif isinstance(value, list | tuple | dict):
        pay(1 + len(value) // 10)
    return value


def pay_to_read(value: Any) -> Any:
    """Pay for looking through a value, and give it back."""
    pay(1 + len(value) // _PER_CHARACTER if isinstance(value, str | list | tuple) else 1)
    return value


def check_length(n: int) -> None:
    """Pay for a text of `n` characters that is about to be made."""
    if n > LONGEST:
        raise TooMuch(f"it makes a text of more than {LONGEST:,} characters")
    pay(1 + n // _PER_CHARACTER)


def metered(items: Iterable[Any], cost: int) -> Iterator[Any]:
    """`items`, each paid for."""
    for item in items:
        pay(cost)
        yield item


def written_length(value: object) -> int:
    """About as many characters as `value` has when it is written out.

    Raises:
        TooMuch: more than any text may have; also of what contains itself.
    """
    total, waiting = 0, [value]
    while waiting:
        one = waiting.pop()
        total += len(one) + 4 if isinstance(one, str) else _VALUE
        if isinstance(one, Mapping):
            waiting += one.keys()
            waiting += one.values()
        elif isinstance(one, list | tuple | set | frozenset):
            waiting += one
        if total + 4 * len(waiting) > LONGEST:
            raise TooMuch(f"it makes a text of more than {LONGEST:,} characters")
    return total


def check_written(values: Iterable[object]) -> None:
    """Pay for writing out `values`, one behind the other."""
    check_length(sum(map(written_length, values)))


def check_operation(operator: str, left: Any, right: Any) -> None:
    """Refuse what an arithmetic operation could blow up."""
    if operator == "%" and isinstance(left, str):
        _check_format(left, right if isinstance(right, tuple) else (right,))
    elif operator == "*" and isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() + right.bit_length())
    elif operator == "*":
        text, times = (right, left) if isinstance(left, int) else (left, right)
        if isinstance(text, str | list | tuple) and isinstance(times, int):
            check_length(len(text) * max(times, 0))
    elif operator == "**" and isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() * abs(right))
    elif operator == "+" and isinstance(left, str | list | tuple):
        check_length(len(left) + (len(right) if isinstance(right, str | list | tuple) else 0))


def check_method(owner: Any, name: str, arguments: Sequence[Any], named: Mapping[str, Any]) -> None:
    """Refuse what a method of a built-in type could blow up.

    Args:
        owner: what it is called on.
        arguments, named: what it is called with.
    """
    pay(_CALL)
    if not isinstance(owner, str | bytes | int | list | tuple | dict):
        return
    values = [*arguments, *named.values()]
    if name in _REFUSED:
        raise TooMuch(f"it calls {name!r}, which no chat template needs")
    if isinstance(owner, str):
        pay(1 + len(owner) // _PER_CHARACTER)
        _check_text_method(owner, name, values)
    elif not isinstance(owner, int):
        pay(1 + len(owner) // 10)


def _check_text_method(owner: str, name: str, values: Sequence[Any]) -> None:
    if name in _FORMATS:
        _check_format(owner, values)
    elif name in ("ljust", "rjust", "center", "zfill"):
        check_width(values)
    elif name == "join":
        check_join(owner, values[0] if values else "")
    elif name == "replace" and len(values) >= 2:
        check_replace(owner, values[0], values[1])


def check_width(values: Iterable[Any]) -> None:
    """Refuse padding, indentation or columns that are too wide."""
    if any(isinstance(value, int) and abs(value) > _WIDEST for value in values):
        raise TooMuch(f"it pads by more than {_WIDEST:,}")


def check_join(between: Any, items: Any) -> None:
    """Pay for a text of `items` with `between` between them."""
    if isinstance(items, str | list | tuple):
        check_length(sum(map(written_length, items)) + len(items) * len(str(between)))


def check_replace(text: Any, old: Any, new: Any) -> None:
    """Pay for `text` with `new` for each `old`."""
    text, old, new = str(text), str(old), str(new)
    check_length(len(text) + text.count(old) * len(new))


def check_indent(text: Any, values: Iterable[Any]) -> None:
    """Pay for `text` with each of its lines indented."""
    widths = [len(value) if isinstance(value, str) else int(value or 0) for value in values]
    check_width(widths)
    text = str(text)
    check_length(len(text) + (text.count("\n") + 1) * max(widths, default=4))


def _check_format(text: str, values: Sequence[Any]) -> None:
    if _DIGITS.search(text) or any(isinstance(v, int) and abs(v) > LONGEST for v in values):
        raise TooMuch("it formats with too many digits")
    if "*" in text or re.search(r"\{[^}]*\{", text):  # widths that are values
        check_width(values)
    check_length(len(text) + text.count("%") + sum(map(written_length, values)))


def _check_bits(bits: int) -> None:
    if bits > _BITS:
        raise TooMuch(f"it makes a number of more than {_BITS:,} bits")
