"""Prompt slices of several sequences in one call: are they what each would be alone, bit for bit?

    python -m benchmarks.exact_company [--time] [MODEL…]

Each trial gives up to 8 KV streams a prefix each, computes a slice of each sequence in one
`llama_decode`, and the same slices in a call each; then it compares the last logits and all KV
rows of all sequences. MODEL is one of `tiny`, `wide`, `m125` with a type, as in `wide-Q4_K_M`, or
the path of a GGUF file. `--time` measures what one call saves for 8 slices of 32 and of 64 rows.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.child import random_prompt
from benchmarks.harness import in_turns
from benchmarks.plain_batch import PlainBatch
from benchmarks.plain_loop import GRANULE

N_SEQ = 8
SOURCE = N_SEQ
"""The stream that the others are copied from."""

PREFIX = 1_024
N_CTX = 1_536
UBATCH = 512
MODELS = ("tiny-F16", "tiny-Q8_0", "tiny-Q4_0", "wide-F16", "wide-Q8_0", "wide-Q4_0", "wide-Q4_K_M")
TAILS = (2, 3, 4, 5, 7, 8, 9, 12, 16, 17, 31, 32, 48, 63)
OUTPUTS = (1, 8)
"""Rows of each slice that have logits: the kernels of the last layer go by their number."""


@dataclass(frozen=True)
class Trial:
    """Slices in one call.

    Args:
        kind: the line of the table.
        starts: rows that each sequence has already.
        rows: rows of each slice.
    """

    kind: str
    starts: tuple[int, ...]
    rows: tuple[int, ...]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--time", action="store_true")
    chosen = parser.parse_args(arguments)
    for name in chosen.models:
        for flash_attn in (True, False):
            loop = PlainBatch(_path(name), N_CTX, N_SEQ + 1, flash_attn=flash_attn)
            _fill(loop)
            report = _times(loop) if chosen.time else _table(loop)
            for line in report:
                print(f"{name:<12} fa {'on ' if flash_attn else 'off'} {line}", flush=True)
            loop.close()


def _table(loop: PlainBatch) -> Iterator[str]:
    kinds: dict[str, dict[tuple[int, ...], set[str]]] = {}
    for trial in trials():
        kinds.setdefault(trial.kind, {})[trial.rows] = _differences(loop, trial)
    for kind, found in kinds.items():
        yield f"{kind:<28} of {len(found):>2} equal: " + ", ".join(
            f"{what} {_equal(found, what)}" for what in ("rows", *map(_logits, OUTPUTS))
        )


def _equal(found: dict[tuple[int, ...], set[str]], what: str) -> str:
    wrong = [rows for rows, differences in found.items() if what in differences]
    shown = " ".join(
        f"{len(rows)}x{rows[0]}" if len(set(rows)) == 1 else "+".join(map(str, rows))
        for rows in wrong
    )
    return f"{len(found) - len(wrong)}" + (f" (not {shown})" if wrong else "")


def _logits(outputs: int) -> str:
    return f"logits of {outputs}"


def trials() -> Iterator[Trial]:
    """All combinations of the table, the same at each call."""
    source = random.Random(1)
    for count in (2, 3, 8):
        for tail in TAILS:
            if count * tail > UBATCH:
                continue
            same = GRANULE * source.randrange(1, 8)
            yield Trial(f"tails, same position, {count}", (same,) * count, (tail,) * count)
            starts = tuple(GRANULE * source.randrange(1, 16) for _ in range(count))
            yield Trial(f"tails, any positions, {count}", starts, (tail,) * count)
    for count in (2, 3, 4, 8):
        for rows in range(GRANULE, UBATCH // count + 1, GRANULE):
            starts = tuple(GRANULE * source.randrange(12) for _ in range(count))
            yield Trial("slices of 64 n, equal", starts, (rows,) * count)
    for mixed in ((64, 128), (128, 64), (64, 448), (320, 192), (64, 64, 384), (128, 192, 64)):
        starts = tuple(GRANULE * source.randrange(8) for _ in mixed)
        yield Trial("slices of 64 n, unequal", starts, mixed)
    for mixed in ((65, 65), (100, 100), (64, 100), (127, 200), (70, 90, 110), (63, 64), (20, 128)):
        yield Trial("slices of other lengths", (GRANULE,) * len(mixed), mixed)
    for mixed in ((8, 9), (16, 48), (62, 63), (5, 6, 7), (2, 60)):
        yield Trial("tails, unequal", (GRANULE,) * len(mixed), mixed)
    for count in (2, 4, 8):
        yield Trial("tails of one row", (GRANULE * 9,) * count, (1,) * count)


def _differences(loop: PlainBatch, trial: Trial) -> set[str]:
    """What differs between the slices in one call and in a call each."""
    found: set[str] = set()
    for outputs in OUTPUTS:
        alone, together = (_compute(loop, trial, outputs, one) for one in (False, True))
        found |= {"rows"} if alone[0] != together[0] else set()
        found |= {_logits(outputs)} if alone[1] != together[1] else set()
    return found


def _compute(
    loop: PlainBatch, trial: Trial, outputs: int, one_call: bool
) -> tuple[list[bytes], list[bytes]]:
    """The KV rows and the last logits of all sequences."""
    _begin(loop, trial.starts)
    sequences = range(len(trial.rows))
    slices = _slices(loop, trial.rows)
    if one_call:
        loop.slices(sequences, slices, trial.starts, outputs)
        ends = [sum(trial.rows[: sequence + 1]) - 1 for sequence in sequences]
        logits = [loop.logits(end).tobytes() for end in ends]
    else:
        logits = []
        for sequence, tokens, start in zip(sequences, slices, trial.starts, strict=True):
            loop.slices([sequence], [tokens], [start], outputs)
            logits.append(loop.logits(-1).tobytes())
    return [loop.state(sequence) for sequence in sequences], logits


def _slices(loop: PlainBatch, rows: Sequence[int]) -> list[list[int]]:
    return [random_prompt(count, sum(rows) + seed, loop.n_vocab) for seed, count in enumerate(rows)]


def _fill(loop: PlainBatch) -> None:
    """Compute the prefix that all sequences begin with, in a stream of its own."""
    loop.clear()
    prefix = random_prompt(PREFIX, 0, loop.n_vocab)
    for begin in range(0, PREFIX, UBATCH):
        loop.slice(SOURCE, prefix[begin : begin + UBATCH], begin)


def _begin(loop: PlainBatch, starts: Sequence[int]) -> None:
    """Give each sequence so many rows of the prefix; the others have none."""
    for sequence in range(N_SEQ):
        loop.drop(sequence)
    for sequence, start in enumerate(starts):
        loop.copy(SOURCE, sequence)
        loop.truncate(sequence, start)


def _times(loop: PlainBatch, turns: int = 9) -> Iterator[str]:
    for rows, start in ((32, PREFIX), (GRANULE, 0), (GRANULE, PREFIX)):
        each, one, eight = _medians(loop, rows, start, turns)
        yield (
            f"{N_SEQ} slices of {rows} at {start}: a call each {each:.0f} ms, "
            f"with {OUTPUTS[1]} logits each {eight:.0f} ms, in one call {one:.0f} ms"
        )


def _medians(loop: PlainBatch, rows: int, start: int, turns: int) -> list[float]:
    """Milliseconds in a call each, in one call, and in a call each with more logits."""
    slices = _slices(loop, [rows] * N_SEQ)
    ways = ((False, 1), (True, 1), (False, OUTPUTS[1]))
    taken: dict[tuple[bool, int], list[float]] = {way: [] for way in ways}
    for _, order in in_turns(ways, turns):
        for together, outputs in order:
            _begin(loop, [start] * N_SEQ)
            seconds = _seconds(loop, slices, start, together, outputs)
            taken[together, outputs].append(seconds * 1e3)
    return [statistics.median(values[1:]) for values in taken.values()]


def _seconds(
    loop: PlainBatch, slices: Sequence[Sequence[int]], start: int, together: bool, outputs: int
) -> float:
    begun = time.perf_counter()
    if together:
        loop.slices(range(N_SEQ), slices, [start] * N_SEQ, outputs)
    else:
        for sequence, tokens in enumerate(slices):
            loop.slices([sequence], [tokens], [start], outputs)
    loop.sample(-1)
    return time.perf_counter() - begun


def _path(name: str) -> str:
    from tests.models.cache import cached_model
    from tests.models.shapes import M125, TINY, WIDE

    shape, _, quant = name.partition("-")
    shapes = {"tiny": TINY, "wide": WIDE, "m125": M125}
    return str(cached_model(shapes[shape], quant)) if shape in shapes else name  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
