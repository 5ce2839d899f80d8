"""Stop sequences in a text that arrives in pieces.

The match that completes first ends the text; of several that complete with the same character the
longest. Waiting for one that began earlier but is not complete could last forever, and would make
the result depend on where the text is cut into pieces.

Each stop is followed by a matcher of Knuth, Morris and Pratt (1977), whose table is made only as
far as a text has matched; so a feed costs its length, however long the stops are.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Gives out a text as far as it is certain to be part of no stop.

    Attributes:
        matched: the stop that ended the text, once one has.
        rest: what followed it in the piece that completed it.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """
        Raises:
            ValueError: a stop is empty; it would match everywhere.
        """
        if not all(stops):
            raise ValueError("a stop sequence is empty; give at least one character")
        self._followed = [_Followed(stop) for stop in dict.fromkeys(stops)]
        self._held = ""
        self.matched: str | None = None
        self.rest = ""

    @property
    def begun(self) -> int:
        """Characters at the end of the text that a stop begins with: the most of all stops."""
        return max((one.length for one in self._followed), default=0)

    def feed(self, text: str) -> str:
        """What `text` makes certain; what may begin a stop is held back.

        Once a stop has matched, its text and all that follows is dropped.
        """
        if self.matched is not None:
            return ""
        end, stop = self._first_match(text)
        text, end = self._held + text, len(self._held) + end
        if stop is not None:
            self.matched, self._held, self.rest = stop, "", text[end:]
            return text[: end - len(stop)]
        cut = len(text) - self.begun
        self._held = text[cut:]
        return text[:cut]

    def flush(self) -> str:
        """What was held back, at an end that is not a stop."""
        held, self._held = self._held, ""
        return held

    def _first_match(self, text: str) -> tuple[int, str | None]:
        """Where in `text` the first match completes, and which one it is."""
        first, found = len(text), None
        for one in self._followed:
            end = one.follow(text, first)
            if end is None:
                continue
            if found is None or end < first or len(one.stop) > len(found):
                first, found = end, one.stop
        return first, found


class _Followed:
    """One stop, and `length`: how much of its beginning the text ends with."""

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.length = 0
        self._borders = [0]  # of each beginning of the stop: its longest proper border

    def follow(self, text: str, limit: int) -> int | None:
        """The index behind the character of `text[:limit]` that completes the stop; None: none."""
        stop, length = self.stop, self.length
        at = 0
        while at < limit:
            if not length:
                at = text.find(stop[0], at, limit)
                if at < 0:
                    break
            while length and text[at] != stop[length]:
                length = self._border(length)
            length += text[at] == stop[length]
            at += 1
            if length == len(stop):
                return at
        self.length = length
        return None

    def _border(self, length: int) -> int:
        while len(self._borders) < length:
            self._extend()
        return self._borders[length - 1]

    def _extend(self) -> None:
        at = len(self._borders)
        border = self._borders[-1]
        while border and self.stop[at] != self.stop[border]:
            border = self._borders[border - 1]
        self._borders.append(border + (self.stop[at] == self.stop[border]))
