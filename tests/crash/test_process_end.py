"""A program that ends in the middle of a stream ends: promptly, with its own exit status."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.models.child import run_child

SCRIPT = "import sys; from tests.crash.programs import main; main(*sys.argv[1:])"
ENDS = {
    "returns": 0,
    "raises": 1,
    "exits": 3,
    "interrupted": -signal.SIGINT,
    "loads": 0,
    "stopped": 0,
    "closes_the_loop": 0,
    "leaves_the_loop_open": 0,
}


@pytest.mark.parametrize("way", ENDS)
@pytest.mark.parametrize("engine", ["stub", "llama.cpp"])
def test_a_program_ends_with_its_own_status(way: str, engine: str, tiny_gguf: Path) -> None:
    path = "stub" if engine == "stub" else str(tiny_gguf)
    child = run_child(SCRIPT, way, path, timeout=30)
    assert "streaming" in child.stdout
    assert child.returncode == ENDS[way], child.stderr_tail
    for word in ("Fatal Python error", "Segmentation", "GGML_ASSERT", "dumped"):
        assert word not in child.stderr
    if way == "raises":
        assert "LookupError: the program failed" in child.stderr
    if way in ("returns", "stopped", "exits"):
        assert "Traceback" not in child.stderr
