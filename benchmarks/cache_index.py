"""The cache index at 100,000 blocks: lookup, insert and evict times, and memory per row.

    python -m benchmarks.cache_index [--rows 100000]

Needs no model. Prints the chain's SHA-256 alone beside the lookup, as the floor it stands on.
"""

from __future__ import annotations

import argparse
import array
import hashlib
import random
import statistics
import time
import tracemalloc
from collections.abc import Callable

from erllama.cache import CacheIndex, Lineage, Query, RowMeta, chain, token_bytes

ROOT = hashlib.sha256(b"namespace").digest()
TOKEN_ROW_BYTES = 12_288


def metas(root: bytes, tokens: bytes, *, shape: str) -> list[RowMeta]:
    """The rows of one conversation; the last, shorter block as a tail."""
    rows, start = [], 0
    for parent, own, key in chain(root, tokens):
        end = start + len(own) // 4
        made = Lineage(pure_end=len(tokens) if shape == "pure" else 256)
        rows.append(
            RowMeta(
                namespace=ROOT,
                parent=parent,
                key=key,
                form="tail" if end % 256 else "block",
                start=start,
                tokens=own,
                pure_end=min(end, made.pure_end),
                origin=made.at(start, 256).origin,
                token_bytes=TOKEN_ROW_BYTES,
                n_logits=32_000 if end % 256 else 0,
            )
        )
        start = end
    return rows


def random_tokens(rng: random.Random, n: int) -> array.array[int]:
    return array.array("i", [rng.randrange(32_000) for _ in range(n)])


def best_and_median(call: Callable[[], object], repeats: int = 200) -> tuple[float, float]:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times), statistics.median(times)


def conversations(n_rows: int) -> list[RowMeta]:
    """Half long chains of 118 rows, half short ones of three rows over one shared prompt."""
    rng = random.Random(1)
    rows: list[RowMeta] = []
    while len(rows) < n_rows // 2:
        rows += metas(ROOT, token_bytes(random_tokens(rng, 30_100)), shape="pure")
    shared = random_tokens(rng, 1_024)
    while len(rows) < n_rows:
        own = token_bytes(shared + random_tokens(rng, 600))
        rows += metas(ROOT, own, shape="mixed")[4:]
    return rows


def bytes_per_row(rows: list[RowMeta]) -> float:
    """What the index takes for a row, beside its tokens."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    counted = CacheIndex()
    # Keys and tokens as a scan of files would bring them: each row with objects of its own.
    for meta in rows:
        counted.insert(
            RowMeta(
                namespace=meta.namespace,
                parent=bytes(bytearray(meta.parent)),
                key=bytes(bytearray(meta.key)),
                form=meta.form,
                start=meta.start,
                tokens=bytes(bytearray(meta.tokens)),
                pure_end=meta.pure_end,
                origin=bytes(bytearray(meta.origin)),
                token_bytes=meta.token_bytes,
                n_logits=meta.n_logits,
            ),
            4_096 + len(meta.tokens) * 3_072,
            "disk",
            now=1.5,
        )
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return (used - sum(len(row.tokens) for row in counted)) / len(counted)


def filled(rows: list[RowMeta]) -> CacheIndex:
    """An index that holds rows, each younger than the one before."""
    index = CacheIndex()
    for i, meta in enumerate(rows):
        index.insert(meta, 4_096 + len(meta.tokens) * 3_072, "ram", now=float(i))
    return index


def long_prompt(rows: list[RowMeta]) -> array.array[int]:
    """The longest one that `rows` begin with, as a request brings it."""
    return array.array("i", b"".join(row.tokens for row in rows[:118]))[:30_000]


def lookup_s(index: CacheIndex, prompt: array.array[int]) -> tuple[float, float]:
    """Seconds to look a prompt up: the least and the median."""
    return best_and_median(
        lambda: index.lookup(Query(namespace=ROOT, tokens=token_bytes(prompt), threads=2))
    )


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    options = parser.parse_args()
    rows = conversations(options.rows)
    shared_parent = rows[-1]
    print(f"memory beside tokens {bytes_per_row(rows):,.0f} bytes a row")

    start = time.perf_counter()
    index = filled(rows)
    print(f"insert {(time.perf_counter() - start) / len(rows) * 1e6:.1f} us a row")

    prompt = long_prompt(rows)
    data = token_bytes(prompt)
    hit = index.lookup(Query(namespace=ROOT, tokens=data))
    assert hit is not None
    floor, _ = best_and_median(lambda: [key for _, _, key in chain(ROOT, data)])
    best, median = lookup_s(index, prompt)
    print(f"lookup of {len(prompt):,} tokens ({hit.tokens:,} found): best {best * 1e3:.3f} ms,")
    print(f"  median {median * 1e3:.3f} ms; SHA-256 of the chain alone {floor * 1e3:.3f} ms")

    own = token_bytes(array.array("i", shared_parent.tokens)[:100])
    beginning = b"".join(row.tokens for row in metas_of(index, shared_parent.parent))
    crowd = Query(namespace=ROOT, tokens=beginning + own)
    best, median = best_and_median(lambda: index.lookup(crowd))
    print(f"lookup under a crowded node: best {best * 1e3:.3f} ms, median {median * 1e3:.3f} ms")

    found = hit.all_rows
    best, _ = best_and_median(lambda: index.touch(found, 1e6))
    print(f"touch {len(found)} rows {best * 1e6:.0f} us")

    start = time.perf_counter()
    victims = index.evict("ram", index.bytes("ram") // 2)
    print(f"evict {(time.perf_counter() - start) / len(victims) * 1e6:.1f} us a row")


def metas_of(index: CacheIndex, key: bytes) -> list[RowMeta]:
    """The chain that ends with a key, as bare tokens."""
    found = []
    rows = index.rows_of(key)
    while rows:
        row = rows[0]
        found.append(
            RowMeta(
                namespace=ROOT, parent=row.key, key=row.key, form=row.form, start=row.start,
                tokens=row.tokens, pure_end=row.end, token_bytes=1,
            )
        )  # fmt: skip
        parent = row.node.parent
        rows = () if parent is None else tuple(parent.rows())
    return found[::-1]


if __name__ == "__main__":
    main()
