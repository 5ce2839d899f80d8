"""Sections between markers: told apart alike, however the text is cut into pieces."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from erllama.text import Kind, Part, Section, SectionScanner

TAGS = {"think": Section("<think>", "</think>"), "call": Section("<call>", "</call>")}
# few letters, so that markers overlap with the text, with each other and with themselves
LETTERS = st.sampled_from("ab<")
MARKERS = st.text(LETTERS, min_size=1, max_size=4)
SECTIONS = st.dictionaries(
    st.sampled_from("xyz"), st.builds(Section, begin=MARKERS, end=MARKERS), max_size=3
)
TEXTS = st.text(LETTERS, max_size=40)
CUTS = st.lists(st.integers(0, 40), max_size=12)


def pieces(text: str, cuts: Sequence[int]) -> list[str]:
    ends = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(ends)]


def naive(sections: dict[str, Section], text: str, inside: str | None) -> list[Part]:
    """Character by character: the first marker that is complete, of several the longest."""
    parts, start = [], 0
    for end in range(1, len(text) + 1):
        if inside is None:
            markers = {one.begin: name for name, one in reversed(sections.items())}
        else:
            markers = {sections[inside].end: None}  # type: ignore[dict-item]
        done = [marker for marker in markers if text[start:end].endswith(marker)]
        if done:
            marker = max(done, key=len)
            parts.append(Part(inside, text[start : end - len(marker)], ends=True))
            inside, start = markers[marker], end
    return [*parts, Part(inside, text[start:])]


def merged(parts: list[Part]) -> list[Part]:
    """With each stretch in one part, and the last one there if it is empty too."""
    whole, text = [], ""
    for part in parts:
        text += part.text
        if part.ends:
            whole.append(Part(part.name, text, ends=True))
            text = ""
    return [*whole, Part(None, text)]


def scan(
    sections: dict[str, Section], cut: Sequence[str], inside: str | None = None
) -> tuple[list[Part], str | None]:
    scanner = SectionScanner(sections, inside=inside)
    parts = [part for piece in cut for part in scanner.feed(piece)]
    return [*parts, *scanner.flush()], scanner.inside


@settings(max_examples=500, deadline=None)
@example(sections={"x": Section("ab", "aab")}, text="abaaab", cuts=[3], begins=False)
@example(sections={"x": Section("a", "b")}, text="abab", cuts=[], begins=True)
@given(sections=SECTIONS, text=TEXTS, cuts=CUTS, begins=st.booleans())
def test_sections_are_those_of_the_whole_text_whatever_the_pieces(
    sections: dict[str, Section], text: str, cuts: list[int], begins: bool
) -> None:
    inside = next(iter(sections), None) if begins else None
    expected = naive(sections, text, inside)
    parts, ends_in = scan(sections, pieces(text, cuts), inside)
    assert ends_in == expected[-1].name
    assert merged(parts) == [*expected[:-1], expected[-1]._replace(name=None)]
    assert [part.name for part in parts if part.ends] == [p.name for p in expected if p.ends]


@given(text=TEXTS, cuts=CUTS)
def test_no_more_is_held_back_than_may_begin_a_marker(text: str, cuts: list[int]) -> None:
    scanner = SectionScanner({"x": Section("<ab", "b<a")})
    shown = fed = ""
    for piece in pieces(text, cuts):
        fed += piece
        for part in scanner.feed(piece):
            shown += part.text
            if part.ends:
                return
        marker = "<ab"
        begun = next(n for n in (2, 1, 0) if fed.endswith(marker[:n]))
        assert scanner.begun == begun
        assert shown == fed[: len(fed) - begun]


def test_one_piece_may_hold_several_sections() -> None:
    parts, inside = scan(TAGS, ["a<think>b</think>c<call>d</call><call>"])
    assert parts == [
        Part(None, "a", ends=True),
        Part("think", "b", ends=True),
        Part(None, "c", ends=True),
        Part("call", "d", ends=True),
        Part(None, "", ends=True),
    ]
    assert inside == "call"


def test_sections_do_not_nest() -> None:
    parts, _ = scan(TAGS, ["<think>a<call>b</call></think>"])
    assert [part for part in parts if part.name] == [Part("think", "a<call>b</call>", ends=True)]


# Control tokens, whose text is not shown


def parts(scanner: SectionScanner, *said: tuple[str, Kind]) -> list[Part]:
    found = [part for text, kind in said for part in scanner.feed(text, kind)]
    return [*found, *scanner.flush()]


def test_a_marker_may_be_text_and_control_tokens_in_any_mix() -> None:
    marker = "<|c|>think<|m|>"
    sections = {"think": Section(marker, "<|e|>")}
    spans = ["<|c|>", "think", "<|m|>"]
    for kinds in itertools.product((Kind.TEXT, Kind.CONTROL), repeat=3):
        said = [*zip(spans, kinds, strict=True), ("x", Kind.TEXT), ("<|e|>", Kind.CONTROL)]
        scanner = SectionScanner(sections)
        found = parts(scanner, *said, ("y", Kind.TEXT))
        assert [(part.name, part.text) for part in found if part.text] == [
            ("think", "x"),
            (None, "y"),
        ]


def test_what_is_no_marker_after_all_keeps_its_kinds() -> None:
    scanner = SectionScanner({"think": Section("<|c|>think<|m|>", "<|e|>")})
    found = parts(scanner, ("a", Kind.TEXT), ("<|c|>", Kind.CONTROL), ("thin", Kind.TEXT))
    assert found == [
        Part(None, "a"),
        Part(None, "<|c|>", kind=Kind.CONTROL),
        Part(None, "thin"),
    ]


def test_a_text_goes_on_a_marker_that_was_begun_before_it() -> None:
    sections = {"think": Section("<|s|>a<|c|>", "<|e|>")}
    scanner = SectionScanner(sections)
    scanner.prime("<|s|>a")
    assert parts(scanner, ("<|c|>", Kind.CONTROL), ("x", Kind.TEXT))[-1] == Part("think", "x")
    scanner = SectionScanner(sections)
    scanner.prime("<|s|>a")
    shown = [part for part in parts(scanner, ("bc", Kind.TEXT)) if part.kind == Kind.TEXT]
    assert shown == [Part(None, "bc")]


def test_a_section_without_an_end_ends_with_the_next_one_or_with_the_text() -> None:
    scanner = SectionScanner({"call": Section("[C]", "")})
    found = [*scanner.feed("a[C]x[C]y"), *scanner.close()]
    assert [part for part in found if part.text or part.ends] == [
        Part(None, "a", ends=True),
        Part("call", "x", ends=True),
        Part("call", "y"),
        Part("call", "", ends=True),
    ]
    cut = SectionScanner({"call": Section("[C]", "")})
    assert [*cut.feed("[C]x"), *cut.flush()][-1] == Part("call", "x")


BARE = {"call": Section('{"name":', "", bare=True)}


@pytest.mark.parametrize("text", ['{"name": 1}', ' \n{"name": {"name": 2}}'])
def test_a_bare_section_is_the_whole_text(text: str) -> None:
    for size in range(1, len(text) + 1):
        scanner = SectionScanner(BARE)
        cut = [text[at : at + size] for at in range(0, len(text), size)]
        found = [part for piece in cut for part in scanner.feed(piece)] + scanner.close()
        assert "".join(p.text for p in found if p.name == "call") == text.strip()
        assert found[-1] == Part("call", "", ends=True)


def test_a_bare_section_begins_nowhere_else() -> None:
    text = 'so {"name": 1} {"name":'
    scanner = SectionScanner(BARE)
    found = [*scanner.feed(text), *scanner.close()]
    assert "".join(part.text for part in found) == text
    assert not any(part.name or part.ends for part in found)


def test_a_frame_is_dropped_where_it_stands() -> None:
    scanner = SectionScanner([(None, Section("<f>", "")), ("call", Section("<c>", "</c>"))])
    found = [*scanner.feed("<f>a<f>b<c><f></c>"), *scanner.flush()]
    assert [(p.name, p.text) for p in found if p.text] == [
        (None, "a"),
        (None, "b"),
        ("call", "<f>"),
    ]
