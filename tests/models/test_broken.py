"""Broken model files do to llama.cpp what broken.py says they do."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from . import probe
from .broken import BROKEN, KILLED_AT_DECODE, KILLED_AT_LOAD, LOADED, break_model
from .child import run_child
from .gguf_layout import Layout
from .random_gguf import write_random_model
from .shapes import TINY

REFUSED = sorted({*BROKEN} - KILLED_AT_LOAD - KILLED_AT_DECODE - LOADED)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("good") / "tiny.gguf", TINY)


@pytest.fixture
def broken(good: Path, tmp_path: Path, how: str) -> str:
    return str(break_model(good, tmp_path / f"{how}.gguf", how))


def test_an_unbroken_file_is_put_together_as_it_was(good: Path) -> None:
    assert Layout.read(good).to_bytes() == good.read_bytes()


def test_unknown_way_to_break_is_refused(good: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="choose from empty"):
        break_model(good, tmp_path / "x.gguf", "hammer")


def test_refused_files_do_not_load(good: Path, tmp_path: Path) -> None:
    paths = [str(break_model(good, tmp_path / f"{how}.gguf", how)) for how in REFUSED]
    loaded = run_child(_load_all, [str(good), *paths]).value
    assert loaded == [True] + [False] * len(REFUSED)


def _load_all(paths: list[str]) -> list[bool]:
    return [probe.is_loadable(path) for path in paths]


@pytest.mark.parametrize("how", sorted(KILLED_AT_LOAD))
def test_load_kills(broken: str) -> None:
    assert run_child(probe.is_loadable, broken).signal is signal.SIGABRT


@pytest.mark.parametrize("how", sorted(KILLED_AT_DECODE))
def test_decode_kills(broken: str, how: str) -> None:
    assert run_child(probe.is_loadable, broken).value is True
    expected = signal.SIGSEGV if how == "f64_matrix" else signal.SIGABRT
    assert run_child(probe.decode_once, broken).signal is expected


@pytest.mark.parametrize("how", ["nan_weights"])
def test_weights_that_are_no_numbers_give_logits_that_are_none(broken: str) -> None:
    assert run_child(probe.decode_once, broken).value is False


@pytest.mark.parametrize("how", ["special_token_out_of_range"])
def test_special_token_out_of_range_is_ignored(broken: str) -> None:
    report = run_child(probe.probe_tokenizer, broken, []).value
    assert 0 <= report["special"]["eos"] < TINY.n_vocab
