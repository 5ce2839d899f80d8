"""The examples, each as a program of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from erllama import bundled_model

ROOT = Path(__file__).parents[2]


def output_of(example: str, *arguments: str | Path) -> str:
    child = subprocess.run(
        [sys.executable, str(ROOT / "examples" / example), *map(str, arguments)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    return child.stdout


def test_complete_prints_a_text(model_file: Path) -> None:
    first = output_of("complete.py", model_file)
    assert len(first.strip()) > 20
    assert output_of("complete.py", model_file) == first


def test_streaming_prints_what_complete_would_and_how_it_ended(model_file: Path) -> None:
    text, _, end = output_of("streaming.py", model_file).rstrip("\n").rpartition("\n")
    assert end == "[length]"
    assert text.startswith(output_of("complete.py", model_file).rstrip("\n�"))


def test_the_loser_of_the_race_is_cancelled_and_its_model_free(model_file: Path) -> None:
    assert output_of("race.py", model_file).splitlines() == [
        "short won with 16 tokens",
        "long was cancelled: True",
        "long is free again, and wrote 4 tokens",
    ]


@pytest.mark.parametrize("example", ["complete.py", "streaming.py"])
def test_without_an_argument_the_bundled_model_is_used(example: str) -> None:
    assert output_of(example) == output_of(example, bundled_model()) != ""
