"""A build of llama.cpp whose matrix tiles end the process computes without them."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from erllama.backend.llama import tiles
from erllama.backend.llama.tiles import tiles_fault, tiles_work, try_out
from erllama.bundled import bundled_model
from tests.backend import killers
from tests.models import TINY, TINY_FALCON_H1, TINY_LFM2, TINY_MAMBA2, cached_model, run_child

DIES = "import os, resource, signal\nos.kill(os.getpid(), signal.SIGILL)"


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What is tried out, of a build whose tiles end the process; on a CPU that has some."""
    made: list[str] = []

    def dies(trial: str) -> str:
        made.append(trial)
        return "a trial ended with SIGILL"

    cpu = SimpleNamespace(llama_print_system_info=lambda: b"CPU : AVX2 = 1 | AMX_INT8 = 1 | ")
    monkeypatch.setattr(tiles, "llama", lambda: cpu)
    monkeypatch.setattr(tiles, "try_out", dies)
    tiles_fault.cache_clear()
    yield made
    tiles_fault.cache_clear()


def test_a_quantized_model_does_without_tiles_that_end_the_process(
    trials: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert not tiles_work(bundled_model())
    assert not tiles_work(bundled_model())
    assert len(trials) == 1
    (said,) = caplog.messages
    assert "(a trial ended with SIGILL)" in said
    assert "CXXFLAGS set to -mno-amx-int8" in said


def test_tiles_that_work_are_used(trials: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "try_out", lambda _: "")
    assert tiles_work(bundled_model())
    assert trials == []


def test_nothing_is_tried_out_for_matrices_that_tiles_do_not_take(trials: list[str]) -> None:
    assert tiles_work(cached_model(TINY, "F16"))
    assert not tiles_work(pathlib.Path("no such file"))
    assert trials == []


def test_models_that_multiply_more_than_two_dimensions_do_without_tiles_that_work(
    trials: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "try_out", lambda _: "")
    assert tiles_work(cached_model(TINY, "Q8_0"))
    for shape in (TINY_LFM2, TINY_FALCON_H1, TINY_MAMBA2):
        assert not tiles_work(cached_model(shape, "F16"))


def test_nothing_is_tried_out_on_a_cpu_without_tiles(
    trials: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = SimpleNamespace(llama_print_system_info=lambda: b"CPU : AVX2 = 1 | ")
    monkeypatch.setattr(tiles, "llama", lambda: cpu)
    assert tiles_work(bundled_model())
    assert trials == []


def test_how_a_trial_ends_is_told() -> None:
    assert try_out("") == ""
    assert try_out("raise SystemExit(3)") == "a trial returned 3"
    assert try_out(DIES) == "a trial ended with SIGILL"


def test_a_program_that_is_no_python_tries_nothing_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/usr/bin/server")
    assert try_out("") == "there is no Python to try it with"
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    assert try_out("").startswith("a trial could not be made")


def test_what_is_tried_out_ends_as_the_bundled_model_does_bare_or_well() -> None:
    said = run_child(killers.load_and_draw, str(bundled_model())).value
    assert said == "done: {}"
    fault = try_out(tiles._TRIAL)
    assert fault in ("", "a trial ended with SIGILL", "a trial ended with SIGABRT"), fault
