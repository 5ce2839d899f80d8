"""Cached models are written once, whoever asks."""

from __future__ import annotations

import concurrent.futures
import os
import tempfile
from pathlib import Path
from unittest import mock

import pytest

from . import cache
from .cache import FOLDER_VARIABLE, cached_model
from .child import run_child
from .random_gguf import write_random_model
from .shapes import TINY, TINY_SPM, WIDE


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "models"))
    return tmp_path / "models"


def test_a_second_call_gives_the_same_file_untouched() -> None:
    first = cached_model(TINY, "Q8_0")
    written = first.stat().st_mtime_ns
    assert cached_model(TINY, "Q8_0") == first
    assert first.stat().st_mtime_ns == written


def test_every_argument_has_a_file_of_its_own() -> None:
    paths = {
        cached_model(TINY),
        cached_model(TINY, "Q4_0"),
        cached_model(TINY, seed=1),
        cached_model(TINY_SPM),
        cached_model(TINY, chat_template="{{ messages }}"),
    }
    assert len(paths) == 5


def test_a_new_version_of_the_generator_writes_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    old = cached_model(TINY)
    monkeypatch.setattr(cache, "GENERATOR_VERSION", cache.GENERATOR_VERSION + 1)
    assert cached_model(TINY) != old


def test_k_quants_are_cached_beside_their_source(folder: Path) -> None:
    path = cached_model(WIDE, "Q6_K")
    assert path.stat().st_size < cached_model(WIDE).stat().st_size
    assert len(list(folder.glob("*.gguf"))) == 2


def test_processes_that_ask_at_once_write_once(folder: Path) -> None:
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        children = [pool.submit(run_child, _report) for _ in range(3)]
        reports = [child.result().value for child in children]
    assert sum(report["wrote"] for report in reports) == 1
    assert {report["path"] for report in reports} == {str(path) for path in folder.glob("*.gguf")}


def _report() -> dict[str, object]:
    with mock.patch.object(cache, "write_random_model", wraps=write_random_model) as write:
        return {"path": str(cached_model(TINY)), "wrote": write.call_count}


def test_folder_of_another_user_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(FOLDER_VARIABLE)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    uid = os.getuid()
    assert cache.cache_folder() == tmp_path / f"erllama-test-models-{uid}"
    (tmp_path / f"erllama-test-models-{uid + 1}").mkdir()
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    with pytest.raises(PermissionError, match="belongs to another user"):
        cache.cache_folder()
