"""The token ids of recent chats, so that a chat goes on with the very tokens that it had. Pure.

A model may spell a text otherwise than a tokenizer would, and then the next turn, tokenized as a
whole, would differ from what the cache holds. So where the text of a chat begins with the text of
an earlier one, its ids are taken over, and only the rest is tokenized.
"""

from __future__ import annotations

import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

_MOST_CHATS = 256
_MOST_CHARACTERS = 16_000_000


@dataclass(frozen=True, slots=True)
class Known:
    """A text whose ids are known.

    Attributes:
        finish_key: names its state in the cache.
    """

    text: str
    tokens: array.array[int]
    finish_key: str | None = None


class ChatMemory:
    """What a model's chats looked like when they ended. One writer; `begins` may run beside it."""

    def __init__(self) -> None:
        self._known: deque[tuple[str, Known]] = deque()
        self._characters = 0

    def add(self, salt: str, known: Known) -> None:
        """Remember a text; those that were added long ago are forgotten."""
        self._known.append((salt, known))
        self._characters += len(known.text)
        while len(self._known) > _MOST_CHATS or self._characters > _MOST_CHARACTERS:
            _, old = self._known.popleft()
            self._characters -= len(old.text)

    def begins(self, salt: str, text: str) -> list[Known]:
        """The texts that `text` begins with, the longest first."""
        found = [one for own, one in tuple(self._known) if own == salt]
        found = [one for one in found if text.startswith(one.text)]
        return sorted(found, key=lambda one: len(one.text), reverse=True)


def spelled_alike(twice: str, rest: str) -> bool:
    """Whether a text tokenized by itself begins as it would behind another one.

    Some vocabularies put a space before whatever they are given first.

    Args:
        twice: the text of the first of its tokens, twice in a row.
        rest: the text.
    """
    return rest.startswith(twice[len(twice) // 2 :]) if twice else False


def joined(known: Known, rest: Sequence[int]) -> array.array[int]:
    """The ids of a known text and of what follows it."""
    return known.tokens + array.array("i", rest)
