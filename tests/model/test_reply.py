"""What a reply shows: text, thinking and calls, each as its own events."""

from __future__ import annotations

import hashlib
import hmac
import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erllama import Event, Text, ThinkingDelta, ThinkingEnd, ToolCallDelta, ToolCallEnd
from erllama.backend.base import Sampled
from erllama.model.markers import PAYLOAD, THINKING, TOOL_CALL, Markers, Opening
from erllama.model.reply import Reply
from erllama.text import Section

KEY = b"0123456789abcdef"
MARKERS = Markers(
    sections={THINKING: Section("<t>", "</t>"), TOOL_CALL: Section("<c>", "</c>")},
    thinking_end=(60, 47, 116, 62),  # the bytes of "</t>"
    signing_key=KEY,
)
WITH_PAYLOAD = Markers(sections=MARKERS.sections, payload=Section("[", "]"))


def token(piece: bytes, number: int = 1) -> Sampled:
    return Sampled(seq=0, token=number, piece=piece, end=False)


def control(text: str, *, end: bool = False) -> Sampled:
    return Sampled(seq=0, token=900, piece=b"", end=end, special=text.encode())


def read(reply: Reply, pieces: Sequence[bytes]) -> list[Event]:
    last = len(pieces) - 1
    return [
        event
        for at, piece in enumerate(pieces)
        for event in reply.take(token(piece), last=at == last)
    ]


def merged(events: list[Event]) -> list[tuple[Any, str | None]]:
    """Adjacent deltas of a kind as one."""
    found: list[tuple[Any, str | None]] = []
    for event in events:
        text = event.signature if isinstance(event, ThinkingEnd) else getattr(event, "text", "")
        deltas = isinstance(event, Text | ThinkingDelta | ToolCallDelta)
        if deltas and found and found[-1][0] is type(event):
            text = str(found.pop()[1]) + str(text)
        found.append((type(event), text))
    return found


def signature(text: str) -> str:
    return hmac.new(KEY, text.encode(), hashlib.sha256).hexdigest()


SAID = b"a<t>so \xc3\xa9 < \xff</t>\n<c>{1}</c><c> 2</c>z"


@settings(deadline=None)
@given(st.lists(st.integers(1, len(SAID) - 1), max_size=12))
def test_the_events_are_the_same_however_the_bytes_are_cut(cuts: list[int]) -> None:
    ends = [0, *sorted(cuts), len(SAID)]
    reply = Reply(markers=MARKERS)
    events = read(reply, [SAID[a:b] for a, b in itertools.pairwise(ends)])
    thought = "so é < \ufffd"
    assert merged(events) == [
        (Text, "a"),
        (ThinkingDelta, thought),
        (ThinkingEnd, signature(thought)),
        (Text, "\n"),
        (ToolCallDelta, "{1}"),
        (ToolCallEnd, "{1}"),
        (ToolCallDelta, " 2"),
        (ToolCallEnd, " 2"),
        (Text, "z"),
    ]
    assert "".join(reply.text) == "a\nz"
    assert "".join(reply.thinking or ()) == thought
    assert reply.tool_calls == ["{1}", " 2"]
    assert "".join(reply.raw) == SAID.decode("utf-8", "replace")


def test_without_markers_all_is_text() -> None:
    reply = Reply()
    assert merged(read(reply, [SAID])) == [(Text, SAID.decode("utf-8", "replace"))]
    assert reply.thinking is None


def test_a_call_that_is_cut_off_is_no_call() -> None:
    reply = Reply(markers=MARKERS)
    assert merged(read(reply, [b"<c>{1}</", b"c"])) == [(ToolCallDelta, "{1}</c")]
    assert reply.tool_calls == []


def test_thinking_that_is_cut_off_is_there_and_not_signed() -> None:
    reply = Reply(markers=MARKERS)
    assert merged(read(reply, [b"<t>so", b"</"])) == [(ThinkingDelta, "so</")]
    assert reply.thinking is not None
    assert "".join(reply.thinking) == "so</"


def test_thinking_has_begun_with_its_marker_and_without_a_key_is_not_signed() -> None:
    reply = Reply(markers=Markers(sections=MARKERS.sections))
    assert reply.take(token(b"<t>"), last=False) == []
    assert reply.thinking == []
    assert reply.take(token(b"</t>"), last=True) == [ThinkingEnd(None)]


def test_a_prompt_may_have_opened_the_thinking() -> None:
    reply = Reply(markers=MARKERS, opening=Opening(THINKING))
    assert merged(read(reply, [b"so</t>x"])) == [
        (ThinkingDelta, "so"),
        (ThinkingEnd, signature("so")),
        (Text, "x"),
    ]


def test_a_stop_is_looked_for_in_the_text_alone() -> None:
    reply = Reply(["END"], MARKERS)
    events = read(reply, [b"E<t>END</t>ND<c>END</c>yEN", b"Dz"])
    assert "".join(reply.text) == "ENDy"
    assert reply.stop_sequence == "END"
    assert reply.tool_calls == ["END"]
    assert merged(events)[-1] == (Text, "y")


def test_a_control_token_that_is_a_marker_counts_as_its_text() -> None:
    reply = Reply(markers=Markers(sections=MARKERS.sections))
    said = [control("<t>"), token(b"so"), control("</t>"), control("<x>")]
    events = [event for one in said for event in reply.take(one, last=False)]
    assert merged(events) == [(ThinkingDelta, "so"), (ThinkingEnd, None)]


# The budget


def thought(budget: int, pieces: Sequence[bytes], **options: Any) -> tuple[Reply, list[int]]:
    """A reply whose free tokens are these, and the forced ones that came between."""
    reply = Reply(markers=MARKERS, thinking_budget=budget, **options)
    left, forced = list(pieces), []
    while left:
        wanted = reply.forced
        if wanted is None:
            reply.take(token(left.pop(0)), last=False)
        else:
            forced.append(wanted)
            reply.take(token(bytes([wanted]), wanted), last=False)
    return reply, forced


@pytest.mark.parametrize("budget", [0, 1, 3])
def test_the_end_of_thinking_is_forced_once_the_budget_is_used_up(budget: int) -> None:
    reply, forced = thought(budget, [b"x<t>", *([b"o"] * budget), b"y", b"z"])
    assert bytes(forced) == b"</t>"
    assert "".join(reply.thinking or ()) == "o" * budget
    assert "".join(reply.text) == "xyz"


def test_a_budget_that_is_not_used_up_forces_nothing() -> None:
    reply, forced = thought(3, [b"<t>", b"o", b"o", b"o</t>", b"y"])
    assert (forced, "".join(reply.text)) == ([], "y")


def test_an_end_marker_that_has_begun_by_itself_may_be_completed() -> None:
    reply, forced = thought(2, [b"<t>", b"o", b"<", b"/t", b">y"])
    assert (forced, "".join(reply.thinking or ()), "".join(reply.text)) == ([], "o", "y")


def test_an_end_marker_that_is_never_completed_is_not_waited_for() -> None:
    _, forced = thought(1, [b"<t>", *([b"<"] * 6)])
    assert bytes(forced) == b"</t>"


def test_thinking_that_the_prompt_has_opened_has_the_budget_too() -> None:
    reply, forced = thought(0, [b"y"], opening=Opening(THINKING))
    assert (bytes(forced), "".join(reply.text)) == (b"</t>", "y")


def test_the_budget_is_of_all_thinking_together() -> None:
    reply, forced = thought(2, [b"<t>", b"a", b"b</t>", b"<t>", b"c", b"y"])
    assert bytes(forced) == b"</t>"
    assert "".join(reply.thinking or ()) == "abc"


# Greedy syntax


def test_the_syntax_of_a_call_is_greedy_and_its_payload_free() -> None:
    reply = Reply(markers=WITH_PAYLOAD)
    seen = []
    for piece in (b"a", b"<c", b">", b"k[", b"v", b"]", b"k", b"</c>", b"b"):
        reply.take(token(piece), last=False)
        seen.append((piece.decode(), reply.greedy))
    assert [piece for piece, greedy in seen if greedy] == [">", "]", "k"]
    assert reply.tool_calls == ["k[v]k"]


def test_a_payload_that_is_cut_off_with_its_call_does_not_reach_into_the_next() -> None:
    reply = Reply(markers=WITH_PAYLOAD)
    read(reply, [b"<c>[v</c>", b"<c>"])
    assert reply.greedy


def test_only_a_budget_or_a_payload_steers() -> None:
    assert not Reply(markers=MARKERS).steers
    assert Reply(markers=WITH_PAYLOAD).steers
    assert Reply(markers=MARKERS, thinking_budget=9).steers
    assert not Reply(markers=MARKERS, opening=Opening(THINKING)).greedy
    assert PAYLOAD not in WITH_PAYLOAD.sections
