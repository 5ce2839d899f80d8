"""What identifies a model's bytes.

`safe` is the SHA-256 of the whole file, remembered by device, inode, size and modification time,
so that the next load of an unchanged file is instant. `gguf_chunked` hashes the header and samples
of every tensor: fast, and blind to a change between the samples. `fast_unsafe` is the caller's
word.

Hashing runs on a low-priority worker and reports progress. A thread of low priority must not hold
the interpreter lock often, or the event loop would wait for a thread that the scheduler starves;
so the file is hashed in large pieces, each one call that holds no lock.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
from collections.abc import Iterable
from typing import Any

import msgspec

from erllama.backend.base import FingerprintMemory, Progress
from erllama.errors import ModelLoadError

_PIECE = 8 * 1024 * 1024
_SAMPLE = 4_096
_MEMORY_FILE = "fingerprints.json"


class Extent(msgspec.Struct, frozen=True):
    """A stretch of a file, in bytes."""

    offset: int
    size: int


class FileHashes:
    """Remembers the hashes of files, and what self-tests found of their models; in this process
    and, given a folder, beyond it."""

    def __init__(self, folder: str | None = None) -> None:
        self._file = pathlib.Path(folder).expanduser() / _MEMORY_FILE if folder else None
        self._known: dict[str, str] = {}
        if self._file is not None:
            with contextlib.suppress(OSError, msgspec.DecodeError):
                self._known = msgspec.json.decode(self._file.read_bytes(), type=dict[str, str])

    def recall(self, key: str) -> str | None:
        """What is remembered for `key`."""
        return self._known.get(key)

    def remember(self, key: str, fingerprint: str) -> None:
        """Keep a value; a folder that cannot be written to costs a later load its time, no more."""
        self._known[key] = fingerprint
        if self._file is None:
            return
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _replace(self._file, msgspec.json.encode(self._known))


def safe_fingerprint(
    files: Iterable[pathlib.Path], memory: FingerprintMemory, progress: Progress
) -> str:
    """SHA-256 over the SHA-256 of each file, in hex; of a single file, its own.

    Raises:
        ModelLoadError: a file cannot be read, or `progress` gave up.
    """
    paths = list(files)
    total = sum(_size(path) for path in paths) or 1
    done = 0
    digests = []
    for path in paths:

        def part(share: float, start: int = done, size: int = _size(path)) -> bool:
            return progress((start + share * size) / total)

        digests.append(_file_sha256(path, memory, part))
        done += _size(path)
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def chunked_fingerprint(
    files: Iterable[tuple[pathlib.Path, Iterable[Extent]]],
) -> str:
    """SHA-256 over the header and the first and last 4,096 bytes of every extent, in hex.

    Args:
        files: each file with its header (the first extent, hashed whole) and its tensors.
    """
    digest = hashlib.sha256(b"gguf_chunked 1")
    for path, extents in files:
        with path.open("rb") as file:
            for i, extent in enumerate(extents):
                digest.update(extent.size.to_bytes(8, "little"))
                for sample in [extent] if i == 0 else _samples(extent):
                    file.seek(sample.offset)
                    digest.update(file.read(sample.size))
    return digest.hexdigest()


def _samples(extent: Extent) -> list[Extent]:
    if extent.size <= 2 * _SAMPLE:
        return [extent]
    end = extent.offset + extent.size
    return [Extent(extent.offset, _SAMPLE), Extent(end - _SAMPLE, _SAMPLE)]


def _file_sha256(path: pathlib.Path, memory: FingerprintMemory, progress: Progress) -> str:
    try:
        with path.open("rb", buffering=0) as file:
            key = _identity(os.fstat(file.fileno()))
            known = memory.recall(key)
            if known is None:
                known = _hash(path, file, progress)
                if _identity(os.fstat(file.fileno())) == key:
                    memory.remember(key, known)
            return known
    except OSError as wrong:
        raise ModelLoadError(f"{path}: cannot be read: {wrong.strerror}; check the path") from None


def _hash(path: pathlib.Path, file: Any, progress: Progress) -> str:
    # Read, not mapped: touching a mapped page that was cut off the file ends the process.
    digest = hashlib.sha256()
    size = os.fstat(file.fileno()).st_size
    piece = memoryview(bytearray(_PIECE))
    done = 0
    while done < size:  # not until its end, which a file that grows would never reach
        if not progress(done / size):
            raise ModelLoadError(f"{path}: loading was given up")
        n = file.readinto(piece[: size - done])
        if not n:
            break
        digest.update(piece[:n])
        done += n
    progress(1.0)
    return digest.hexdigest()


def _identity(stat: os.stat_result) -> str:
    return f"{stat.st_dev}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}"


def _size(path: pathlib.Path) -> int:
    try:
        return path.stat().st_size
    except OSError as wrong:
        raise ModelLoadError(f"{path}: cannot be read: {wrong.strerror}; check the path") from None


def _replace(target: pathlib.Path, data: bytes) -> None:
    """Write `target` so that a reader sees the old bytes or the new, never half of them."""
    import tempfile  # here, for it brings the compression modules with it

    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as temporary:
        temporary.write(data)
    pathlib.Path(temporary.name).replace(target)
