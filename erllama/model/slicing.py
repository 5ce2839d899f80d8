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
