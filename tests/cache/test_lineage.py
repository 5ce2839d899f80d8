"""What tells rows of the same tokens apart."""

from __future__ import annotations

import struct

import hypothesis.strategies as st
import pytest
from hypothesis import given

from erllama.cache.lineage import TAG_BYTES, Lineage, unpack, well_formed

BLOCK = 128


@st.composite
def lineages(draw: st.DrawFn) -> tuple[Lineage, int]:
    """What made a context, and how long that is."""
    pure_end = draw(st.integers(0, 300))
    made, end = Lineage(pure_end=pure_end), pure_end
    for _ in range(draw(st.integers(0, 4))):
        reply_end = end + draw(st.integers(1, 90))
        end = reply_end + 1 + draw(st.integers(0, 90))
        made = made.behind(reply_end, end)
    return made, end + draw(st.integers(1, 50))


def told(made: Lineage, end: int) -> tuple[int, Lineage]:
    start = (end - 1) // BLOCK * BLOCK
    return start, made.at(start, BLOCK)


@given(lineages(), st.data())
def test_a_row_says_of_every_prefix_what_a_row_of_that_length_says(
    case: tuple[Lineage, int], data: st.DataObject
) -> None:
    made, length = case
    end = data.draw(st.integers(1, length))
    start, own = told(made, end)
    stored = unpack(start, own.origin, min(own.pure_end, end), own.packed(end))
    assert well_formed(stored, end, own.packed(end))
    shorter = data.draw(st.integers(start + 1, end))
    assert stored.tag(shorter) == own.tag(shorter) == told(made, shorter)[1].tag(shorter)
    assert stored.upto(shorter).tag(shorter) == own.tag(shorter)
    assert len(own.tag(end)) in (0, TAG_BYTES)
    assert (own.tag(end) == b"") == (end <= made.pure_end)


@given(lineages(), lineages(), st.integers(1, 500))
def test_two_contexts_have_one_tag_if_their_rows_were_made_alike(
    one: tuple[Lineage, int], other: tuple[Lineage, int], end: int
) -> None:
    """By a plain account of each row: how it was computed, and with what slice."""

    def account(made: Lineage) -> list[object]:
        rows: list[object] = ["pure"] * min(made.pure_end, end)
        rows += ["alone"] * (end - len(rows))
        for reply_end, text_end in zip(made.cuts[::2], made.cuts[1::2], strict=True):
            for position in range(reply_end + 1, min(text_end, end)):
                # a slice of text begins behind a token, or at a granule, and is cut by `end`
                rows[position] = "text", max(reply_end + 1, position // 64 * 64)
        return rows

    tags = [told(made, end)[1].tag(end) for made, _ in (one, other)]
    accounts = [account(made) for made, _ in (one, other)]
    if tags[0] == tags[1]:
        assert accounts[0] == accounts[1]
    if one[0].pure_end == other[0].pure_end and one[0].cuts == other[0].cuts:
        assert tags[0] == tags[1]


def test_a_token_behind_a_reply_is_what_the_reply_would_have_computed_next() -> None:
    made = Lineage(pure_end=40)
    assert made.behind(49, 50) == made
    assert made.behind(49, 51) != made


def test_the_text_of_a_turn_is_told_from_what_a_reply_said_in_the_same_words() -> None:
    unbroken, typed = Lineage(pure_end=40), Lineage(pure_end=40).behind(43, 47)
    assert unbroken.tag(44) == typed.tag(44)
    assert unbroken.tag(46) != typed.tag(46)
    # and so are all blocks behind
    assert told(unbroken, 400)[1].tag(400) != told(typed, 400)[1].tag(400)


def test_text_that_goes_on_from_the_block_before_is_told_from_text_that_begins_here() -> None:
    before = Lineage(pure_end=40).behind(BLOCK - 1, BLOCK + 9)
    here = Lineage(pure_end=40).behind(BLOCK, BLOCK + 9)
    assert before.tag(BLOCK) == here.tag(BLOCK)
    assert told(before, BLOCK + 5)[1].tag(BLOCK + 5) != told(here, BLOCK + 5)[1].tag(BLOCK + 5)


@pytest.mark.parametrize(
    ("start", "origin", "pure_end", "cuts"),
    [
        (0, b"12345678", 0, ()),
        (128, b"", 5, ()),
        (128, b"123", 5, ()),
        (0, b"", 5, (3, 7)),
        (0, b"", 5, (6, 7)),
        (0, b"", 5, (7, 6)),
        (0, b"", 5, (6, 12)),
        (0, b"", 2, (4, 8, 6, 9)),
        (0, b"", 2, (0xFFFF, 5)),
    ],
)
def test_what_no_row_can_say_is_refused(
    start: int, origin: bytes, pure_end: int, cuts: tuple[int, ...]
) -> None:
    raw = struct.pack(f"<{len(cuts)}H", *cuts)
    assert not well_formed(unpack(start, origin, pure_end, raw), start + 9, raw)
