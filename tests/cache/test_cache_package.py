"""The package's promises: what it exports, that its decisions are pure, and what they cost."""

from __future__ import annotations

import ast
import pathlib
import tracemalloc

import erllama.cache
from erllama.cache import CacheIndex

from .support import row_meta

PURE = [
    "monotonic", "eviction", "index", "key", "layout", "lookup", "policy", "reservation", "row",
    "trie",
]  # fmt: skip
IMPURE = {"aiofiles", "anyio", "asyncio", "io", "os", "pathlib", "pickle", "random", "threading"}
IMPURE |= {"time", "datetime", "erllama.actor", "erllama.backend", "erllama.clock", "erllama.model"}


def imports(module: str) -> set[str]:
    folder = pathlib.Path(erllama.cache.__file__).parent
    tree = ast.parse((folder / f"{module}.py").read_text())
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names.add(node.module or "")
    return names


def test_decisions_know_no_event_loop_no_file_and_no_clock() -> None:
    for module in [*PURE, "__init__"]:
        for name in imports(module):
            parts = name.split(".")
            assert not {".".join(parts[: i + 1]) for i in range(len(parts))} & IMPURE, module


def test_what_is_exported_is_there_and_in_order() -> None:
    names = erllama.cache.__all__
    assert names == sorted(names, key=lambda name: (not name.isupper(), name[0].islower(), name))
    assert all(hasattr(erllama.cache, name) for name in names)


def test_a_row_costs_less_than_600_bytes_beside_its_tokens() -> None:
    n = 3_000
    metas = [row_meta([i % 7, i, *range(100)], form="tail", pure_end=90) for i in range(n)]
    tokens = sum(len(meta.tokens) for meta in metas)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    index = CacheIndex()
    for i, meta in enumerate(metas):
        # as from a scan of files: keys and tokens are objects that nobody else holds
        row = index.insert(meta, 5_000 + i, "disk", now=i + 0.5)
        assert row.hits == 0
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    of_keys_and_tokens = sum(len(meta.key) + 33 + 33 for meta in metas)
    assert tokens > 0
    assert (used + of_keys_and_tokens) / n < 600
