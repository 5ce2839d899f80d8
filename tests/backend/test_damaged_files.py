"""No damage to a file's header ends the process that loads it."""

from __future__ import annotations

import pathlib

import pytest

from tests.backend import fuzz
from tests.models import PRESETS, cached_model, run_child

ENV = {"GGML_NO_BACKTRACE": "1"}  # llama.cpp would start a debugger at every abort


def check(preset: str, folder: pathlib.Path, seed: int, count: int, timeout: float) -> None:
    source = str(cached_model(PRESETS[preset]))
    report = run_child(
        fuzz.load_damaged, source, str(folder), seed, count, timeout=timeout, env=ENV
    ).value
    assert report["bad"] == []
    # most damage is noticed, some changes nothing that matters
    assert report["refused"] > count // 2
    assert report["loaded"] > count // 20


@pytest.mark.parametrize("preset", ["tiny", "tiny-moe", "tiny-spm"])
def test_damaged_headers_are_refused_or_load(preset: str, tmp_path: pathlib.Path) -> None:
    check(preset, tmp_path, seed=1, count=50, timeout=110)


@pytest.mark.long
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize(
    "preset", ["tiny", "tiny-moe", "tiny-spm", "tiny-cohere2", "tiny-mamba2", "tiny-falcon-h1"]
)
def test_thousands_of_damaged_headers_are_refused_or_load(
    preset: str, tmp_path: pathlib.Path
) -> None:
    check(preset, tmp_path, seed=2, count=3_000, timeout=1_000)
