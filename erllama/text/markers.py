"""Sections of a text that arrives in pieces: what lies between a begin and an end marker. Pure.

Outside of a section the first begin marker to complete opens one; of several that complete with
the same character, the longest. Inside, its own end marker alone counts: sections do not nest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from erllama.text.runs import Kind, Runs
from erllama.text.stop import StopMatcher


@dataclass(frozen=True, slots=True)
class Section:
    """The markers around a section.

    Attributes:
        begin: not empty.
        end: empty: the next one of its kind, or the end of the text.
        others: more texts that it may begin with.
        bare: it has no marker: `begin` belongs to what is in it, and counts at the beginning of
            the text only, behind white space.
    """

    begin: str
    end: str
    others: tuple[str, ...] = ()
    bare: bool = False

    @property
    def begins(self) -> tuple[str, ...]:
        """All texts that it may begin with."""
        return (self.begin, *self.others)

    @property
    def ends(self) -> tuple[str, ...]:
        """All texts that it may end with."""
        if self.end:
            return (self.end,)
        return () if self.bare else self.begins


class Part(NamedTuple):
    """A stretch of the text.

    Attributes:
        name: of the section that it lies in; None: outside of all.
        text: without markers; empty where a section begins or ends with nothing certain before.
        ends: its section, or the stretch outside of all, is over behind it.
        kind: of its characters.
    """

    name: str | None
    text: str
    ends: bool = False
    kind: Kind = Kind.TEXT


Sections = Iterable[tuple[str | None, Section]]
"""Sections by name; without a name: its begin markers are dropped where they stand."""


class SectionScanner:
    """Tells apart what lies in which section, and holds back what may begin a marker.

    Args:
        sections: by name; several may have the same.
        inside: the section that the text begins in: the first of this name, or this one.

    Attributes:
        inside: the name of the section that the text is in now; None: in none.
    """

    def __init__(
        self,
        sections: Mapping[str, Section] | Sections,
        *,
        inside: str | None = None,
        section: Section | None = None,
    ) -> None:
        pairs = sections.items() if isinstance(sections, Mapping) else sections
        self._sections: list[tuple[str | None, Section]] = list(pairs)
        self.inside = inside
        if inside is not None and section is None:
            section = next(one for name, one in self._sections if name == inside)
        self._section = section
        self._runs = Runs()
        self._blank = inside is None  # nothing but white space yet
        self._matcher = self._next_matcher()

    @property
    def begun(self) -> int:
        """Characters at the end of the text that a marker begins with."""
        return self._matcher.begun

    def prime(self, begun: str) -> None:
        """What comes before the text is the beginning of a marker, which the text may go on."""
        self._runs.add(len(begun), Kind.END)
        self._matcher.feed(begun)

    def feed(self, text: str, kind: Kind = Kind.TEXT) -> list[Part]:
        """What `text` makes certain."""
        self._runs.add(len(text), kind)
        parts: list[Part] = []
        while text:
            sure, marker = self._matcher.feed(text), self._matcher.matched
            if marker is None:
                return [*parts, *self._parts(sure)]
            text = self._matcher.rest
            parts += self._cross(sure, marker)
        return parts

    def flush(self) -> list[Part]:
        """What was held back, at the end of the text."""
        return self._parts(self._matcher.flush())

    def close(self) -> list[Part]:
        """As `flush`, where the text has come to its own end; so has a section without a marker."""
        parts = self.flush()
        if self._section is None or self._section.end:
            return parts
        name, self.inside, self._section = self.inside, None, None
        return [*parts, Part(name, "", ends=True)]

    def leave(self) -> list[Part]:
        """End the section that the text is in, though its end marker was not met."""
        parts = [*self.flush(), Part(self.inside, "", ends=True)]
        self._go_to(None, None)
        return parts

    def _parts(self, text: str, *, ends: bool = False) -> list[Part]:
        parts = [Part(self.inside, *_swapped(one)) for one in self._runs.take(text)]
        self._blank = self._blank and not text.strip()
        if not ends:
            return parts
        if not parts:
            return [Part(self.inside, "", ends=True)]
        return [*parts[:-1], parts[-1]._replace(ends=True)]

    def _cross(self, sure: str, marker: str) -> list[Part]:
        """A marker has completed behind what is sure."""
        if self._section is not None:
            parts = self._parts(sure, ends=True)
            self._runs.take(marker)
            again = marker != self._section.end
            self._go_to(*(self.inside, self._section) if again else (None, None))
            return parts
        name, section = self._begun_by(marker)
        if not section.bare:
            parts = self._parts(sure, ends=True)
            self._runs.take(marker)
            self._go_to(name, section if name is not None else None)
            return parts
        if not self._blank or sure.strip():
            parts = self._parts(sure + marker)
            self._go_to(None, None)
            return parts
        parts = self._parts(sure, ends=True)
        self._go_to(name, section)
        return [*parts, *self._parts(marker)]

    def _begun_by(self, marker: str) -> tuple[str | None, Section]:
        return next(pair for pair in self._sections if marker in pair[1].begins)

    def _go_to(self, name: str | None, section: Section | None) -> None:
        self.inside, self._section = name, section
        self._blank = self._blank and name is None
        self._matcher = self._next_matcher()

    def _next_matcher(self) -> StopMatcher:
        if self._section is not None:
            return StopMatcher(self._section.ends)
        open_ = [one for _, one in self._sections if self._blank or not one.bare]
        return StopMatcher([begin for one in open_ for begin in one.begins])


def _swapped(run: tuple[str, Kind]) -> tuple[str, bool, Kind]:
    return run[0], False, run[1]
