"""Sections of a text that arrives in pieces: what lies between a begin and an end marker. Pure.

Outside of a section the first begin marker to complete opens one; of several that complete with
the same character, the longest. Inside, its own end marker alone counts: sections do not nest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from erllama.text.stop import StopMatcher


@dataclass(frozen=True, slots=True)
class Section:
    """The markers around a section; neither is empty."""

    begin: str
    end: str


class Part(NamedTuple):
    """A stretch of the text.

    Attributes:
        name: of the section that it lies in; None: outside of all.
        text: without markers; empty where a section begins or ends with nothing certain before.
        ends: its section, or the stretch outside of all, is over behind it.
    """

    name: str | None
    text: str
    ends: bool = False


class SectionScanner:
    """Tells apart what lies in which section, and holds back what may begin a marker.

    Args:
        sections: by name.
        inside: the section that the text begins in.

    Attributes:
        inside: the section that the text is in now; None: in none.
    """

    def __init__(self, sections: Mapping[str, Section], *, inside: str | None = None) -> None:
        self._sections = sections
        self.inside = inside
        self._matcher = self._next_matcher()

    @property
    def begun(self) -> int:
        """Characters at the end of the text that a marker begins with."""
        return self._matcher.begun

    def feed(self, text: str) -> list[Part]:
        """What `text` makes certain."""
        parts: list[Part] = []
        while text:
            name, sure = self.inside, self._matcher.feed(text)
            if self._matcher.matched is None:
                return [*parts, Part(name, sure)] if sure else parts
            parts.append(Part(name, sure, ends=True))
            text = self._matcher.rest
            self._cross(self._matcher.matched)
        return parts

    def flush(self) -> list[Part]:
        """What was held back, at the end of the text."""
        held = self._matcher.flush()
        return [Part(self.inside, held)] if held else []

    def _cross(self, marker: str) -> None:
        if self.inside is None:
            names = (name for name, one in self._sections.items() if one.begin == marker)
            self.inside = next(names)
        else:
            self.inside = None
        self._matcher = self._next_matcher()

    def _next_matcher(self) -> StopMatcher:
        if self.inside is not None:
            return StopMatcher([self._sections[self.inside].end])
        return StopMatcher([one.begin for one in self._sections.values()])


def mentioned(template: str | None, known: Iterable[Section]) -> Section | None:
    """The first of `known` whose markers a chat template both mentions."""
    if template is None:
        return None
    return next((one for one in known if one.begin in template and one.end in template), None)
