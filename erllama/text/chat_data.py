"""What a chat template is given: plain data, of a bounded size. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from erllama.errors import RequestError

MOST_CHARACTERS = 10_000_000
MOST_VALUES = 1_000_000
DEEPEST = 100


def check_data(values: Mapping[str, Any]) -> None:
    """Refuse what is no JSON-like data, or too much of it.

    Args:
        values: by the names that errors call them by.

    Raises:
        RequestError: names the place.
    """
    total = count = 0
    waiting: list[tuple[str, Any, int]] = [(name, one, 0) for name, one in values.items()]
    while waiting:
        where, value, depth = waiting.pop()
        field = where.split("[")[0].split(".")[0]
        count += 1
        if isinstance(value, str):
            total += len(value)
            _check_text(where, value)
        elif depth >= DEEPEST:
            raise RequestError(f"{field}: nested more than {DEEPEST} deep; flatten it")
        else:
            waiting += _inner(where, value, depth + 1)
        if total > MOST_CHARACTERS or count > MOST_VALUES or len(waiting) > MOST_VALUES:
            raise RequestError(
                f"{field}: more than {MOST_CHARACTERS:,} characters or {MOST_VALUES:,} values; "
                "shorten the chat"
            )


def _inner(where: str, value: object, depth: int) -> list[tuple[str, Any, int]]:
    if isinstance(value, Mapping):
        found: list[tuple[str, Any, int]] = []
        for key, one in value.items():
            if not isinstance(key, str):
                raise RequestError(f"{where}: a key is {key!r:.60}; keys are text")
            _check_text(where, key)
            found.append((f"{where}.{key:.60}", one, depth))
        return found
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return [(f"{where}[{at}]", one, depth) for at, one in enumerate(value)]
    if value is None or isinstance(value, bool | int | float):
        return []
    raise RequestError(
        f"{where}: expected text, numbers, booleans, None, lists and mappings, got "
        f"{type(value).__name__}"
    )


def _check_text(where: str, text: str) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RequestError(f"{where}: has half of a surrogate pair; remove it") from None
