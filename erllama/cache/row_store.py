"""One folder of row files: `rows/ab/<name>`, a lock, a quarantine, remembered hits.

Contract
    Owner     one process at a time: opening takes an exclusive lock on `lock`; without it the
              folder is read-only, or refused.
    Files     appear by `erllama.cache.publish` and are never changed afterwards. Names are
              `RowId.name`; the two first hex digits are the folder.
    Bad ones  are moved to `quarantine`, never used and never deleted here.
    Threads   everything here blocks; it runs on `reading` and `writing`, threads of this folder
              alone, so that a file system that hangs holds nothing else up. `late` has the rows
              that were not read in time.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from erllama.cache.io_threads import Threads
from erllama.cache.publish import (
    TEMPORARY,
    Observer,
    discard,
    publish,
    read_into,
    replace,
    sync_directory,
    write_temporary,
)
from erllama.cache.row import (
    HEAD_BYTES,
    BadRow,
    RowHead,
    RowId,
    RowMeta,
    check_payload,
    encode_head,
    parse_head,
    payload_crc,
)
from erllama.errors import ConfigError

_LOCK, _ROWS, _QUARANTINE, _HITS = "lock", "rows", "quarantine", "hits.msgpack"
# not through links, and without waiting for the other end of what is a pipe
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
READERS, WRITERS = 4, 3
_SCRATCH = 1 << 20
_Hits = dict[str, Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]]


class Found(NamedTuple):
    """A row that lies in the folder: its head, bytes, uses, seconds since it was written."""

    meta: RowMeta
    size: int
    hits: int
    age_s: float


class Scan(NamedTuple):
    """What opening found."""

    found: list[Found]
    quarantined: int


def _ignore(_stage: object) -> None:
    return


class RowStore:
    """See the module.

    Args:
        root: the folder; made, with mode 0700, if it is not there.
        read_only: do not ask for the lock; nothing is written.
        if_locked: be read-only where another process has the lock, instead of refusing.
        at: told every stage of publishing, for tests.

    Raises:
        ConfigError: another process has the folder open, or it cannot be made.
    """

    def __init__(
        self,
        root: pathlib.Path,
        *,
        read_only: bool = False,
        if_locked: Literal["refuse", "read_only"] = "refuse",
        at: Observer = _ignore,
    ) -> None:
        self._lock: int | None = None
        self.root = root
        self.read_only = read_only
        self._at = at
        self.reading = Threads("erllama-cache-read", READERS)
        self.writing = Threads("erllama-cache-write", WRITERS)
        self.late: set[RowId] = set()
        self._hung: list[Future[Any]] = []
        self._ended = False
        try:
            for folder in (root, root / _ROWS, root / _QUARANTINE):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as wrong:
            raise ConfigError(
                f"cache_dir: {root} cannot be used: {wrong.strerror}; choose another folder"
            ) from None
        if not read_only:
            self._take_lock(if_locked)

    def close(self) -> None:
        """Give the lock back, and let the threads end."""
        self._ended = True
        self.reading.close()
        self.writing.close()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __del__(self) -> None:
        self.close()

    # Reading

    def scan(self) -> Scan:
        """Look at every file: adopt the good, move the bad aside, delete stale temporaries."""
        hits = self._remembered_hits()
        now = time.time()
        found: list[Found] = []
        bad = 0
        self._delete_stale_hits()
        for path in self._files():
            if path.name.startswith(TEMPORARY):
                if not self.read_only:
                    discard(path)
                continue
            try:
                head, written = self._read_head(path)
            except (BadRow, OSError):
                bad += 1
                self._move_aside(path)
                continue
            age = max(now - written, 0.0)
            found.append(Found(head.meta, head.file_bytes, hits.get(path.name, 0), age))
        return Scan(found, bad)

    def read(self, row: RowId, segments: Sequence[memoryview]) -> None:
        """Read a row's payload into `segments`, one after the other, and check it.

        Raises:
            BadRow: the file is not this row, or damaged.
            OSError: it is gone or cannot be read.
        """
        with self._open(row) as (descriptor, size):
            room = HEAD_BYTES + sum(segment.nbytes for segment in segments)
            if size != room:
                raise BadRow(f"{row.name} has {size} bytes, expected {room}")
            self._read(row, descriptor, segments)

    def load(self, row: RowId) -> tuple[RowMeta, tuple[Any, ...]]:
        """A row's metadata and payload: rows or state, and logits if it has them.

        Raises:
            BadRow, OSError: as `read`.
        """
        with self._open(row) as (descriptor, size):
            payload = memoryview(bytearray(max(size - HEAD_BYTES, 0)))
            head = self._read(row, descriptor, [payload])
        state = payload[: head.state_bytes]
        return head.meta, (state, payload[head.state_bytes :]) if head.meta.n_logits else (state,)

    @contextlib.contextmanager
    def _open(self, row: RowId) -> Iterator[tuple[int, int]]:
        """The descriptor and the size of a row's file."""
        descriptor = os.open(self.path(row), _READ)
        try:
            yield descriptor, os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)

    def _read(self, row: RowId, descriptor: int, segments: Sequence[memoryview]) -> RowHead:
        """Head and payload in one go, each checked."""
        head = memoryview(bytearray(HEAD_BYTES))
        try:
            read_into(descriptor, 0, [head, *segments])
        except EOFError as short:
            raise BadRow(str(short)) from None
        found = parse_head(head, HEAD_BYTES + sum(segment.nbytes for segment in segments))
        if found.meta.id != row:
            raise BadRow(f"{row.name} holds another row")
        check_payload(found, segments)
        return found

    def warm(self, rows: Sequence[RowId]) -> None:
        """Read rows for nothing but that the system has them in memory then."""
        scratch = memoryview(bytearray(_SCRATCH))
        for row in rows:
            with contextlib.suppress(OSError), self._open(row) as (descriptor, size):
                for offset in range(0, size, len(scratch)):
                    if self._ended:
                        return
                    os.preadv(descriptor, [scratch], offset)

    # A file system that hangs

    @property
    def hung(self) -> bool:
        """Whether a read that was given up has not come back yet."""
        self._hung = [future for future in self._hung if not future.done()]
        return bool(self._hung)

    def gave_up(self, row: RowId, reading: Future[Any]) -> None:
        """A row was not read in time; `reading` may still come back."""
        self.late.add(row)
        self._hung.append(reading)

    def path(self, row: RowId) -> pathlib.Path:
        """Where a row lies or would lie."""
        name = row.name
        return self.root / _ROWS / name[:2] / name

    # Writing

    def write(self, meta: RowMeta, parts: Sequence[Any]) -> tuple[pathlib.Path, int]:
        """Write a row into a temporary file, durably; returns it and its size.

        Raises:
            OSError: the disk is full, read-only or gone.
        """
        views = [memoryview(part).cast("B") for part in parts]
        size = sum(view.nbytes for view in views)
        head = encode_head(meta, payload_bytes=size, payload_crc=payload_crc(views))
        folder = self.path(meta.id).parent
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            sync_directory(folder.parent)
        return write_temporary(folder, [head, *views], at=self._at), HEAD_BYTES + size

    def publish(self, temporary: pathlib.Path, meta: RowMeta) -> None:
        """Give a written row its name. A good file that has it already is adopted.

        Raises:
            OSError: it could not be linked or made durable; the temporary is removed.
        """
        target = self.path(meta.id)
        try:
            publish(temporary, target, at=self._at)
        except FileExistsError:
            if self.is_good(meta.id):
                discard(temporary)
            else:
                self._put_in_place(temporary, target)
        except OSError:
            discard(temporary)
            raise

    def is_good(self, row: RowId) -> bool:
        """Whether a whole and undamaged file of this row lies here. Reads all of it."""
        try:
            self.load(row)
        except (BadRow, OSError):
            return False
        return True

    def look(self, row: RowId) -> Found | None:
        """The row, if it lies here whole and undamaged. Reads all of it."""
        try:
            meta, parts = self.load(row)
        except (BadRow, OSError):
            return None
        return Found(meta, HEAD_BYTES + sum(len(part) for part in parts), 0, 0.0)

    def delete(self, rows: Sequence[RowId]) -> None:
        """Remove files, as far as they are there."""
        for row in () if self.read_only else rows:
            discard(self.path(row))

    def quarantine(self, row: RowId) -> None:
        """Move a bad file aside."""
        self._move_aside(self.path(row))

    def remember_hits(self, hits: dict[str, int]) -> None:
        """Keep how often rows were used, by file name."""
        with contextlib.suppress(OSError):
            temporary = write_temporary(self.root, [msgspec.msgpack.encode(hits)])
            temporary.replace(self.root / _HITS)

    # Inside

    def _take_lock(self, if_locked: Literal["refuse", "read_only"]) -> None:
        try:
            self._lock = os.open(self.root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as wrong:
            self._unlock()
            if not isinstance(wrong, BlockingIOError):
                raise ConfigError(
                    f"cache_dir: {self.root} cannot be used: {wrong.strerror}; choose another "
                    "folder, or set cache_read_only"
                ) from None
            if if_locked == "read_only":
                self.read_only = True
                return
            raise ConfigError(
                f"cache_dir: {self.root} is in use by another process; choose another folder, or "
                "set cache_read_only or cache_if_locked='read_only'"
            ) from None

    def _files(self) -> Iterator[pathlib.Path]:
        for folder in sorted((self.root / _ROWS).iterdir()):
            if folder.is_dir() and not folder.is_symlink():
                with contextlib.suppress(OSError):
                    yield from [pathlib.Path(entry.path) for entry in os.scandir(folder)]

    def _read_head(self, path: pathlib.Path) -> tuple[RowHead, float]:
        descriptor = os.open(path, _READ)
        try:
            status = os.fstat(descriptor)
            head = parse_head(os.pread(descriptor, HEAD_BYTES, 0), status.st_size)
        finally:
            os.close(descriptor)
        if path != self.path(head.meta.id):
            raise BadRow(f"{path.name} holds another row")
        return head, status.st_mtime

    def _put_in_place(self, temporary: pathlib.Path, target: pathlib.Path) -> None:
        self._move_aside(target)
        try:
            replace(temporary, target)
        except OSError:
            discard(temporary)
            raise

    def _delete_stale_hits(self) -> None:
        if not self.read_only:
            for path in self.root.glob(f"{TEMPORARY}*"):
                discard(path)

    def _move_aside(self, path: pathlib.Path) -> None:
        if self.read_only:
            return
        with contextlib.suppress(OSError):
            path.replace(self.root / _QUARANTINE / path.name)

    def _remembered_hits(self) -> dict[str, int]:
        try:
            data = (self.root / _HITS).read_bytes()
            return msgspec.msgpack.decode(data, type=_Hits)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return {}
