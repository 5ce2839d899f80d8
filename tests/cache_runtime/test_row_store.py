"""Files that are damaged, foreign, exchanged or gone: a miss each time, never another answer."""

from __future__ import annotations

import asyncio
import os
import pathlib
import shutil
import threading
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from erllama import ConfigError
from erllama.cache import writers
from erllama.cache.row import HEAD_BYTES, RowId
from erllama.cache.row_store import RowStore
from erllama.cache.tiers import files as tiers_files
from tests.cache_runtime.rig import (
    answer,
    cold,
    held,
    kept,
    new_row,
    pins,
    prompt,
    rig,
    row_files,
    stub_runtime,
    temporaries,
)
from tests.model.staging import until

Damage = Callable[[pathlib.Path], None]


def flip(path: pathlib.Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)


def flip_head(path: pathlib.Path) -> None:
    flip(path, 20)


def flip_meta(path: pathlib.Path) -> None:
    flip(path, 100)


def flip_padding(path: pathlib.Path) -> None:
    flip(path, HEAD_BYTES - 1)


def flip_payload(path: pathlib.Path) -> None:
    flip(path, HEAD_BYTES + 5)


def flip_end(path: pathlib.Path) -> None:
    flip(path, -1)


def truncate(path: pathlib.Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def truncate_head(path: pathlib.Path) -> None:
    os.truncate(path, 1_000)


def lengthen(path: pathlib.Path) -> None:
    with path.open("ab") as file:
        file.write(b"\0")


def empty(path: pathlib.Path) -> None:
    os.truncate(path, 0)


def foreign(path: pathlib.Path) -> None:
    path.write_bytes(b"GGUF" + bytes(9_000))


def folder(path: pathlib.Path) -> None:
    path.unlink()
    path.mkdir()


def link(path: pathlib.Path) -> None:
    path.rename(path.parent.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent.parent / "elsewhere")


def pipe(path: pathlib.Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGES: list[Damage] = [
    flip_head, flip_meta, flip_padding, flip_payload, flip_end, truncate, truncate_head, lengthen,
    empty, foreign, folder, link, pipe,
]  # fmt: skip
SEEN_BY_SCAN = [damage for damage in DAMAGES if damage not in (flip_payload, flip_end)]

PROMPT = prompt(1)


async def fill(tmp_path: pathlib.Path) -> list[pathlib.Path]:
    """A cache folder with the rows of `PROMPT`: a block and a tail with logits."""
    async with stub_runtime(tmp_path) as runtime:
        model = await runtime.load_model("stub.gguf")
        await answer(model, PROMPT, max_tokens=1)
        await kept(runtime, model)
    files = row_files(tmp_path / "kv")
    assert len(files) == 2
    return files


# When they are damaged before the start


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("which", ["b", "t"])
async def test_what_is_damaged_at_the_start_changes_no_token(
    tmp_path: pathlib.Path, damage: Damage, which: str
) -> None:
    (path,) = [path for path in await fill(tmp_path) if path.name[65] == which]
    damage(path)
    expected = await cold(PROMPT)
    async with stub_runtime(tmp_path, ram_bytes=0) as runtime:
        model = await runtime.load_model("stub.gguf")
        assert runtime.cache.counters().corrupt_rows == int(damage in SEEN_BY_SCAN)
        done = await answer(model, PROMPT)
        assert done.tokens == expected
        assert done.cache.read in (0, 256)
        assert runtime.cache.counters().corrupt_rows == 1
        # the tier moves it once it hears of it
        moved = tmp_path / "kv" / "quarantine"
        await until(lambda: [one.name for one in moved.iterdir()] == [path.name])
        await kept(runtime, model)
        again = await answer(model, PROMPT)
        assert again.tokens == expected
        assert again.cache.hit == "exact", "the rows were written anew"
        assert (await runtime.cache.verify()).bad == 0
        assert pins(runtime) == 0


async def test_two_files_that_were_exchanged_are_both_misses(tmp_path: pathlib.Path) -> None:
    one, other = await fill(tmp_path)
    spare = tmp_path / "spare"
    one.rename(spare)
    other.rename(one)
    spare.rename(other)
    async with stub_runtime(tmp_path) as runtime:
        model = await runtime.load_model("stub.gguf")
        assert runtime.cache.counters().corrupt_rows == 2
        done = await answer(model, PROMPT)
        assert (done.cache.hit, done.tokens) == ("cold", await cold(PROMPT))


async def test_a_file_under_a_wrong_name_is_not_used(tmp_path: pathlib.Path) -> None:
    block, _ = sorted(await fill(tmp_path), key=lambda path: path.name[65])
    folder = block.parent.parent / "00"
    folder.mkdir(exist_ok=True)
    block.rename(folder / ("0" * 64 + ".bp"))
    async with stub_runtime(tmp_path) as runtime:
        model = await runtime.load_model("stub.gguf")
        assert runtime.cache.counters().corrupt_rows == 1
        assert (await answer(model, PROMPT)).cache.hit == "cold"


async def test_files_and_links_to_folders_that_are_nobodys_are_left_alone(
    tmp_path: pathlib.Path,
) -> None:
    await fill(tmp_path)
    rows = tmp_path / "kv" / "rows"
    (rows / "notes.txt").write_text("mine")
    elsewhere = tmp_path / "documents"
    elsewhere.mkdir()
    (elsewhere / "letter").write_text("mine")
    (rows / "zz").symlink_to(elsewhere)
    async with stub_runtime(tmp_path) as runtime:
        assert runtime.cache.counters().rows == 2
    assert (rows / "notes.txt").read_text() == "mine"
    assert (elsewhere / "letter").read_text() == "mine"


# When they are damaged while the runtime runs


@pytest.mark.parametrize("damage", [*DAMAGES, os.unlink])
async def test_what_is_damaged_after_the_start_changes_no_token(
    tmp_path: pathlib.Path, damage: Damage
) -> None:
    files = await fill(tmp_path)
    expected = await cold(PROMPT)
    async with stub_runtime(tmp_path, ram_bytes=0) as runtime:
        model = await runtime.load_model("stub.gguf")
        damage(files[0])
        for _ in range(3):
            done = await answer(model, PROMPT)
            assert done.tokens == expected
            await kept(runtime, model)
        assert done.cache.hit == "exact"
        counters = runtime.cache.counters()
        assert counters.corrupt_rows == 1
        assert counters.misses >= 1
        assert pins(runtime) == 0
        assert (await runtime.cache.verify()).bad == 0


async def test_a_file_that_vanishes_between_lookup_and_read_is_a_miss(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(tmp_path)
    expected = await cold(PROMPT)
    read = RowStore.read

    def vanishing(self: RowStore, *args: object) -> None:
        monkeypatch.undo()
        shutil.rmtree(self.root)
        read(self, *args)  # type: ignore[arg-type]

    async with stub_runtime(tmp_path, ram_bytes=0) as runtime:
        model = await runtime.load_model("stub.gguf")
        monkeypatch.setattr(RowStore, "read", vanishing)
        done = await answer(model, PROMPT)
        assert (done.cache.hit, done.tokens) == ("cold", expected)
        assert pins(runtime) == 0


@pytest.mark.parametrize("error", [PermissionError, InterruptedError, IsADirectoryError])
async def test_a_file_that_cannot_be_read_is_a_miss(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, error: type[OSError]
) -> None:
    await fill(tmp_path)
    async with stub_runtime(tmp_path, ram_bytes=0) as runtime:
        model = await runtime.load_model("stub.gguf")

        def failing(*_: object) -> None:
            raise error(5, "cannot be read")

        monkeypatch.setattr(RowStore, "read", failing)
        done = await answer(model, PROMPT)
        assert (done.cache.hit, done.tokens) == ("cold", await cold(PROMPT))
        assert runtime.cache.counters().corrupt_rows == 1
        assert pins(runtime) == 0


async def test_verify_finds_what_is_damaged_and_nothing_else(tmp_path: pathlib.Path) -> None:
    files = await fill(tmp_path)
    async with stub_runtime(tmp_path) as runtime:
        flip_end(files[1])
        report = await runtime.cache.verify()
        assert (report.checked, report.bad) == (2, 1)
        moved = tmp_path / "kv" / "quarantine"
        assert [path.name for path in moved.iterdir()] == [files[1].name], "when it returns"
        assert [row.tokens for row in runtime.cache.rows()] == [256]
        report = await runtime.cache.verify()
        assert (report.checked, report.bad) == (1, 0)
        assert runtime.cache.counters().corrupt_rows == 1


async def test_a_row_that_is_evicted_during_verify_is_not_bad(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(tmp_path)
    async with stub_runtime(tmp_path) as runtime:
        is_good = RowStore.is_good

        def gone_first(self: RowStore, row: object) -> bool:
            index = runtime.view.index
            for other in list(index):
                index.remove(other, "disk")
                self.delete([other.id])
            return is_good(self, row)  # type: ignore[arg-type]

        monkeypatch.setattr(RowStore, "is_good", gone_first)
        assert (await runtime.cache.verify()).bad == 0


def test_a_file_that_holds_another_row_is_not_read(tmp_path: pathlib.Path) -> None:
    files = RowStore(tmp_path)
    row, other = new_row([1] * 40), new_row([2] * 40)
    for each in (row, other):
        files.publish(files.write(each.meta, each.parts)[0], each.meta)
    shutil.copy(files.path(other.meta.id), files.path(row.meta.id))
    assert files.is_good(other.meta.id)
    assert not files.is_good(row.meta.id)


# The folder itself


def test_stale_temporaries_are_deleted_and_others_left(tmp_path: pathlib.Path) -> None:
    files = RowStore(tmp_path)
    row = new_row([1] * 40)
    files.publish(files.write(row.meta, row.parts)[0], row.meta)
    files.write(row.meta, row.parts)
    (tmp_path / ".tmp-1-1").write_bytes(b"hits that were never finished")
    files.close()
    read_only = RowStore(tmp_path, read_only=True)
    assert len(read_only.scan().found) == 1
    assert len(temporaries(tmp_path)) == 2, "another process may be writing them"
    files = RowStore(tmp_path)
    scan = files.scan()
    assert (len(scan.found), scan.quarantined) == (1, 0)
    assert temporaries(tmp_path) == []


@pytest.mark.parametrize(
    "hits",
    [b"", b"\xff", msgspec.msgpack.encode({"a": -1}), msgspec.msgpack.encode([1]), bytes(100)],
)
def test_remembered_hits_that_make_no_sense_are_forgotten(
    tmp_path: pathlib.Path, hits: bytes
) -> None:
    files = RowStore(tmp_path)
    row = new_row([1] * 40)
    files.publish(files.write(row.meta, row.parts)[0], row.meta)
    (tmp_path / "hits.msgpack").write_bytes(hits)
    assert [found.hits for found in files.scan().found] == [0]


def test_negative_hits_of_a_row_are_not_believed(tmp_path: pathlib.Path) -> None:
    files = RowStore(tmp_path)
    row = new_row([1] * 40)
    files.publish(files.write(row.meta, row.parts)[0], row.meta)
    files.remember_hits({row.meta.id.name: 3})
    assert [found.hits for found in files.scan().found] == [3]
    files.remember_hits({row.meta.id.name: -3})
    assert [found.hits for found in files.scan().found] == [0]


def test_rows_from_the_future_are_new(tmp_path: pathlib.Path) -> None:
    files = RowStore(tmp_path)
    row = new_row([1] * 40)
    files.publish(files.write(row.meta, row.parts)[0], row.meta)
    (path,) = row_files(tmp_path)
    os.utime(path, (4e9, 4e9))
    assert [found.age_s for found in files.scan().found] == [0.0]
    os.utime(path, (1e9, 1e9))
    assert files.scan().found[0].age_s > 1e8


def test_a_read_only_folder_is_neither_changed_nor_locked(tmp_path: pathlib.Path) -> None:
    owner = RowStore(tmp_path)
    row, bad = new_row([1] * 40), new_row([2] * 40)
    for each in (row, bad):
        owner.publish(owner.write(each.meta, each.parts)[0], each.meta)
    flip_head(owner.path(bad.meta.id))
    before = sorted(tmp_path.rglob("*"))
    reader = RowStore(tmp_path, read_only=True)
    scan = reader.scan()
    assert (len(scan.found), scan.quarantined) == (1, 1)
    reader.delete([row.meta.id])
    reader.quarantine(row.meta.id)
    assert sorted(tmp_path.rglob("*")) == before
    assert reader.is_good(row.meta.id)


def test_the_second_owner_is_refused_until_the_first_is_gone(tmp_path: pathlib.Path) -> None:
    owner = RowStore(tmp_path)
    with pytest.raises(ConfigError, match=r"cache_dir: .* in use by another process.*read_only"):
        RowStore(tmp_path)
    late = RowStore(tmp_path, if_locked="read_only")
    assert late.read_only
    first, second = (late.reading.submit(threading.current_thread) for _ in range(2))
    names = {future.result().name for future in (first, second)}
    assert names <= {"erllama-cache-read-1", "erllama-cache-read-2"}, "its threads are its own"
    owner.close()
    RowStore(tmp_path).close()


def test_a_folder_that_cannot_be_made_is_a_config_error(tmp_path: pathlib.Path) -> None:
    (tmp_path / "kv").write_text("a file")
    with pytest.raises(ConfigError, match="cannot be used"):
        RowStore(tmp_path / "kv")


def test_a_lock_that_cannot_be_opened_is_a_config_error(tmp_path: pathlib.Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(ConfigError, match="cannot be used"):
        RowStore(tmp_path)


async def test_a_runtime_that_has_started_knows_what_its_folder_holds(
    tmp_path: pathlib.Path,
) -> None:
    def fill() -> None:
        files = RowStore(tmp_path / "kv")
        for i in range(400):
            row = new_row([i] * 100)
            files.publish(files.write(row.meta, row.parts)[0], row.meta)
        files.close()

    await asyncio.to_thread(fill)
    async with stub_runtime(tmp_path) as runtime:
        assert runtime.cache.counters().rows == 400


async def test_a_start_does_not_wait_long_for_very_many_rows(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writers, "ADOPTION_S", 0.0)
    async with stub_runtime(tmp_path) as runtime:
        model = await runtime.load_model("stub.gguf")
        assert await answer(model, PROMPT)
        await kept(runtime, model)
        assert row_files(tmp_path / "kv")


async def test_what_was_used_most_is_read_once_at_the_start(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [new_row([i] * 100) for i in range(1, 9)]
    async with rig(tmp_path) as made:
        await made.keep(*rows)
        used = [made.view.index.get(row.meta.id) for row in rows[2:4]]
        for _ in range(3):
            made.view.index.touch([row for row in used if row is not None], 0.0)
    read: list[set[RowId]] = []
    warm = RowStore.warm

    def watched(self: RowStore, hottest: Sequence[RowId]) -> None:
        warm(self, hottest)
        read.append(set(hottest))

    monkeypatch.setattr(RowStore, "warm", watched)
    monkeypatch.setattr(tiers_files, "WARM_BYTES", 2 * held(rows[0]))
    async with rig(tmp_path) as made:
        await until(lambda: bool(read))
        assert read == [{row.meta.id for row in rows[2:4]}]


def test_reading_at_the_start_passes_over_what_is_gone_and_ends_with_the_tier(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [new_row([i] * 100) for i in range(1, 5)]
    files = RowStore(tmp_path)
    for row in rows[1:]:
        files.publish(files.write(row.meta, row.parts)[0], row.meta)
    read: list[int] = []
    preadv = os.preadv

    def counted(*arguments: Any) -> int:
        read.append(preadv(*arguments))
        if len(read) == 2:
            files.close()
        return read[-1]

    monkeypatch.setattr(os, "preadv", counted)
    files.warm([row.meta.id for row in rows])
    assert read == [held(rows[0])] * 2
