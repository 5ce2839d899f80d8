"""What identifies a model's bytes, and what is remembered of it."""

from __future__ import annotations

import hashlib
import os
import pathlib

import pytest

from erllama.backend import fingerprint
from erllama.backend.fingerprint import (
    Extent,
    FileHashes,
    chunked_fingerprint,
    safe_fingerprint,
)
from erllama.backend.llama import LlamaBackend
from erllama.backend.llama.gguf_file import read_header
from erllama.config import ContextConfig, ModelConfig
from erllama.errors import ModelLoadError
from tests.models import TINY, cached_model

PIECE = 8 * 1024 * 1024


def go_on(_share: float) -> bool:
    return True


@pytest.fixture
def model(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(cached_model(TINY).read_bytes())
    return path


@pytest.mark.parametrize("size", [0, 1, 4_096, PIECE, PIECE + 1])
def test_a_safe_fingerprint_is_the_sha256_of_the_file(tmp_path: pathlib.Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(size))
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    assert safe_fingerprint([path], FileHashes(), go_on) == expected


def test_a_split_model_is_identified_by_all_of_its_files(tmp_path: pathlib.Path) -> None:
    parts = [tmp_path / name for name in "abc"]
    for part in parts:
        part.write_bytes(part.name.encode() * 100)
    whole = safe_fingerprint(parts, FileHashes(), go_on)
    assert whole != safe_fingerprint(parts[::-1], FileHashes(), go_on)
    parts[2].write_bytes(b"d" * 100)
    assert whole != safe_fingerprint(parts, FileHashes(), go_on)


def count_hashing(monkeypatch: pytest.MonkeyPatch) -> list[pathlib.Path]:
    hashed: list[pathlib.Path] = []
    original = fingerprint._hash

    def counting(path: pathlib.Path, *rest: object) -> str:
        hashed.append(path)
        return original(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(fingerprint, "_hash", counting)
    return hashed


def test_a_file_is_read_once(model: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed, memory = count_hashing(monkeypatch), FileHashes()
    first = safe_fingerprint([model], memory, go_on)
    assert safe_fingerprint([model], memory, go_on) == first
    assert hashed == [model]


def test_another_process_need_not_read_it_again(
    model: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(tmp_path / "not there yet" / "cache")
    first = safe_fingerprint([model], FileHashes(folder), go_on)
    hashed = count_hashing(monkeypatch)
    assert safe_fingerprint([model], FileHashes(folder), go_on) == first
    assert hashed == []


def test_a_changed_file_is_read_again(model: pathlib.Path, tmp_path: pathlib.Path) -> None:
    memory = FileHashes(str(tmp_path))
    first = safe_fingerprint([model], memory, go_on)
    stat = model.stat()
    model.write_bytes(model.read_bytes()[:-1] + b"\x07")
    os.utime(model, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    second = safe_fingerprint([model], memory, go_on)
    assert second == hashlib.sha256(model.read_bytes()).hexdigest() != first


def test_a_replaced_file_of_the_same_time_is_read_again(
    model: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    memory, stat = FileHashes(), model.stat()
    first = safe_fingerprint([model], memory, go_on)
    other = tmp_path / "other"
    other.write_bytes(model.read_bytes()[:-1] + b"\x07")
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.replace(model)
    assert safe_fingerprint([model], memory, go_on) != first


def test_what_was_hashed_while_it_changed_is_not_remembered(tmp_path: pathlib.Path) -> None:
    """Else a file that was put back as it was would have the hash of the change."""
    path = tmp_path / "large"
    path.write_bytes(bytes(PIECE + 1))
    memory, stat = FileHashes(), path.stat()

    def put_last_byte(byte: bytes) -> None:
        with path.open("rb+") as file:
            file.seek(PIECE)
            file.write(byte)

    def change(share: float) -> bool:
        if share == 0:
            put_last_byte(b"x")
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
        return True

    changed = safe_fingerprint([path], memory, change)
    put_last_byte(b"\0")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    expected = hashlib.sha256(bytes(PIECE + 1)).hexdigest()
    assert safe_fingerprint([path], memory, go_on) == expected != changed


def test_hashing_does_not_run_after_a_file_that_grows(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "growing"
    path.write_bytes(bytes(100))

    def grow(_share: float) -> bool:
        with path.open("ab") as file:
            file.write(bytes(100))
        return path.stat().st_size < 10_000

    memory = FileHashes()
    safe_fingerprint([path], memory, grow)
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    assert safe_fingerprint([path], memory, go_on) == expected


def test_a_file_cut_short_while_it_is_hashed_does_no_harm(tmp_path: pathlib.Path) -> None:
    """Through a mapping this would end the process with SIGBUS."""
    path = tmp_path / "large"
    path.write_bytes(bytes(3 * PIECE))
    memory = FileHashes()

    def cut(share: float) -> bool:
        if share < 0.5:
            os.truncate(path, 100)
        return True

    safe_fingerprint([path], memory, cut)
    assert safe_fingerprint([path], memory, go_on) == hashlib.sha256(bytes(100)).hexdigest()


def test_hashing_reports_progress_over_all_files(tmp_path: pathlib.Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_bytes(bytes(PIECE + 1))
    shares: list[float] = []

    def note(share: float) -> bool:
        shares.append(share)
        return True

    safe_fingerprint(paths, FileHashes(), note)
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[-1] == 1
    assert len(set(shares)) > 3


def test_hashing_gives_up_when_progress_says_so(model: pathlib.Path) -> None:
    memory = FileHashes()
    with pytest.raises(ModelLoadError, match=r"model\.gguf: loading was given up"):
        safe_fingerprint([model], memory, lambda _: False)
    assert safe_fingerprint([model], memory, go_on)


def test_a_missing_file_is_a_load_error_that_names_it(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ModelLoadError, match="gone"):
        safe_fingerprint([tmp_path / "gone"], FileHashes(), go_on)


# The file that remembers


@pytest.mark.parametrize("bad", [b"", b"{", b"[1]", b'{"a": 1}', b"\xff\xfe", b"null"])
def test_a_corrupt_memory_is_as_none(tmp_path: pathlib.Path, bad: bytes) -> None:
    (tmp_path / "fingerprints.json").write_bytes(bad)
    memory = FileHashes(str(tmp_path))
    assert memory.recall("a") is None
    memory.remember("a", "1")
    assert FileHashes(str(tmp_path)).recall("a") == "1"


def test_a_folder_that_cannot_be_written_to_costs_nothing_but_time(
    tmp_path: pathlib.Path,
) -> None:
    blocked = tmp_path / "a file"
    blocked.write_bytes(b"")
    memory = FileHashes(str(blocked / "folder"))
    memory.remember("a", "1")
    assert memory.recall("a") == "1"


def test_the_memory_is_replaced_in_one_piece(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = FileHashes(str(tmp_path))
    memory.remember("a", "1")
    seen: list[str | None] = []
    replace = pathlib.Path.replace

    def look_before(self: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
        # all is written by now, beside the file that readers see
        seen.append(FileHashes(str(tmp_path)).recall("b"))
        return replace(self, target)

    monkeypatch.setattr(pathlib.Path, "replace", look_before)
    memory.remember("b", "2")
    assert seen == [None]
    assert FileHashes(str(tmp_path)).recall("b") == "2"
    assert [path.name for path in tmp_path.iterdir()] == ["fingerprints.json"]


# Samples instead of the whole


def chunked(path: pathlib.Path) -> str:
    header = read_header(path)
    extents = [Extent(0, header.data_offset), *(Extent(t.offset, t.size) for t in header.tensors)]
    return chunked_fingerprint([(path, extents)])


@pytest.mark.parametrize("where", ["header", "first", "last"])
def test_samples_see_the_header_and_both_ends_of_every_tensor(
    model: pathlib.Path, where: str
) -> None:
    before = chunked(model)
    assert chunked(model) == before
    header = read_header(model)
    names = [header.tensors[0], header.tensors[-1]]
    # a digit of the model's name changes nothing else
    places = {
        "header": [model.read_bytes().find(b"random-llama") + 3],
        "first": [tensor.offset for tensor in names],
        "last": [tensor.offset + tensor.size - 1 for tensor in names],
    }[where]
    for place in places:
        data = bytearray(model.read_bytes())
        data[place] ^= 1
        model.write_bytes(data)
        assert chunked(model) != before
        data[place] ^= 1
        model.write_bytes(data)
    assert chunked(model) == before


def test_samples_are_blind_between_the_ends_as_documented(model: pathlib.Path) -> None:
    before = chunked(model)
    tensor = max(read_header(model).tensors, key=lambda tensor: tensor.size)
    data = bytearray(model.read_bytes())
    data[tensor.offset + tensor.size // 2] ^= 1
    model.write_bytes(data)
    assert chunked(model) == before


@pytest.mark.parametrize("mode", ["safe", "gguf_chunked", "fast_unsafe"])
def test_each_mode_has_its_own_fingerprint(model: pathlib.Path, mode: str) -> None:
    word = "mine" if mode == "fast_unsafe" else None
    config = ModelConfig(fingerprint_mode=mode, fingerprint=word)  # type: ignore[arg-type]
    found = (
        LlamaBackend().open(str(model), config, ContextConfig()).fingerprint(FileHashes(), go_on)
    )
    expected = {
        "safe": hashlib.sha256(model.read_bytes()).hexdigest(),
        "gguf_chunked": chunked(model),
        "fast_unsafe": "mine",
    }
    assert found == expected[mode]
