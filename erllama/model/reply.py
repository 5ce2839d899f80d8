"""The reply of a model as its readers see it: from sampled tokens to events. Pure.

Bytes become whole characters, these are told apart by the model's markers, and what lies outside
of thinking and calls goes past the stop sequences.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from erllama.backend.base import Sampled
from erllama.model.markers import PAYLOAD, THINKING, TOOL_CALL, Markers
from erllama.text import Part, SectionScanner, StopMatcher, Utf8Decoder
from erllama.types import Event, Text, ThinkingDelta, ThinkingEnd, ToolCallDelta, ToolCallEnd


class Reply:
    """What was sampled so far.

    Args:
        stops: texts that end it.
        markers: of the model; None: all of it is plain text.
        inside: the section that it begins in, because the prompt has opened it.
        thinking_budget: most tokens of thinking; None: no limit.

    Attributes:
        raw: all of its text, markers included, in pieces.
        ends: for each of its tokens, how many characters of `raw` stand before the next one; of
            one that ends within a character, as many as before it.
        text: what lies outside of thinking and of calls, in pieces.
        thinking: what it thinks, in pieces; None: it has not thought.
        tool_calls: its calls that were ended.
        stop_sequence: the stop that ended it, once one has.
    """

    def __init__(
        self,
        stops: Sequence[str] = (),
        markers: Markers | None = None,
        *,
        inside: str | None = None,
        thinking_budget: int | None = None,
    ) -> None:
        self.raw: list[str] = []
        self.ends: list[int] = []
        self._given = 0  # characters of `raw`
        self.text: list[str] = []
        self.thinking: list[str] | None = [] if inside == THINKING else None
        self.tool_calls: list[str] = []
        self.stop_sequence: str | None = None
        self._stops = stops
        self._markers = markers or Markers()
        self._decoder = Utf8Decoder()
        self._stop = StopMatcher(stops)
        self._scanner = SectionScanner(self._markers.sections, inside=inside)
        self._section: list[str] = []  # of the section that it is in
        self._budget = thinking_budget
        self._thought = 0  # tokens
        self._forced: list[int] = []
        self._payload = self._payload_scanner()
        self._plain = not (stops or self._markers.sections or inside)
        self._see_to_budget()

    @property
    def steers(self) -> bool:
        """Whether its text may decide how its next token is chosen."""
        return self._budget is not None or self._markers.payload is not None

    @property
    def forced(self) -> int | None:
        """What its next token has to be; None: it is free."""
        return self._forced[0] if self._forced else None

    @property
    def greedy(self) -> bool:
        """Whether its next token belongs to the syntax of a call."""
        payload = self._payload
        return self._scanner.inside == TOOL_CALL and payload is not None and payload.inside is None

    def take(self, sampled: Sampled, *, last: bool) -> list[Event]:
        """Go on with a token.

        Args:
            last: nothing comes behind it, so nothing is held back.
        """
        events: list[Event] = []
        if self._plain:  # as most are: there is nothing to look for
            self._show_text(self._decoded(sampled, last), sampled, events)
            return events
        thought = self._scanner.inside == THINKING
        for part in self._parts(sampled, last):
            self._show(part, sampled, events)
            if self.stop_sequence is not None:
                return events
        if self.thinking is None and self._scanner.inside == THINKING:
            self.thinking = []
        if last:
            self._show_text(self._stop.flush(), sampled, events)
        self._thought += thought and self._scanner.inside == THINKING
        self._forced = self._forced[1:]
        self._see_to_budget()
        return events

    def _parts(self, sampled: Sampled, last: bool) -> list[Part]:
        parts = self._scanner.feed(self._decoded(sampled, last))
        return [*parts, *self._scanner.flush()] if last else parts

    def _decoded(self, sampled: Sampled, last: bool) -> str:
        """The characters that a token completes."""
        piece = sampled.piece or self._markers.spelled.get(sampled.token, "").encode()
        text = self._decoder.feed(piece)
        if last:
            text += self._decoder.flush()
        self.raw.append(text)
        self._given += len(text)
        before = self.ends[-1] if self.ends else 0
        self.ends.append(self._given if self._decoder.whole else before)
        return text

    def _show(self, part: Part, sampled: Sampled, events: list[Event]) -> None:
        if part.name is None:
            self._show_outside(part, sampled, events)
            return
        self._section.append(part.text)
        if part.name == THINKING:
            self._think(part, events)
        else:
            self._call(part, events)
        if part.ends:
            self._section = []

    def _show_outside(self, part: Part, sampled: Sampled, events: list[Event]) -> None:
        shown = self._stop.feed(part.text)
        self.stop_sequence = self._stop.matched
        if part.ends and self.stop_sequence is None:  # no stop reaches over a section
            shown += self._stop.flush()
            self._stop = StopMatcher(self._stops)
        self._show_text(shown, sampled, events)

    def _show_text(self, text: str, sampled: Sampled, events: list[Event]) -> None:
        if not text:
            return
        self.text.append(text)
        if events and isinstance(events[-1], Text):
            text = events.pop().text + text  # type: ignore[union-attr]
        logprob = None if sampled.logprobs is None else sampled.logprobs.logprob
        events.append(Text(text, sampled.token, logprob))

    def _think(self, part: Part, events: list[Event]) -> None:
        self.thinking = self.thinking or []
        self.thinking.append(part.text)
        if part.text:
            events.append(ThinkingDelta(part.text))
        if part.ends:
            events.append(ThinkingEnd(self._signature("".join(self._section))))

    def _call(self, part: Part, events: list[Event]) -> None:
        if self._payload is not None:
            self._payload.feed(part.text)
        if part.text:
            events.append(ToolCallDelta(part.text))
        if part.ends:
            call = "".join(self._section)
            self.tool_calls.append(call)
            events.append(ToolCallEnd(call))
            self._payload = self._payload_scanner()

    def _payload_scanner(self) -> SectionScanner | None:
        payload = self._markers.payload
        return None if payload is None else SectionScanner({PAYLOAD: payload})

    def _signature(self, thought: str) -> str | None:
        key = self._markers.signing_key
        return None if key is None else hmac.new(key, thought.encode(), hashlib.sha256).hexdigest()

    def _see_to_budget(self) -> None:
        """Force the end of thinking once its tokens are used up.

        An end marker that has begun by itself may go on: begun anew, a piece of it would stay.
        """
        if self._budget is None or self._forced or self._scanner.inside != THINKING:
            return
        end = self._markers.thinking_end
        patience = len(end) if self._scanner.begun else 0
        if self._thought >= self._budget + patience:
            self._forced = list(end)
