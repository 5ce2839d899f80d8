"""A text with its stops, which may contain characters that are not shown. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from erllama.text.markers import Part
from erllama.text.runs import Kind, Runs
from erllama.text.stop import StopMatcher


class StoppedText:
    """What lies outside of all sections, as far as it is shown. No stop reaches over a section.

    Attributes:
        matched: the stop that ended it, once one has.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._begin()

    @property
    def matched(self) -> str | None:
        return self._matcher.matched

    def feed(self, part: Part) -> str:
        """What a part makes certain."""
        self._runs.add(len(part.text), part.kind)
        shown = self._shown(self._matcher.feed(part.text))
        if part.ends and self.matched is None:
            shown += self.flush()
            self._begin()
        return shown

    def flush(self) -> str:
        """What was held back, at an end that is not a stop."""
        return self._shown(self._matcher.flush())

    def _begin(self) -> None:
        self._matcher, self._runs = StopMatcher(self._stops), Runs()

    def _shown(self, text: str) -> str:
        return "".join(run for run, kind in self._runs.take(text) if kind == Kind.TEXT)
