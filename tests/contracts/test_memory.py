"""Native memory comes back: after loading was given up, after a discard, after a close."""

from __future__ import annotations

import contextlib
import os
import pathlib

import pytest

from erllama.backend.llama import LlamaBackend
from erllama.config import ModelConfig
from erllama.errors import ModelLoadError
from tests.contracts.rig import small_context
from tests.models import TINY, cached_model, run_child

ROUNDS = 60


def growth(path: str, ending: str) -> int:
    """Bytes by which a process grows while it loads a model again and again. For a child."""
    for _ in range(5):
        load_and_end(path, ending)
    before = resident()
    for _ in range(ROUNDS):
        load_and_end(path, ending)
    return resident() - before


def load_and_end(path: str, ending: str) -> None:
    loading = LlamaBackend().open(path, ModelConfig(use_mmap=False), small_context())
    with contextlib.suppress(ModelLoadError):
        loading.load(lambda share: ending != "given up" or share < 0.9)
    if ending == "closed":
        loading.warm_up().close()
    loading.discard()


def resident() -> int:
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("ending", ["given up", "discarded", "closed"])
def test_loading_again_and_again_takes_no_more_memory(ending: str) -> None:
    path = cached_model(TINY, "F32")
    grown = run_child(growth, str(path), ending).value
    # a tenth of what would be held were each model kept
    assert grown < ROUNDS * path.stat().st_size // 10
