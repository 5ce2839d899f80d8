from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from erllama.cache import CacheIndex
from erllama.cache.trie import (
    CUT_PURE,
    MIXED,
    WHOLLY_PURE,
    Row,
    Siblings,
    common_prefix,
    nearest,
    prefixes,
)

from .support import ROOT, packed, run, store


@given(st.binary(max_size=40), st.binary(max_size=10), st.binary(max_size=10))
@example(b"abcd", b"", b"")
@example(b"", b"a", b"b")
@example(b"a" * 40, b"", b"a")
def test_the_common_prefix_is_as_long_as_bytes_agree(shared: bytes, a: bytes, b: bytes) -> None:
    one, two = shared + a, shared + b
    expected = 0
    while expected < min(len(one), len(two)) and one[expected] == two[expected]:
        expected += 1
    assert common_prefix(one, two) == expected


short = st.lists(st.integers(1, 3), min_size=1, max_size=6)


def under_root(contexts: list[list[int]], pure: bool) -> CacheIndex:
    index = CacheIndex()
    for context in contexts:
        store(index, context, pure_end=len(context) if pure else 0)
    return index


@given(st.lists(short, max_size=12), short, st.booleans())
def test_the_nearest_sibling_agrees_longest(
    contexts: list[list[int]], prompt: list[int], pure: bool
) -> None:
    index = under_root(contexts, pure)
    expected = [
        next((i for i, (a, b) in enumerate(zip(c, prompt, strict=False)) if a != b),
             min(len(c), len(prompt)))
        for c in contexts
    ]  # fmt: skip
    rows = index.rows_of(ROOT)
    assert rows == ()
    for row_class in (CUT_PURE, WHOLLY_PURE, MIXED):
        if not contexts:
            break
        root = next(iter(index)).node.parent
        assert root is not None
        place = nearest(root, row_class, packed(prompt))
        if pure == (row_class != MIXED):
            assert place is not None
            assert place[1] == max(expected)
        else:
            assert place is None


@given(st.lists(short, max_size=12), short)
def test_prefixes_come_the_longest_first_and_none_is_missed(
    contexts: list[list[int]], prompt: list[int]
) -> None:
    index = under_root(contexts, True)
    if not contexts:
        return
    root = next(iter(index)).node.parent
    assert root is not None
    got = [node.end for node in prefixes(root, WHOLLY_PURE, packed(prompt))]
    assert got == sorted({len(c) for c in contexts if prompt[: len(c)] == c}, reverse=True)


def test_a_mixed_row_stands_among_siblings_by_its_pure_beginning() -> None:
    index = CacheIndex()
    rows = [store(index, run((1, 64), (token, 30)), pure_end=70) for token in range(5, 25)]
    root = rows[0].node.parent
    assert root is not None
    place = nearest(root, CUT_PURE, packed(run((1, 64), (99, 64))))
    assert place is not None
    assert place[1] == 64
    for row in rows:
        assert index.remove(row, "ram")
    assert len(index) == 0
    assert nearest(root, CUT_PURE, packed([1])) is None


def test_a_row_tells_what_it_is() -> None:
    index = CacheIndex()
    row = store(index, run((1, 128), (2, 30)), form="tail", pure_end=140, threads=3, tier="disk")
    assert (row.form, row.pure, row.threads, row.has_logits) == ("tail", False, 3, True)
    assert (row.start, row.end, row.n_tokens, row.tiers) == (128, 158, 30, ("disk",))
    assert row.tokens == packed([2] * 30)
    assert row.id.key == row.key
    assert (row.cut_pure, row.whole) == (0, False)
    assert "128..158" in repr(row)
    assert ".tm3" in repr(row)


def test_objects_of_the_trie_have_no_dictionaries() -> None:
    index = CacheIndex()
    row = store(index, [1, 2])
    store(index, [1, 3])
    for thing in (row, row.node, Siblings()):
        assert not hasattr(thing, "__dict__")
    assert isinstance(row, Row)
