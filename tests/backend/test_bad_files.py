"""Files that are no models: each refusal names the file, the fault and a remedy."""

from __future__ import annotations

import logging
import os
import pathlib
import re
import threading

import pytest

from erllama.backend.base import Loading
from erllama.backend.llama import LlamaBackend
from erllama.backend.llama.library import capture_log, llama
from erllama.config import ContextConfig, ModelConfig
from erllama.errors import ModelLoadError
from tests.models import BROKEN, KILLED_AT_DECODE, LOADED, TINY, break_model, cached_model

REMEDY = re.compile(r"again|convert|check|give|load the first|put all|look for|change")


def refusal(path: str | os.PathLike[str]) -> str:
    """What loading `path` is refused with."""
    loading: Loading = LlamaBackend().open(os.fspath(path), ModelConfig(), ContextConfig())
    with pytest.raises(ModelLoadError) as refused:
        loading.load(lambda _: True)
    said = str(refused.value)
    assert os.fspath(path) in said
    assert REMEDY.search(said), said
    return said


@pytest.mark.parametrize("how", [how for how in BROKEN if how not in LOADED])
def test_a_broken_file_is_refused_with_a_remedy(tmp_path: pathlib.Path, how: str) -> None:
    refusal(break_model(cached_model(TINY), tmp_path / "broken.gguf", how))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("empty", "is empty"),
        ("wrong_magic", "not a GGUF file"),
        ("truncated_in_header", "truncated"),
        ("truncated_in_tensor_table", "truncated"),
        ("truncated_in_data", "truncated"),
        ("old_version", "version"),
        ("future_version", "version"),
        ("unknown_architecture", "unknown model architecture: 'perceptron'"),
        ("missing_hparam", "llama.block_count"),
        ("missing_tensor", "blk.3.ffn_norm.weight"),
        ("wrong_tensor_shape", "output_norm.weight"),
        ("f64_norm", "F64"),
        ("f64_matrix", "F64"),
        ("f16_norm", "F32"),
        ("duplicate_token", "twice"),
        ("negative_epsilon", "layer_norm_rms_epsilon"),
        ("too_many_layers", "block_count"),
        ("experts_without_use", "expert_used_count"),
    ],
)
def test_a_refusal_says_what_is_wrong(tmp_path: pathlib.Path, how: str, words: str) -> None:
    broken = break_model(cached_model(TINY), tmp_path / "broken.gguf", how)
    assert words in refusal(broken)


def test_no_file_at_all(tmp_path: pathlib.Path) -> None:
    assert "no such file" in refusal(tmp_path / "gone.gguf")


def test_a_directory(tmp_path: pathlib.Path) -> None:
    assert "is a directory" in refusal(tmp_path)


def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    assert "no regular file" in refusal(tmp_path / "pipe.gguf")


def test_a_file_whose_reading_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    path = cached_model(TINY)

    def forbidden(*_: object, **__: object) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pathlib.Path, "open", forbidden)  # root may read everything
    assert "Permission denied" in refusal(path)


def test_a_name_that_is_too_long(tmp_path: pathlib.Path) -> None:
    assert "File name too long" in refusal(tmp_path / ("x" * 300))


def test_a_path_with_a_nul_is_refused() -> None:
    loading = LlamaBackend().open("a\0b.gguf", ModelConfig(), ContextConfig())
    with pytest.raises(ModelLoadError, match="NUL"):
        loading.load(lambda _: True)


def test_a_name_that_is_not_utf8_loads(tmp_path: pathlib.Path) -> None:
    path = tmp_path / os.fsdecode(b"m\xff.gguf")
    path.write_bytes(cached_model(TINY).read_bytes())
    loading = LlamaBackend().open(str(path), ModelConfig(vocab_only=True), ContextConfig())
    loading.load(lambda _: True)
    loading.discard()


def test_a_missing_part_of_a_split_model(tmp_path: pathlib.Path) -> None:
    first = tmp_path / "model-00001-of-00003.gguf"
    first.write_bytes(cached_model(TINY).read_bytes())
    assert "model-00002-of-00003.gguf" in refusal(first)


def test_a_later_part_of_a_split_model(tmp_path: pathlib.Path) -> None:
    second = tmp_path / "model-00002-of-00002.gguf"
    second.write_bytes(cached_model(TINY).read_bytes())
    assert "later part" in refusal(second)


def test_a_part_of_none(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "model-00001-of-00000.gguf"
    path.write_bytes(cached_model(TINY).read_bytes())
    assert "part 1 of 0" in refusal(path)


def test_a_file_that_loads_after_a_refusal(tmp_path: pathlib.Path) -> None:
    refusal(tmp_path)
    loading = LlamaBackend().open(str(cached_model(TINY)), ModelConfig(), ContextConfig())
    loading.load(lambda _: True)
    loading.discard()


# llama.cpp's own words


def test_each_thread_hears_its_own_words_only(tmp_path: pathlib.Path) -> None:
    source = cached_model(TINY)
    broken = {
        how: break_model(source, tmp_path / f"{how}.gguf", how)
        for how in ("unknown_architecture", "missing_tensor")
    }
    own = {"unknown_architecture": "perceptron", "missing_tensor": "blk.3.ffn_norm"}
    said: dict[str, list[str]] = {how: [] for how in broken}
    together = threading.Barrier(len(broken))

    def load(how: str) -> None:
        together.wait()
        said[how] = [refusal(broken[how]) for _ in range(10)]

    threads = [threading.Thread(target=load, args=(how,)) for how in broken]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for how, words in own.items():
        others = [other for key, other in own.items() if key != how]
        assert len(said[how]) == 10
        assert all(words in line for line in said[how])
        assert not any(other in line for line in said[how] for other in others)


def test_a_capture_inside_another_takes_its_own_lines(caplog: pytest.LogCaptureFixture) -> None:
    def say(level: int, words: bytes) -> None:
        from erllama.backend.llama import library

        library._on_log(level, words, None)

    llama()
    caplog.set_level(logging.DEBUG, logger="erllama.llama")
    with capture_log() as outer:
        say(4, b"outer error\n")
        with capture_log() as inner:
            say(3, b"inner warning\n")
        say(2, b"outer info\n")
    say(4, b"nobody's error\n")
    say(2, b"nobody's info\n")
    assert inner.problems() == "inner warning"
    assert outer.problems() == "outer error"
    assert [line for _, line in outer.lines] == ["outer error", "outer info"]
    assert [record.message for record in caplog.records] == ["nobody's error"]


def test_errors_come_before_warnings_and_the_last_ones_count() -> None:
    from erllama.backend.llama.library import LogLines

    lines = LogLines()
    assert lines.problems() == "llama.cpp gave no reason"
    lines.lines = [(3, "w"), *((4, f"e{i}") for i in range(5)), (4, "e4"), (2, "i")]
    assert lines.problems() == "e3; e4"


def test_the_killers_at_decode_are_among_those_that_are_refused() -> None:
    assert set(BROKEN) - LOADED >= KILLED_AT_DECODE
