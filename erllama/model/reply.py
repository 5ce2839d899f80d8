"""The reply of a model as its readers see it: from sampled tokens to events. Pure.

Bytes become whole characters, these are told apart by the model's markers, and what lies outside
of thinking and calls goes past the stop sequences.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from erllama.backend.base import Sampled
from erllama.model.markers import PAYLOAD, THINKING, TOOL_CALL, Markers, Opening
from erllama.text import Kind, Part, SectionScanner, StoppedText, Utf8Decoder
from erllama.types import Event, Text, ThinkingDelta, ThinkingEnd, ToolCallDelta, ToolCallEnd

NOTHING = Opening()
_SHOWN_IN = {THINKING: (Kind.TEXT,), TOOL_CALL: (Kind.TEXT, Kind.CONTROL)}
"""A call may have control tokens between its name and its arguments, which say what is which."""


class Reply:
    """What was sampled so far.

    Args:
        stops: texts that end it.
        markers: of the model; None: all of it is plain text.
        opening: what it begins in, because the prompt has opened or begun it.
        thinking_budget: most tokens of thinking; None: no limit.

    Attributes:
        raw: all of its text, markers included, in pieces.
        ends: for each of its tokens, how many characters of `raw` stand before the next one; of
            one that ends within a character, as many as before it.
        text: what lies outside of thinking and of calls, in pieces.
        thinking: what it thinks, in pieces; None: it has not thought.
        tool_calls: its calls that were ended.
    """

    def __init__(
        self,
        stops: Sequence[str] = (),
        markers: Markers | None = None,
        *,
        opening: Opening = NOTHING,
        thinking_budget: int | None = None,
    ) -> None:
        self.raw: list[str] = []
        self.ends: list[int] = []
        self._given = 0  # characters of `raw`
        self.text: list[str] = []
        self.thinking: list[str] | None = [] if opening.name == THINKING else None
        self.tool_calls: list[str] = []
        self._markers = markers or Markers()
        self._decoder = Utf8Decoder()
        self._outside = StoppedText(stops)
        self._scanner = SectionScanner(
            self._markers.all, inside=opening.name, section=opening.section
        )
        self._scanner.prime(opening.begun)
        self._section: list[str] = []  # of the section that it is in
        self._budget = thinking_budget
        self._thought = 0  # tokens
        self._forced: list[int] = []
        self._payload = self._payload_scanner()
        self._plain = not (stops or self._markers.all or opening.name)
        self._see_to_budget()

    @property
    def stop_sequence(self) -> str | None:
        """The stop that ended it, once one has."""
        return self._outside.matched

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
        shown, control = self._decoded(sampled, last)
        if self._plain:  # as most are: there is nothing to look for
            self._show_text(shown, sampled, events)
            return events
        thought = self._scanner.inside == THINKING
        for part in self._parts(shown, control, sampled.end, last):
            self._show(part, sampled, events)
            if self.stop_sequence is not None:
                return events
        if self.thinking is None and self._scanner.inside == THINKING:
            self.thinking = []
        if last:
            self._show_text(self._outside.flush(), sampled, events)
        self._thought += thought and self._scanner.inside == THINKING
        self._go_on_forcing(sampled, events)
        return events

    def _parts(self, shown: str, control: str, ended: bool, last: bool) -> list[Part]:
        scanner = self._scanner
        parts = scanner.feed(shown)
        parts += scanner.feed(control, Kind.END if ended else Kind.CONTROL)
        if not last:
            return parts
        return [*parts, *(scanner.close() if ended else scanner.flush())]

    def _decoded(self, sampled: Sampled, last: bool) -> tuple[str, str]:
        """The characters that a token completes, and those that a control token is called by."""
        shown = self._decoder.feed(sampled.piece)
        if last:
            shown += self._decoder.flush()
        control = "" if sampled.piece else sampled.special.decode("utf-8", "replace")
        self.raw.append(shown + control)
        self._given += len(shown) + len(control)
        before = self.ends[-1] if self.ends else 0
        self.ends.append(self._given if self._decoder.whole else before)
        return shown, control

    def _show(self, part: Part, sampled: Sampled, events: list[Event]) -> None:
        if part.name is None:
            self._show_text(self._outside.feed(part), sampled, events)
            return
        text = part.text if part.kind in _SHOWN_IN[part.name] else ""
        self._section.append(text)
        if part.name == THINKING:
            self._think(text, events)
        else:
            self._call(text, events)
        if part.ends:
            self._end_section(part.name, events)

    def _show_text(self, text: str, sampled: Sampled, events: list[Event]) -> None:
        if not text:
            return
        self.text.append(text)
        if events and isinstance(events[-1], Text):
            text = events.pop().text + text  # type: ignore[union-attr]
        logprob = None if sampled.logprobs is None else sampled.logprobs.logprob
        events.append(Text(text, sampled.token, logprob))

    def _think(self, text: str, events: list[Event]) -> None:
        self.thinking = self.thinking or []
        self.thinking.append(text)
        if text:
            events.append(ThinkingDelta(text))

    def _call(self, text: str, events: list[Event]) -> None:
        if self._payload is not None:
            self._payload.feed(text)
        if text:
            events.append(ToolCallDelta(text))

    def _end_section(self, name: str, events: list[Event]) -> None:
        said, self._section = "".join(self._section), []
        if name == THINKING:
            events.append(ThinkingEnd(self._signature(said)))
            return
        self.tool_calls.append(said)
        events.append(ToolCallEnd(said))
        self._payload = self._payload_scanner()

    def _payload_scanner(self) -> SectionScanner | None:
        payload = self._markers.payload
        return None if payload is None else SectionScanner({PAYLOAD: payload})

    def _signature(self, thought: str) -> str | None:
        key = self._markers.signing_key
        return None if key is None else hmac.new(key, thought.encode(), hashlib.sha256).hexdigest()

    def _go_on_forcing(self, sampled: Sampled, events: list[Event]) -> None:
        """A token was drawn: the next of an end marker that is forced is due."""
        done = len(self._forced) == 1
        self._forced = self._forced[1:]
        if done and self._scanner.inside == THINKING and not self._scanner.begun:
            # these tokens are the marker, even if this vocabulary does not spell it as it is
            for part in self._scanner.leave():
                self._show(part, sampled, events)
        self._see_to_budget()

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
