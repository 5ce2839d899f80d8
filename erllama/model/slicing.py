"""Where a prompt is cut. Pure.

The exact-slicing rule: a prompt is cut only at absolute positions that are multiples of the
granule (64 rows), and what is left after the last multiple, the tail, is computed by itself. Rows
computed so are a function of the tokens alone: not of the sizes of the slices, nor of what the
process did before (docs/exact-slicing.md has the measurements). Behind rows that a reply left, a
slice up to the next multiple is computed by itself too: merged into a longer one it would depend
on how long that may be.
"""

from __future__ import annotations

import array


def slice_rows(pos: int, end: int, limit: int, granule: int) -> int:
    """How many rows the next slice takes.

    Args:
        pos: tokens computed so far: a multiple of `granule`, or, behind rows that a reply left,
            anywhere; then the first slice ends at the next multiple.
        end: length of the prompt, above `pos`.
        limit: most rows wanted in one slice; at least one granule is taken.
        granule: rows of the finest cut.

    >>> [slice_rows(pos, 1000, 512, 64) for pos in (0, 512, 960)]
    [512, 448, 40]
    >>> [slice_rows(pos, 1000, limit, 64) for pos, limit in ((260, 512), (260, 64), (320, 512))]
    [60, 60, 512]
    """
    last_cut = end - end % granule
    if pos >= last_cut:
        return end - pos
    if pos % granule:
        return granule - pos % granule
    stop = (pos + limit) // granule * granule
    return min(last_cut, max(stop, pos + granule)) - pos


_FILLED = ((2_048, 40), (1_024, 48))
"""Behind so many tokens, tails of so many rows or more take no longer filled up to 64, and often
less time: 56 rows behind 3,000 tokens a third less (docs/exact-slicing.md)."""


def fill_rows(pos: int, n: int, granule: int) -> int:
    """Rows of padding that a slice is computed with, where the engine can do that.

    A function of the slice alone, as its rows are other numbers with padding and without.

    Args:
        pos: of its first token; only behind a multiple of `granule`, or the padding would need
            cells beyond those of the granule.
        n: its rows.

    >>> [fill_rows(960, 60, 64), fill_rows(1_024, 47, 64), fill_rows(1_024, 48, 64)]
    [0, 0, 16]
    >>> [fill_rows(2_944, 56, 64), fill_rows(2_944, 64, 64), fill_rows(2_950, 50, 64)]
    [8, 0, 0]
    """
    filled = any(pos >= depth and n >= least for depth, least in _FILLED)
    return granule - n if filled and n < granule and pos % granule == 0 else 0


def rows_within(seconds: float, rows_per_s: float, granule: int) -> int:
    """How many rows fit a time, rounded down to the granule; at least one granule.

    >>> rows_within(0.1, 2_000.0, 64)
    192
    """
    rows = int(seconds * rows_per_s)
    return max(rows - rows % granule, granule)


def common_prefix(a: array.array[int], b: array.array[int]) -> int:
    """How many tokens two contexts begin with alike.

    >>> common_prefix(array.array("i", [1, 2, 3]), array.array("i", [1, 2, 4, 5]))
    2
    """
    low, high = 0, min(len(a), len(b))
    view_a, view_b = memoryview(a).cast("B"), memoryview(b).cast("B")
    size = a.itemsize
    while low < high:
        middle = (low + high + 1) // 2
        if bytes(view_a[low * size : middle * size]) == bytes(view_b[low * size : middle * size]):
            low = middle
        else:
            high = middle - 1
    return low
