"""A disk that does not answer: requests compute, writes wait in bounded number, counters tell."""

from __future__ import annotations

import asyncio
import pathlib
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
import pytest_asyncio

from erllama.actor.testing import ManualClock, settle
from erllama.backend.stub import StubFrame
from erllama.cache import publish, reader, row_store
from erllama.cache.tiers.files import HITS_S
from tests.cache_runtime.rig import (
    PATIENCE_S,
    answer,
    cold,
    kept,
    new_row,
    prompt,
    rig,
    stub_runtime,
)
from tests.model.staging import until

PROMPT, OTHER = prompt(1), prompt(2)
ROWS = [new_row([i] * 100) for i in range(1, 9)]


class Hanging:
    """Reads that come back only when they are let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hangs = False
        self.asked = 0
        self._go = threading.Event()
        self._back = threading.Semaphore(0)
        self._read = publish.read_into
        monkeypatch.setattr(row_store, "read_into", self)

    def __call__(self, descriptor: int, offset: int, segments: Sequence[memoryview]) -> None:
        if self.hangs:
            self.asked += 1
            assert self._go.wait(PATIENCE_S)
            self._read(descriptor, offset, segments)
            self._back.release()
        else:
            self._read(descriptor, offset, segments)

    async def let_go(self, files: Any) -> None:
        """Return once all that hung has come back."""
        self.hangs = False
        self._go.set()
        for _ in range(self.asked):
            await asyncio.to_thread(self._back.acquire)
        await until(lambda: not files.hung)  # the future is done a moment after


@pytest_asyncio.fixture
async def disk(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hanging]:
    monkeypatch.setattr(reader, "PATIENCE_S", 0.02)
    monkeypatch.setattr(reader, "SLOWEST_BYTES_PER_S", 1e12)
    hanging = Hanging(monkeypatch)
    yield hanging
    hanging._go.set()


async def test_a_request_computes_what_a_disk_does_not_give_in_time(
    tmp_path: pathlib.Path, disk: Hanging
) -> None:
    expected = await cold(PROMPT)
    async with stub_runtime(tmp_path, ram_bytes=0) as runtime:
        model = await runtime.load_model("stub.gguf")
        await answer(model, PROMPT)
        await kept(runtime, model)
        files = runtime.view.files["disk"]
        rows = runtime.cache.counters().rows
        disk.hangs = True
        done = await answer(model, PROMPT)
        assert (done.cache.hit, done.tokens) == ("cold", expected)
        asked = disk.asked
        assert asked > 0
        assert files.hung
        assert (await answer(model, PROMPT)).tokens == expected
        assert disk.asked == asked, "nobody asks a disk that hangs"
        counters = runtime.cache.counters()
        assert counters.read_timeouts == 2
        assert counters.corrupt_rows == 0
        assert counters.rows >= rows, "what lies there is not forgotten"
        await disk.let_go(files)
        again = await answer(model, PROMPT)
        assert (again.cache.hit, again.tokens) == ("exact", expected)


async def test_rows_in_memory_are_read_while_a_disk_hangs(
    tmp_path: pathlib.Path, disk: Hanging
) -> None:
    expected = await cold(OTHER)
    async with stub_runtime(tmp_path) as runtime:
        on_disk = await runtime.load_model("stub.gguf", model_id="disk", tiers=("disk",))
        in_ram = await runtime.load_model("stub.gguf", model_id="ram", tiers=("ram",))
        await answer(on_disk, PROMPT)
        await kept(runtime, on_disk)
        await answer(in_ram, OTHER)
        await kept(runtime, in_ram)
        disk.hangs = True
        await answer(on_disk, PROMPT)
        done = await answer(in_ram, OTHER)
        assert (done.cache.hit, done.cache.tier, done.tokens) == ("exact", "ram", expected)
        await disk.let_go(runtime.view.files["disk"])


async def test_a_read_that_comes_back_late_writes_into_nobody_elses_state(
    tmp_path: pathlib.Path, disk: Hanging
) -> None:
    """The frame that it fills is not used again before it has come back."""
    freed: list[object] = []

    async with stub_runtime(tmp_path, ram_bytes=0) as runtime:
        model = await runtime.load_model("stub.gguf")
        await answer(model, PROMPT)
        await kept(runtime, model)

        class Watched(StubFrame):
            def __del__(self) -> None:
                freed.append(self.n)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("erllama.backend.stub.StubFrame", Watched)
            disk.hangs = True
            await answer(model, PROMPT)
            assert freed == []
            await disk.let_go(runtime.view.files["disk"])
            await until(lambda: bool(freed))


class Stuck:
    """Writing to a folder that hangs; others are written as ever."""

    def __init__(self, root: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._root = root
        self._go = threading.Event()
        self.waiting = 0
        real: Callable[..., Any] = publish.write_temporary

        def write(folder: pathlib.Path, parts: Any, **options: Any) -> Any:
            if folder.is_relative_to(root):
                self.waiting += 1
                assert self._go.wait(PATIENCE_S)
            return real(folder, parts, **options)

        monkeypatch.setattr(row_store, "write_temporary", write)

    def let_go(self) -> None:
        self._go.set()


async def test_writes_that_hang_leave_the_threads_of_the_program_alone(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = Stuck(tmp_path / "disk", monkeypatch)
    in_memory = (tmp_path / "shm", 1 << 24)
    async with rig(tmp_path / "disk", ram_file=in_memory) as made:
        await made.offer(*ROWS, tiers=("disk",))
        await settle()
        # more at once than the default executor has threads
        assert await asyncio.gather(*(asyncio.to_thread(int, n) for n in range(64)))
        await made.offer(*[new_row([i] * 90) for i in range(1, 9)], tiers=("ram_file",))
        await until(lambda: made.view.index.count("ram_file") == 8)
        assert made.view.index.count("disk") == 0
        assert 0 < stuck.waiting <= 2
        stuck.let_go()
        await made.cache.flush()
        assert made.view.index.count("disk") == len(ROWS)


async def test_a_write_that_takes_too_long_is_counted(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck, clock = Stuck(tmp_path, monkeypatch), ManualClock()
    async with rig(tmp_path, clock=clock) as made:
        await made.offer(ROWS[0])
        await until(lambda: stuck.waiting == 1)
        await clock.advance(61.0)
        await clock.advance(10.0)
        await made.offer()
        assert made.counter("write_timeouts") == 1
        stuck.let_go()
        await made.cache.flush()


async def test_hit_counts_are_kept_without_an_orderly_end(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock()
    writes: list[int] = []
    real = row_store.RowStore.remember_hits

    def remember(self: row_store.RowStore, hits: dict[str, int]) -> None:
        real(self, hits)
        writes.append(len(hits))

    monkeypatch.setattr(row_store.RowStore, "remember_hits", remember)

    async def pass_time(made: Any) -> None:
        await clock.advance(HITS_S + 1)
        await made.actor("cache:disk").probe()

    async with rig(tmp_path, clock=clock) as made:
        await made.keep(*ROWS)
        await pass_time(made)
        assert writes == [], "nothing was used"
        used = list(made.view.index)[:3]
        made.view.index.touch(used, 0.0)
        made.view.index.touch(used[:1], 0.0)
        await pass_time(made)
        assert writes == [3]
        await pass_time(made)
        assert writes == [3], "nothing was used since"
        monkeypatch.undo()
        seen = {found.meta.id.name: found.hits for found in made.files.scan().found}
        assert sorted(seen.values()) == [0] * 5 + [1, 1, 2]


async def test_what_saving_costs_the_lane_is_counted() -> None:
    async with stub_runtime() as runtime:
        model = await runtime.load_model("stub.gguf")
        assert runtime.cache.counters().save_total_ns == 0
        await answer(model, PROMPT)
        await kept(runtime, model)
        assert runtime.cache.counters().save_total_ns > 0
