"""The token ids of recent chats, so that a chat goes on with the very tokens that it had. Pure.

A model may spell a text otherwise than a tokenizer would, and then the next turn, tokenized as a
whole, would differ from what the cache holds. So where the text of a chat begins as that of an
earlier one, its ids are taken over as far as they go, and only the rest is tokenized.
"""

from __future__ import annotations

import array
from bisect import bisect_left, bisect_right
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
        ends: where it can be cut, as a program may trim what the model said, or a template may:
            how many characters come before the first token of its reply, and before each next
            one, in rising order. Behind one that ends within a character, as many as before it.
    """

    text: str
    tokens: array.array[int]
    finish_key: str | None = None
    ends: Sequence[int] = ()

    def shared(self, text: str) -> Known | None:
        """As much of it as `text` begins with; None: not even what it began with."""
        if text.startswith(self.text):
            return self
        at = bisect_right(self.ends, _alike(self.text, text)) - 1
        if at < 0:
            return None
        end = self.ends[at]
        # of those that end there, the first: behind it come halves of characters, or nothing
        cut = len(self.tokens) - len(self.ends) + 1 + bisect_left(self.ends, end)
        return Known(self.text[:end], self.tokens[:cut])


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
        """What is known of how `text` begins, the longest first."""
        known = (one.shared(text) for own, one in tuple(self._known) if own == salt)
        found = [one for one in known if one is not None]
        return sorted(found, key=lambda one: (len(one.text), one.finish_key is not None))[::-1]


def _alike(one: str, other: str) -> int:
    """How many characters two texts have in common from their beginnings on."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def joined(known: Known, rest: Sequence[int]) -> array.array[int]:
    """The ids of a known text and of what follows it."""
    return known.tokens + array.array("i", rest)


def finish_keys(begins: Sequence[Known]) -> list[str]:
    """Name the states of the chats that go on with the tokens of the first, the longest first.

    The first may have been cut within its reply, or may have left no state; then an earlier turn
    of it has.
    """
    return [
        known.finish_key
        for known in begins
        if known.finish_key is not None and known.tokens == begins[0].tokens[: len(known.tokens)]
    ]
