"""Stop sequences: the text ends before the first match, however it is cut into pieces."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from erllama.text import StopMatcher

# few letters, so that stops overlap with the text, with each other and with themselves
LETTERS = st.sampled_from("abé")
STOPS = st.lists(st.text(LETTERS, min_size=1, max_size=6), max_size=5)
TEXTS = st.text(LETTERS, max_size=40)
CUTS = st.lists(st.integers(0, 40), max_size=12)


def pieces(text: str, cuts: Sequence[int]) -> list[str]:
    ends = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(ends)]


def naive(stops: Sequence[str], text: str) -> tuple[str, str | None]:
    """The text before the match that completes first, and that match."""
    for end in range(1, len(text) + 1):
        done = [stop for stop in stops if text[:end].endswith(stop)]
        if done:
            longest = max(done, key=len)
            return text[: end - len(longest)], longest
    return text, None


def could_begin(stops: Sequence[str], text: str) -> int:
    """The length of the longest end of `text` that a stop begins with."""
    return max(
        (n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0
    )


@settings(max_examples=500)
@example(stops=["aab"], text="aaab", cuts=[1])
@given(stops=STOPS, text=TEXTS, cuts=CUTS)
def test_the_text_ends_before_the_first_match_whatever_the_pieces(
    stops: list[str], text: str, cuts: list[int]
) -> None:
    matcher = StopMatcher(stops)
    shown = "".join([matcher.feed(piece) for piece in pieces(text, cuts)]) + matcher.flush()
    assert (shown, matcher.matched) == naive(stops, text)


@given(stops=STOPS, text=TEXTS, cuts=CUTS)
def test_no_more_is_held_back_than_may_begin_a_stop(
    stops: list[str], text: str, cuts: list[int]
) -> None:
    matcher = StopMatcher(stops)
    fed = shown = ""
    for piece in pieces(text, cuts):
        fed += piece
        shown += matcher.feed(piece)
        if matcher.matched is not None:
            return
        assert shown == fed[: len(fed) - could_begin(stops, fed)]


def test_the_match_that_completes_first_wins_over_one_that_began_earlier() -> None:
    matcher = StopMatcher(["abcd", "bc"])
    assert matcher.feed("xabcd") == "xa"
    assert matcher.matched == "bc"


def test_of_two_that_complete_together_the_longest_wins() -> None:
    for stops in (["bc", "abc"], ["abc", "bc"]):
        matcher = StopMatcher(stops)
        assert (matcher.feed("xabc"), matcher.matched) == ("x", "abc")


def test_what_follows_a_match_is_dropped_in_this_piece_and_later() -> None:
    matcher = StopMatcher(["\n\n"])
    assert matcher.feed("one\n") == "one"
    assert matcher.feed("\ntwo") == ""
    assert matcher.feed("three") == ""
    assert (matcher.flush(), matcher.matched) == ("", "\n\n")


def test_an_ordinary_end_gives_out_what_was_held_back_once() -> None:
    matcher = StopMatcher(["</s>"])
    assert matcher.feed("so</") == "so"
    assert matcher.flush() == "</"
    assert matcher.flush() == ""
    assert matcher.matched is None


def test_without_stops_everything_passes_at_once() -> None:
    assert StopMatcher([]).feed("anything") == "anything"


def test_an_empty_stop_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one character"):
        StopMatcher(["a", ""])


class Counted(str):
    """A text that counts how often one of its characters is looked at."""

    looks = 0

    def __getitem__(self, at: object) -> str:
        Counted.looks += 1
        return super().__getitem__(at)  # type: ignore[index]


def test_stops_that_nearly_match_everywhere_cost_no_more_than_the_length_of_the_text() -> None:
    n = 1_000
    matcher = StopMatcher(["a" * n + "b"])
    Counted.looks = 0
    shown = "".join(matcher.feed(Counted("a" * 50)) for _ in range(10 * n // 50))
    assert len(shown) == 9 * n
    assert Counted.looks < 4 * 10 * n
