"""What a chat template is given: plain data, of a bounded size. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from erllama.checked import shown
from erllama.errors import RequestError

MOST_CHARACTERS = 10_000_000
MOST_VALUES = 1_000_000
DEEPEST = 100


def plain_data(values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of JSON-like data in dicts, lists and texts of Python's own; others are refused.

    A template then meets nobody's code: classes of the caller's may answer as they like, raise, or
    change meanwhile.

    Args:
        values: by the names that errors call them by.

    Raises:
        RequestError: what is no such data, or too much of it; names the place.
    """
    made: dict[str, Any] = dict.fromkeys(values)
    waiting: list[_Place] = [_Place(name, one, 0, made, name) for name, one in values.items()]
    total = count = 0
    while waiting:
        place = waiting.pop()
        count += 1
        if isinstance(place.value, str):
            text = _plain_text(place.name, place.value)
            place.into[place.key] = text
            total += len(text)
        elif place.depth >= DEEPEST:
            raise RequestError(f"{place.field}: nested more than {DEEPEST} deep; flatten it")
        else:
            waiting += _opened(place)
        if total > MOST_CHARACTERS or count > MOST_VALUES or len(waiting) > MOST_VALUES:
            raise RequestError(
                f"{place.field}: more than {MOST_CHARACTERS:,} characters or {MOST_VALUES:,} "
                "values; shorten the chat"
            )
    return made


class _Place(NamedTuple):
    """A value, what errors call it, and where its copy goes."""

    name: str
    value: Any
    depth: int
    into: Any
    key: Any

    @property
    def field(self) -> str:
        return self.name.split("[")[0].split(".")[0]


def _opened(place: _Place) -> list[_Place]:
    """Put a copy of what is no text in place; what is in it is still to be copied."""
    name, value, depth = place.name, place.value, place.depth + 1
    copy: Any = value
    inner: list[_Place] = []
    if isinstance(value, Mapping):
        items = [(_plain_key(name, key), one) for key, one in _read(name, value.items)]
        copy = dict.fromkeys(key for key, _ in items)
        inner = [_Place(f"{name}.{key:.60}", one, depth, copy, key) for key, one in items]
    elif isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        parts = _read(name, value.__iter__)
        copy = [None] * len(parts)
        inner = [_Place(f"{name}[{at}]", one, depth, copy, at) for at, one in enumerate(parts)]
    elif value is not None and not isinstance(value, bool | int | float):
        raise RequestError(
            f"{name}: expected text, numbers, booleans, None, lists and mappings, got "
            f"{type(value).__name__}"
        )
    place.into[place.key] = copy
    return inner


def _read(name: str, items: Callable[[], Iterable[Any]]) -> list[Any]:
    try:
        return list(itertools.islice(items(), MOST_VALUES + 1))
    except Exception as wrong:
        raise RequestError(f"{name}: cannot be read: {type(wrong).__name__}: {wrong}") from None


def _plain_key(name: str, key: object) -> str:
    if not isinstance(key, str):
        raise RequestError(f"{name}: a key is {shown(key)}; keys are text")
    return _plain_text(name, key)


def _plain_text(name: str, text: str) -> str:
    text = str.__str__(text)  # of a subclass too what it is, not what it says
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise RequestError(f"{name}: has half of a surrogate pair; remove it") from None
    return text
