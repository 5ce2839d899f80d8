"""Which characters of a text are what, while the text is cut into other pieces. Pure."""

from __future__ import annotations

import enum
from collections import deque


class Kind(enum.IntEnum):
    """What the characters of a reply are.

    `TEXT` is what tokens say. `CONTROL` is the text of control tokens: markers and stops may
    contain it, and it is not shown. `END` is that of the token that ends a reply, or of a prompt.
    """

    TEXT = 0
    CONTROL = 1
    END = 2


class Runs:
    """The kinds of characters that went in and have not come out yet."""

    def __init__(self) -> None:
        self._runs: deque[tuple[int, Kind]] = deque()

    def add(self, n: int, kind: Kind) -> None:
        """`n` characters of one kind went in behind the others."""
        if n:
            self._runs.append((n, kind))

    def take(self, text: str) -> list[tuple[str, Kind]]:
        """The next characters came out, or were dropped: in stretches of one kind each."""
        taken: list[tuple[str, Kind]] = []
        at = 0
        while at < len(text):
            n, kind = self._runs.popleft()
            end = at + n
            if end > len(text):
                self._runs.appendleft((end - len(text), kind))
            if taken and taken[-1][1] == kind:
                taken[-1] = (taken[-1][0] + text[at:end], kind)
            else:
                taken.append((text[at:end], kind))
            at = end
        return taken
