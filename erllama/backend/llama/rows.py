"""The rows of a decode call: in which order, and with which padding between them. Pure.

With a KV stream for each sequence, llama.cpp computes decode rows as one graph only as far as
their sequence ids rise by one from row to row; each gap begins another graph, which reads all
weights again (`split_equal` in src/llama-batch.cpp). So rows are sorted, and gaps are filled by
padding rows in idle streams, which are dropped again after the call.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from erllama.backend.base import Row
from erllama.errors import DecodeFailed

Spare = Callable[[int], int | None]
"""The position that a padding row of a sequence would take; None: it can take none."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The rows of a call in their order.

    Attributes:
        rows: with the padding among them.
        padding: the sequences of the padding rows.
    """

    rows: Sequence[Row]
    padding: Sequence[int] = ()


def pad_gaps(rows: Sequence[Row], spare: Spare) -> Layout:
    """Sort rows by sequence, and fill the gaps that cost less filled than left."""
    if len(rows) == 1:
        return Layout(rows)
    found = {row.seq: row for row in rows}
    ids = tuple(sorted(found))
    if ids[-1] - ids[0] == len(ids) - 1:
        return Layout([found[seq] for seq in ids])
    idle = [seq for seq in range(ids[0], ids[-1]) if seq not in found and spare(seq) is not None]
    return _with_padding(found, gaps_to_fill(ids, tuple(idle)), spare)


def pad_to(rows: Sequence[Row], n: int, spare: Spare) -> Layout:
    """Sort rows by sequence, and add padding so that sequences 0 to `n` - 1 all have one."""
    found = {row.seq: row for row in rows}
    return _with_padding(found, [seq for seq in range(n) if seq not in found], spare)


@functools.lru_cache(maxsize=256)  # the same sequences decode together for many steps
def gaps_to_fill(ids: tuple[int, ...], idle: tuple[int, ...]) -> tuple[int, ...]:
    """The sequences to pad, so that the graphs of the runs that result take least time.

    Args:
        ids: of the rows, rising.
        idle: sequences between them that can take a row.
    """
    runs = _runs(ids)
    free = set(idle)
    # for the runs up to each one: the least time, and the run where the last graph begins
    best: list[tuple[float, int]] = [(0.0, 0)]
    for last, (_, stop) in enumerate(runs):
        options = []
        for first in range(last, -1, -1):
            if first < last and not free.issuperset(range(runs[first][1], runs[first + 1][0])):
                break
            options.append((best[first][0] + graph_cost(stop - runs[first][0]), first))
        best.append(min(options))
    fill: list[int] = []
    end = len(runs)
    while end:
        first = best[end][1]
        for (_, stop), (start, _) in itertools.pairwise(runs[first:end]):
            fill += range(stop, start)
        end = first
    return tuple(sorted(fill))


def graph_cost(n: int) -> float:
    """About how long a graph of `n` decode rows takes, in units of one with a single row.

    Measured: 125 M parameters, two cores, the mean of Q8_0, Q4_0, Q4_K_M and F16 at 1, 2, 4, 8
    and 16 rows is 1.0, 1.8, 2.4, 3.3 and 4.2. One stream beside another across one idle one is
    thus left apart (2.0 against 2.3), every other stream of ten is filled up (5.0 against 3.5).
    """
    return 1.0 + 0.8 * math.log2(n)


def _runs(ids: Sequence[int]) -> list[tuple[int, int]]:
    """Consecutive ids, as first and one past the last."""
    runs = [(ids[0], ids[0] + 1)]
    for seq in ids[1:]:
        if seq == runs[-1][1]:
            runs[-1] = (runs[-1][0], seq + 1)
        else:
            runs.append((seq, seq + 1))
    return runs


def _with_padding(found: dict[int, Row], fill: Sequence[int], spare: Spare) -> Layout:
    token = next(iter(found.values())).token  # any one that the vocabulary has
    rows = dict(found)
    for seq in fill:
        pos = spare(seq)
        if pos is None:
            raise DecodeFailed(f"sequence {seq} has no cell for a padding row")
        rows[seq] = Row(seq, pos, token)
    return Layout([rows[seq] for seq in sorted(rows)], fill)
