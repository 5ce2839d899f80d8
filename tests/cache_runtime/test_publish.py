"""Publishing on the file system itself: modes, names that are taken, what failures leave behind."""

from __future__ import annotations

import errno
import os
import pathlib
import stat

import pytest

from erllama.cache.publish import Stage
from erllama.cache.row_store import RowStore
from tests.cache_runtime.rig import new_row, row_files, temporaries

ROW = new_row([1] * 40)
STAGES: list[Stage] = [
    "created", "written", "synced", "linked", "directory_synced", "unlinked",
]  # fmt: skip


def put(files: RowStore) -> None:
    temporary, _ = files.write(ROW.meta, ROW.parts)
    files.publish(temporary, ROW.meta)


def fail_with(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def test_the_stages_come_in_the_order_of_the_protocol(tmp_path: pathlib.Path) -> None:
    seen: list[Stage] = []
    put(RowStore(tmp_path, at=seen.append))
    assert seen == STAGES


def test_folders_and_files_are_for_the_owner_only(tmp_path: pathlib.Path) -> None:
    root = tmp_path / "kv"
    old = os.umask(0)
    try:
        files = RowStore(root)
        put(files)
        files.remember_hits({ROW.meta.id.name: 1})
    finally:
        os.umask(old)
    for path in [root, *root.rglob("*")]:
        expected = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


def test_a_published_file_has_one_name_and_holds_what_was_written(tmp_path: pathlib.Path) -> None:
    files = RowStore(tmp_path)
    put(files)
    (path,) = row_files(tmp_path)
    assert path.stat().st_nlink == 1
    assert temporaries(tmp_path) == []
    assert files.load(ROW.meta.id)[1][0] == ROW.parts[0]


def test_before_the_link_nothing_can_be_seen(tmp_path: pathlib.Path) -> None:
    seen: dict[str, int] = {}

    def look(stage: Stage) -> None:
        seen[stage] = len(row_files(tmp_path))

    put(RowStore(tmp_path, at=look))
    assert seen == {stage: int(i >= STAGES.index("linked")) for i, stage in enumerate(STAGES)}


def test_a_good_file_that_has_the_name_is_adopted(tmp_path: pathlib.Path) -> None:
    files = RowStore(tmp_path)
    put(files)
    (path,) = row_files(tmp_path)
    before = path.stat().st_ino
    put(files)
    assert path.stat().st_ino == before
    assert temporaries(tmp_path) == []
    assert list((tmp_path / "quarantine").iterdir()) == []


@pytest.mark.parametrize("what", ["damaged", "empty", "a folder", "a link", "a pipe"])
def test_a_bad_one_is_moved_aside_and_replaced(tmp_path: pathlib.Path, what: str) -> None:
    files = RowStore(tmp_path)
    put(files)
    (path,) = row_files(tmp_path)
    good = path.read_bytes()
    path.unlink()
    match what:
        case "damaged":
            path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        case "empty":
            path.touch()
        case "a folder":
            path.mkdir()
            (path / "a file").touch()
        case "a link":
            path.symlink_to(tmp_path / "nowhere")
        case "a pipe":
            os.mkfifo(path)
    put(files)
    assert path.read_bytes() == good
    assert files.is_good(ROW.meta.id)
    assert [moved.name for moved in (tmp_path / "quarantine").iterdir()] == [path.name]
    assert temporaries(tmp_path) == []


@pytest.mark.parametrize("call", ["writev", "fdatasync", "link", "fsync"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_failure_of_the_disk_leaves_nothing_behind(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, call: str, error: int
) -> None:
    files = RowStore(tmp_path)
    put(files)
    files.delete([ROW.meta.id])

    def failing(*_: object, **__: object) -> None:
        raise fail_with(error)

    with monkeypatch.context() as patched:
        patched.setattr(os, call, failing)
        with pytest.raises(OSError) as caught:
            put(files)
    assert caught.value.errno == error
    assert temporaries(tmp_path) == []
    assert row_files(tmp_path) == []
    put(files)
    assert files.is_good(ROW.meta.id)


def test_a_disk_that_fills_up_in_the_middle_leaves_nothing_behind(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = RowStore(tmp_path)
    original, calls = os.writev, []

    def short(descriptor: int, parts: list[memoryview]) -> int:
        calls.append(len(parts))
        if len(calls) > 2:
            raise fail_with(errno.ENOSPC)
        return original(descriptor, [memoryview(parts[0])[:100]])

    monkeypatch.setattr(os, "writev", short)
    with pytest.raises(OSError, match="No space"):
        put(files)
    assert temporaries(tmp_path) == []


def test_short_writes_and_reads_are_continued(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writev, preadv = os.writev, os.preadv
    monkeypatch.setattr(os, "writev", lambda fd, parts: writev(fd, [memoryview(parts[0])[:1_000]]))
    monkeypatch.setattr(
        os, "preadv", lambda fd, parts, offset: preadv(fd, [memoryview(parts[0])[:7]], offset)
    )
    files = RowStore(tmp_path)
    put(files)
    assert files.load(ROW.meta.id)[1][0] == ROW.parts[0]
