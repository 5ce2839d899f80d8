"""Making a file appear whole or not at all, whatever happens in between.

    write_temporary   O_EXCL in the target's directory, mode 0600, all bytes, fdatasync
    (the caller checks that the row is still wanted)
    publish           link(2) to the target's name, fsync of the directory, unlink the temporary

A crash before the link leaves a temporary, which the next start deletes. A crash after it leaves
the whole file under its name, and perhaps the temporary as a second name for it. `link` never
replaces: if the name is taken, whoever holds it is looked at by the caller.

These calls block; run each on a worker thread. `at` is told the name of every stage that was
passed, so that a test can stop the process there.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

TEMPORARY = ".tmp-"
_IOV_MAX = 512
_numbers = itertools.count()

Stage = Literal["created", "written", "synced", "linked", "directory_synced", "unlinked"]
Observer = Callable[[Stage], object]


def _ignore(_stage: Stage) -> None:
    return


def write_temporary(
    directory: pathlib.Path, parts: Sequence[Any], *, at: Observer = _ignore
) -> pathlib.Path:
    """Write `parts` one after the other into a new temporary file in `directory`, durably.

    Args:
        parts: buffers of bytes (bytes, memoryview, numpy arrays of uint8).

    Raises:
        OSError: the disk is full, read-only or gone; nothing is left behind.
    """
    path = directory / f"{TEMPORARY}{os.getpid()}-{next(_numbers)}"
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        at("created")
        _write_all(descriptor, [memoryview(part).cast("B") for part in parts if len(part)])
        at("written")
        os.fdatasync(descriptor)
        at("synced")
    except BaseException:
        discard(path)
        raise
    finally:
        os.close(descriptor)
    return path


def publish(temporary: pathlib.Path, target: pathlib.Path, *, at: Observer = _ignore) -> None:
    """Give a temporary file its name, durably.

    Raises:
        FileExistsError: the name is taken; the temporary is left as it is.
        OSError: it could not be linked or made durable.
    """
    os.link(temporary, target)
    at("linked")
    try:
        sync_directory(target.parent)
    except OSError:
        discard(target)
        raise
    at("directory_synced")
    discard(temporary)
    at("unlinked")


def replace(temporary: pathlib.Path, target: pathlib.Path) -> None:
    """Put a temporary file in the place of one that was found bad."""
    temporary.replace(target)
    sync_directory(target.parent)


def discard(path: pathlib.Path) -> None:
    """Remove a file, if it is there and can be."""
    with contextlib.suppress(OSError):
        path.unlink()


def sync_directory(directory: pathlib.Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_into(descriptor: int, offset: int, segments: Sequence[memoryview]) -> None:
    """Fill `segments`, one after the other, from `offset` of a file on.

    Raises:
        OSError: it cannot be read.
        EOFError: it ends before the last segment is full.
    """
    left = [segment for segment in segments if len(segment)]
    while left:
        n = os.preadv(descriptor, left[:_IOV_MAX], offset)
        if n == 0:
            raise EOFError("the file ends before its payload")
        offset += n
        left = _after(left, n)


def _write_all(descriptor: int, parts: list[memoryview]) -> None:
    while parts:
        parts = _after(parts, os.writev(descriptor, parts[:_IOV_MAX]))


def _after(parts: list[memoryview], n: int) -> list[memoryview]:
    """What is left of `parts` after their first `n` bytes."""
    for i, part in enumerate(parts):
        if n < len(part):
            return [part[n:], *parts[i + 1 :]]
        n -= len(part)
    return []
