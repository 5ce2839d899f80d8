"""The writers and the disk under them: full, read-only, slow, gone."""

from __future__ import annotations

import asyncio
import errno
import os
import pathlib
import shutil
import threading
from collections.abc import Iterator

import pytest

from erllama.actor.testing import settle
from erllama.cache.io_threads import Threads
from erllama.cache.publish import Stage
from erllama.cache.writers import Writers
from tests.cache_runtime.rig import (
    PATIENCE_S,
    answer,
    cold,
    held,
    kept,
    new_row,
    prompt,
    rig,
    row_files,
    stub_runtime,
    temporaries,
)

ROWS = [new_row([i] * 100) for i in range(1, 9)]
PROMPT = prompt(1)


class Gate:
    """Holds the threads that pass a stage of publishing."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._open = threading.Event()
        self._loop = asyncio.get_running_loop()
        self.reached = asyncio.Event()

    def __call__(self, stage: Stage) -> None:
        if stage == self._stage and not self._open.is_set():
            self._loop.call_soon_threadsafe(self.reached.set)
            if not self._open.wait(PATIENCE_S):
                raise TimeoutError("nobody opened the gate")

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    with monkeypatch.context() as patched:
        yield patched


def break_disk(patched: pytest.MonkeyPatch, call: str, error: int) -> None:
    def failing(*_: object, **__: object) -> None:
        raise OSError(error, os.strerror(error))

    patched.setattr(os, call, failing)


@pytest.mark.parametrize(
    ("call", "error"),
    [("writev", errno.ENOSPC), ("link", errno.EROFS), ("fdatasync", errno.EIO),
     ("open", errno.EMFILE)],
)  # fmt: skip
async def test_rows_that_cannot_be_written_are_counted_and_nothing_else_happens(
    tmp_path: pathlib.Path, broken: pytest.MonkeyPatch, call: str, error: int
) -> None:
    async with rig(tmp_path, disk=10 * held(ROWS[0])) as made:
        await made.keep(ROWS[0])
        break_disk(broken, call, error)
        await made.keep(*ROWS[1:4])
        broken.undo()
        assert made.counter("write_errors") == 3
        assert made.counter("disk_bytes") == held(ROWS[0])
        assert temporaries(tmp_path) == []
        await made.keep(*ROWS)
        assert made.counter("rows") == len(ROWS), "no room is lost to what failed"


async def test_requests_go_on_when_the_disk_is_full(
    tmp_path: pathlib.Path, broken: pytest.MonkeyPatch
) -> None:
    expected = await cold(PROMPT)
    async with stub_runtime(tmp_path) as runtime:
        model = await runtime.load_model("stub.gguf")
        break_disk(broken, "writev", errno.ENOSPC)
        for hit in ("cold", "exact"):
            done = await answer(model, PROMPT)
            assert (done.cache.hit, done.tokens) == (hit, expected)
            await kept(runtime, model)
        broken.undo()
        counters = runtime.cache.counters()
        assert counters.write_errors > 0
        assert counters.disk_bytes == 0
        assert row_files(tmp_path / "kv") == []


async def test_requests_go_on_when_the_folder_is_removed(tmp_path: pathlib.Path) -> None:
    expected, other = await cold(PROMPT), await cold(prompt(2))
    async with stub_runtime(tmp_path, ram_bytes=0) as runtime:
        model = await runtime.load_model("stub.gguf")
        await answer(model, PROMPT)
        await kept(runtime, model)
        shutil.rmtree(tmp_path)
        assert (await answer(model, PROMPT)).tokens == expected
        assert (await answer(model, prompt(2))).tokens == other
        await kept(runtime, model)
        assert runtime.cache.counters().write_errors > 0
        assert runtime.cache.counters().corrupt_rows > 0


async def test_a_slow_disk_holds_nobody_up(tmp_path: pathlib.Path) -> None:
    gate = Gate("written")
    async with rig(tmp_path, ram=10 * held(ROWS[0]), at=gate) as made:
        await made.offer(*ROWS)
        await gate.reached.wait()
        assert all(made.tiers_of(row) == ("ram",) for row in ROWS)
        flushing = asyncio.create_task(made.cache.flush())
        await settle()
        assert not flushing.done()
        gate.open()
        await flushing
        assert all(made.tiers_of(row) == ("ram", "disk") for row in ROWS)


async def test_rows_that_wait_are_bounded_and_the_rest_dropped(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(Writers.__init__.__kwdefaults__ or {}, "max_bytes", 2 * ROWS[0].size)
    gate = Gate("written")
    async with rig(tmp_path, at=gate) as made:
        await made.offer(*ROWS)
        await gate.reached.wait()
        await made.actor("cache:writers").probe()
        await settle()
        gate.open()
        await made.cache.flush()
        written = made.counter("rows")
        assert made.counter("saves_dropped") == len(ROWS) - written
        assert 2 <= written <= 4
        await made.keep(*ROWS[:2])
        assert made.tiers_of(ROWS[0]) == ("disk",), "the room of what was written is free again"


async def test_an_orderly_end_writes_what_waits(tmp_path: pathlib.Path) -> None:
    gate = Gate("created")
    async with rig(tmp_path, at=gate) as made:
        await made.offer(*ROWS)
        await gate.reached.wait()
        asyncio.get_running_loop().call_soon(gate.open)
    async with rig(tmp_path) as made:
        assert made.counter("rows") == len(ROWS)


async def test_an_end_that_takes_too_long_is_cut_short(tmp_path: pathlib.Path) -> None:
    gate = Gate("created")
    async with rig(tmp_path, at=gate, shutdown=0.05) as made:
        await made.offer(*ROWS)
        await gate.reached.wait()
        supervisor = made
    assert supervisor.actors.writers is None
    gate.open()
    async with rig(tmp_path) as made:
        assert made.counter("corrupt_rows") == 0
        await made.keep(*ROWS)
        assert made.counter("rows") == len(ROWS)


async def test_a_runtime_on_a_stuck_disk_still_stops(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate("created")
    fdatasync = os.fdatasync

    def slow(descriptor: int) -> None:
        gate("created")
        fdatasync(descriptor)

    async with stub_runtime(tmp_path, shutdown_s=0.1) as runtime:
        model = await runtime.load_model("stub.gguf")
        monkeypatch.setattr(os, "fdatasync", slow)
        done = await answer(model, PROMPT)
        await gate.reached.wait()
        assert done.tokens == (await answer(model, PROMPT)).tokens
        await runtime.stop()
        gate.open()
    monkeypatch.undo()
    async with stub_runtime(tmp_path) as runtime:
        model = await runtime.load_model("stub.gguf")
        assert (await answer(model, PROMPT)).tokens == done.tokens
        assert (await runtime.cache.verify()).bad == 0


async def test_a_disk_tier_that_ends_while_the_disk_is_stuck_gives_its_lock_back(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rig(tmp_path) as made:
        await made.keep(ROWS[0])
        row = next(iter(made.view.index))
        made.view.index.touch([row], 0.0)

        async def cut_short(*_: object) -> None:
            raise asyncio.CancelledError

        with monkeypatch.context() as patched:
            patched.setattr(Threads, "run", cut_short)
            ref = made.actor("cache:disk")
            ref.request_stop()
            await ref.wait_dead()
        again = await made.registry.wait_for("cache:disk")
        await again.wait_started()
        await made.offer()
        assert made.tiers_of(ROWS[0]) == ("disk",)


async def test_a_writer_is_killed_and_leaves_nothing_behind(tmp_path: pathlib.Path) -> None:
    gate = Gate("synced")
    async with rig(tmp_path, at=gate) as made:
        await made.offer(*ROWS[:2])
        await gate.reached.wait()
        crashing = asyncio.create_task(made.crash("cache:writers"))
        await settle()
        gate.open()
        await crashing
        await made.actor("cache:disk").probe()
        assert temporaries(tmp_path) == []
        there = {path.name for path in row_files(tmp_path)}
        assert there == {row.id.name for row in made.view.index}
        await made.keep(*ROWS)
        assert made.counter("rows") == len(ROWS)
