"""What the arbiter decides: room, quotas, what goes first, reservations that take too long."""

from __future__ import annotations

import asyncio
import itertools
import pathlib
import random
import threading
from collections.abc import Coroutine
from typing import Any

import msgspec
import pytest

from erllama.actor.testing import ManualClock, settle
from erllama.cache.arbiter import RESERVATION_S
from erllama.cache.key import block_key
from erllama.cache.messages import Opened, Reserve, StillWanted, Written
from erllama.cache.publish import Stage
from erllama.cache.reservation import Reservation
from erllama.cache.row import HEAD_BYTES, RowId
from erllama.cache.row_store import Found
from erllama.cache.trie import Tier
from erllama.errors import CacheError
from tests.cache.support import packed, run
from tests.cache_runtime.rig import (
    PATIENCE_S,
    Rig,
    held,
    names,
    new_row,
    rig,
    row_files,
    temporaries,
)

ROWS = [new_row([i] * 100) for i in range(1, 9)]
ONE = held(ROWS[0])


def disk_use(made: Rig) -> int:
    return sum(path.stat().st_size for path in made.root.rglob("*/*/*") if path.is_file())


async def deleted(made: Rig) -> None:
    """Wait until the tier has deleted what it was told to."""
    await made.actor("cache:disk").probe()


# Quotas


async def test_rows_go_to_the_first_tier_and_to_disk_besides(tmp_path: pathlib.Path) -> None:
    async with rig(tmp_path, ram=10 * ONE) as made:
        await made.keep(ROWS[0])
        assert made.tiers_of(ROWS[0]) == ("ram", "disk")
        await made.keep(ROWS[1], write_through=False)
        assert made.tiers_of(ROWS[1]) == ("ram",)
        await made.keep(ROWS[2], tiers=("ram",))
        assert made.tiers_of(ROWS[2]) == ("ram",)
        await made.keep(ROWS[3], tiers=("disk", "ram"))
        assert made.tiers_of(ROWS[3]) == ("disk",)
        assert {path.name for path in row_files(tmp_path)} == names([ROWS[0], ROWS[3]])


async def test_a_row_that_was_kept_in_memory_only_is_written_when_it_is_offered_again(
    tmp_path: pathlib.Path,
) -> None:
    async with rig(tmp_path, ram=10 * ONE) as made:
        await made.keep(ROWS[0], write_through=False)
        await made.keep(ROWS[0])
        assert made.tiers_of(ROWS[0]) == ("ram", "disk")
        assert made.counter("saves_finish") == 1


async def test_without_ram_rows_go_to_files(tmp_path: pathlib.Path) -> None:
    shm = tmp_path / "shm"
    async with rig(tmp_path / "kv", ram_file=(shm, 2 * ONE)) as made:
        await made.keep(*ROWS[:2])
        assert made.tiers_of(ROWS[0]) == ("ram_file",)
        assert {path.name for path in row_files(shm)} == names(ROWS[:2])
        await made.keep(ROWS[2])
        assert made.counter("ram_file_bytes") == 2 * ONE
        assert made.counter("evictions") == 1


@pytest.mark.parametrize("tier", ["ram", "ram_file", "disk"])
async def test_no_tier_ever_holds_more_than_its_quota(tmp_path: pathlib.Path, tier: Tier) -> None:
    quota = 3 * ONE + 100
    over: list[int] = []

    def look(_: Stage) -> None:
        counted = made.view.index.bytes(tier)
        if counted > quota:
            over.append(counted)

    chance = random.Random(3)
    async with rig(
        tmp_path / "kv",
        ram=quota if tier == "ram" else 0,
        disk=quota if tier == "disk" else None,
        ram_file=(tmp_path / "shm", quota) if tier == "ram_file" else None,
        at=look,
    ) as made:
        for _ in range(40):
            await made.offer(*chance.choices(ROWS, k=3))
            assert made.view.index.bytes(tier) <= quota
        await made.cache.flush()
        assert over == []
        assert 2 * ONE < made.view.index.bytes(tier) <= quota
        if tier == "ram":
            assert sum(len(p) for parts in made.view.ram.values() for p in parts) <= quota
            assert len(made.view.ram) == made.counter("rows")
        else:
            await made.actor(f"cache:{tier}").probe()
            root = tmp_path / ("kv" if tier == "disk" else "shm")
            there = {path.name for path in row_files(root)}
            assert there == {row.id.name for row in made.view.index}
            assert sum(path.stat().st_size for path in row_files(root)) <= quota
        assert made.counter("evictions") > 0
        assert (await made.cache.verify()).bad == 0


async def test_rows_that_are_being_written_count(tmp_path: pathlib.Path) -> None:
    async with rig(tmp_path, disk=2 * ONE) as made:
        arbiter = made.actor("cache:arbiter")
        reserved = [await arbiter.call(Reserve(row, "disk")) for row in ROWS[:3]]
        assert [reservation is not None for reservation in reserved] == [True, True, False]
        assert made.counter("saves_dropped") == 1
        await arbiter.call(Written(reserved[0], ROWS[0].meta, "disk", 0))
        assert await arbiter.call(Reserve(ROWS[2], "disk")) is not None


async def test_bytes_are_counted_as_they_lie_on_the_disk(tmp_path: pathlib.Path) -> None:
    async with rig(tmp_path, ram=10 * ONE) as made:
        await made.keep(*ROWS)
        on_disk = sum(path.stat().st_size for path in row_files(tmp_path))
        assert made.counter("disk_bytes") == on_disk
    async with rig(tmp_path) as made:
        assert made.counter("disk_bytes") == on_disk


async def test_a_row_larger_than_a_tier_evicts_nothing_there(tmp_path: pathlib.Path) -> None:
    small, large = ROWS[0], new_row([9] * 128)
    async with rig(tmp_path, disk=held(large) - 1) as made:
        await made.keep(small)
        await made.keep(large)
        assert made.tiers_of(small) == ("disk",)
        assert made.tiers_of(large) == ()
        assert (made.counter("evictions"), made.counter("saves_dropped")) == (0, 1)
    async with rig(tmp_path / "other", ram=10 * ONE, disk=held(large) - 1) as made:
        await made.keep(small)
        await made.keep(large)
        assert made.tiers_of(small) == ("ram", "disk")
        assert made.tiers_of(large) == ("ram",)


async def test_a_folder_that_holds_more_than_the_quota_is_trimmed_at_the_start(
    tmp_path: pathlib.Path,
) -> None:
    async with rig(tmp_path) as made:
        await made.keep(*ROWS)
    async with rig(tmp_path, disk=3 * ONE) as made:
        await deleted(made)
        assert made.counter("disk_bytes") == 3 * ONE
        assert len(row_files(tmp_path)) == 3


async def test_pinned_rows_stay_and_the_new_one_is_dropped(tmp_path: pathlib.Path) -> None:
    async with rig(tmp_path, disk=2 * ONE) as made:
        await made.keep(*ROWS[:2])
        rows = list(made.view.index)
        made.view.index.pin(rows)
        await made.keep(ROWS[2])
        assert made.tiers_of(ROWS[2]) == ()
        assert made.counter("saves_dropped") == 1
        made.view.index.unpin(rows)
        await made.keep(ROWS[2])
        assert made.tiers_of(ROWS[2]) == ("disk",)


# What is given up


async def test_evict_bytes_deletes_files_and_says_how_much(tmp_path: pathlib.Path) -> None:
    async with rig(tmp_path, ram=20 * ONE) as made:
        await made.keep(*ROWS)
        freed = await made.cache.evict_bytes(2 * ONE, ["disk"])
        assert (freed.rows, freed.bytes) == (2, 2 * ONE)
        assert len(row_files(tmp_path)) == 6
        assert made.counter("ram_bytes") == 8 * ONE
        freed = await made.cache.evict_bytes(1 << 40)
        assert freed.bytes == 14 * ONE
        assert (row_files(tmp_path), made.view.ram, made.counter("rows")) == ([], {}, 0)
        for n, tiers in ((-1, None), (1, ["tape"])):
            with pytest.raises(CacheError, match="evict_bytes"):
                await made.cache.evict_bytes(n, tiers)  # type: ignore[arg-type]


async def test_a_longer_row_takes_the_place_of_the_shorter_one(tmp_path: pathlib.Path) -> None:
    short, longer = new_row([1] * 70), new_row([1] * 90)
    async with rig(tmp_path, ram=10 * ONE) as made:
        await made.keep(short)
        await made.keep(longer)
        await deleted(made)
        assert made.tiers_of(short) == ()
        assert {path.name for path in row_files(tmp_path)} == names([longer])
        assert list(made.view.ram) == [longer.meta.id]


async def test_gc_removes_what_nothing_can_reach(tmp_path: pathlib.Path) -> None:
    parent, child = new_row(run((1, 128))), new_row(run((1, 128), (2, 50)))
    tail, longer = new_row([3] * 70, logits=True), new_row([3] * 100)
    async with rig(tmp_path) as made:
        await made.keep(parent, child, tail, longer)
        index = made.view.index
        row = index.get(parent.meta.id)
        assert row is not None
        index.remove(row, "disk")
        freed = await made.cache.gc()
        assert freed.rows == 2
        assert made.tiers_of(longer) == ("disk",)
        assert made.tiers_of(child) == made.tiers_of(tail) == ()
        assert {path.name for path in row_files(tmp_path)} == names([parent, longer])


async def test_a_read_only_folder_is_read_and_never_changed(tmp_path: pathlib.Path) -> None:
    rows = [new_row([3] * 70, logits=True), new_row([3] * 100)]
    async with rig(tmp_path) as made:
        await made.keep(*rows)
        before = row_files(tmp_path)
        async with rig(tmp_path, read_only=True, ram=5 * ONE) as reader:
            assert reader.counter("rows") == 2
            await reader.keep(ROWS[0])
            assert reader.tiers_of(ROWS[0]) == ("ram",)
            assert (await reader.cache.gc()).rows in (0, 1)
            await reader.cache.evict_bytes(1 << 40)
            assert reader.counter("disk_bytes") > 0
        assert row_files(tmp_path) == before
        assert (await made.cache.verify()).bad == 0


async def test_hits_are_remembered(tmp_path: pathlib.Path) -> None:
    async with rig(tmp_path) as made:
        await made.keep(*ROWS[:2])
        row = made.view.index.get(ROWS[0].meta.id)
        assert row is not None
        for _ in range(5):
            made.view.index.touch([row], 1.0)
    async with rig(tmp_path) as made:
        hits = {row.key: row.hits for row in made.cache.rows()}
        assert hits == {ROWS[0].meta.key.hex(): 5, ROWS[1].meta.key.hex(): 0}
        freed = await made.cache.evict_bytes(1)
        assert freed.rows == 1
        assert made.tiers_of(ROWS[0]) == ("disk",), "what was used stays"


# Time


async def test_a_clock_that_goes_back_harms_nothing(tmp_path: pathlib.Path) -> None:
    clock = ManualClock(1e6)
    async with rig(tmp_path, disk=3 * ONE, clock=clock) as made:
        await made.keep(*ROWS[:2])
        clock._now = 5.0
        await made.keep(*ROWS[2:5])
        assert made.counter("disk_bytes") == 3 * ONE
        await clock.advance(20)
        await made.keep(*ROWS[5:])
        assert made.counter("disk_bytes") == 3 * ONE
        assert all(info.age_s >= 0 for info in made.cache.rows())
        assert (await made.cache.verify()).bad == 0


async def sweep(made: Rig, clock: ManualClock, seconds: float) -> None:
    await clock.advance(seconds)
    await made.actor("cache:arbiter").probe()


async def test_a_reservation_ends_before_the_link(tmp_path: pathlib.Path) -> None:
    clock = ManualClock()
    async with rig(tmp_path, disk=ONE, clock=clock) as made:
        arbiter = made.actor("cache:arbiter")
        late: Reservation = await arbiter.call(Reserve(ROWS[0], "disk"))
        assert await arbiter.call(Reserve(ROWS[0], "disk")) is None
        assert await arbiter.call(Reserve(ROWS[1], "disk")) is None, "no room beside it"
        await sweep(made, clock, RESERVATION_S + 6)
        again = await arbiter.call(Reserve(ROWS[0], "disk"))
        assert again is not None
        assert await arbiter.call(StillWanted(late)) is False
        assert await arbiter.call(StillWanted(again)) is True


async def test_a_writer_that_is_too_late_removes_its_temporary(tmp_path: pathlib.Path) -> None:
    clock, gate = ManualClock(), threading.Event()

    def wait(stage: Stage) -> None:
        if stage == "synced":
            assert gate.wait(PATIENCE_S)

    async with rig(tmp_path, clock=clock, at=wait) as made:
        await made.offer(ROWS[0])
        await settle()
        await sweep(made, clock, RESERVATION_S + 6)
        gate.set()
        await made.cache.flush()
        assert made.tiers_of(ROWS[0]) == ()
        assert temporaries(tmp_path) == row_files(tmp_path) == []
        await made.keep(ROWS[0])
        assert made.tiers_of(ROWS[0]) == ("disk",)


@pytest.mark.parametrize("state", ["good", "damaged", "missing"])
async def test_after_the_link_the_file_is_looked_at(tmp_path: pathlib.Path, state: str) -> None:
    clock = ManualClock()
    async with rig(tmp_path, clock=clock) as made:
        arbiter = made.actor("cache:arbiter")
        reservation = await arbiter.call(Reserve(ROWS[0], "disk"))
        assert await arbiter.call(StillWanted(reservation))
        if state != "missing":
            files, meta = made.files, ROWS[0].meta
            files.publish(files.write(meta, ROWS[0].parts)[0], meta)
        if state == "damaged":
            with files.path(meta.id).open("r+b") as file:
                file.seek(HEAD_BYTES)
                file.write(b"\xff")
        await sweep(made, clock, RESERVATION_S + 6)
        while await arbiter.call(Reserve(ROWS[0], "disk")) is None:
            if made.tiers_of(ROWS[0]):
                break
        assert made.tiers_of(ROWS[0]) == (("disk",) if state == "good" else ())
        assert len(row_files(tmp_path)) == int(state == "good")
        moved = [path.name for path in (tmp_path / "quarantine").iterdir()]
        assert moved == ([ROWS[0].meta.id.name] if state == "damaged" else [])


# Many rows


def many(n: int) -> tuple[Found, ...]:
    meta = ROWS[0].meta
    own = [packed([i, *range(63)]) for i in range(n)]
    metas = [
        msgspec.structs.replace(meta, tokens=t, key=block_key(meta.parent, t), pure_end=64)
        for t in own
    ]
    return tuple(Found(m, HEAD_BYTES + 256, i % 3, float(i % 1000)) for i, m in enumerate(metas))


async def most_gone_in_a_turn(made: Rig, work: Coroutine[Any, Any, object]) -> int:
    """Do `work`; how many rows left the index between two turns of the event loop, at most."""
    counts = [len(made.view.index)]
    doing = asyncio.create_task(work)
    while not doing.done():
        await asyncio.sleep(0)
        counts.append(len(made.view.index))
    await doing
    return max(before - after for before, after in itertools.pairwise(counts))


async def test_evicting_and_collecting_many_rows_give_others_a_turn(tmp_path: pathlib.Path) -> None:
    found = await asyncio.to_thread(many, 1_000)
    lost = [replaced(row, parent=bytes([7]) * 32, start=64) for row in found[:500]]
    async with rig(tmp_path, disk=1 << 40) as made:
        made.actor("cache:arbiter").urgent(Opened("disk", (*lost, *found[500:]), 0, writable=True))
        await made.offer()
        assert len(made.view.index) == 1_000
        assert await most_gone_in_a_turn(made, made.cache.gc()) <= 50
        assert len(made.view.index) == 500, "nothing leads to the others"
        assert await most_gone_in_a_turn(made, made.cache.evict_bytes(1 << 30)) <= 50
        assert len(made.view.index) == 0


def replaced(found: Found, *, parent: bytes, start: int) -> Found:
    """The same tokens behind others."""
    meta = found.meta
    key = block_key(parent, meta.tokens)
    end = start + meta.n_tokens
    moved = msgspec.structs.replace(meta, parent=parent, start=start, key=key, pure_end=end)
    return found._replace(meta=moved)


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_two_hundred_thousand_rows_are_taken_in_and_given_up(tmp_path: pathlib.Path) -> None:
    found = await asyncio.to_thread(many, 200_000)
    async with rig(tmp_path, disk=1 << 40, patience=800) as made:
        arbiter = made.actor("cache:arbiter")
        arbiter.urgent(Opened("disk", found, 0, writable=True))
        await made.offer()
        assert made.counter("rows") == 200_000
        assert made.counter("disk_bytes") == 200_000 * (HEAD_BYTES + 256)
        await made.keep(ROWS[0])
        assert made.tiers_of(ROWS[0]) == ("disk",)
        freed = await made.cache.evict_bytes(100 * (HEAD_BYTES + 256))
        assert freed.rows == 100


def test_a_row_counts_with_its_head() -> None:
    assert isinstance(ROWS[0].meta.id, RowId)
    assert ONE == HEAD_BYTES + 400
