"""`kill -9` while rows are published: what was published is found, and nothing torn."""

from __future__ import annotations

import os
import pathlib
import random
import signal
import subprocess
import sys

import pytest

from erllama import ConfigError, Runtime
from erllama.backend.stub import StubBackend
from erllama.cache.row_store import RowStore
from tests.cache_runtime.rig import new_row, row_files, temporaries
from tests.models.child import run_child

SCRIPT = "import sys; from tests.crash.cache_programs import main; main(*sys.argv[1:])"
STAGES = ["created", "written", "synced", "linked", "directory_synced", "unlinked"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_kill_at_any_stage_leaves_whole_rows_only(tmp_path: pathlib.Path, stage: str) -> None:
    child = run_child(SCRIPT, "publish_until", tmp_path, stage)
    assert child.signal == signal.SIGKILL, child.stderr_tail
    fourth = stage in STAGES[STAGES.index("linked") :]
    files = RowStore(tmp_path)
    scan = files.scan()
    rows = [new_row([i + 1] * 100).meta for i in range(4 if fourth else 3)]
    assert {found.meta.id for found in scan.found} == {meta.id for meta in rows}
    assert all(files.is_good(meta.id) for meta in rows)
    assert scan.quarantined == 0
    assert temporaries(tmp_path) == []
    assert {path.stat().st_nlink for path in row_files(tmp_path)} == {1}
    if not fourth:
        row = new_row([4] * 100)
        files.publish(files.write(row.meta, row.parts)[0], row.meta)
        assert files.is_good(row.meta.id)


def start_child(*args: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


def kill_at_random(
    root: pathlib.Path, kills: int, model: str, *, lines: int = 25
) -> tuple[set[str], list[str]]:
    """Fill a folder, kill the child, and again; what was said to be kept, and of answers."""
    chance = random.Random(kills)
    known: set[str] = set()
    hits: list[str] = []
    for n in range(kills + 1):
        with start_child("fill", root, n, model) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write("\n".join(sorted(known)))
            child.stdin.close()
            assert child.stdout.readline() == "missing 0 bad 0\n", f"after kill {n}"
            left = chance.randrange(1, lines)
            for line in child.stdout:
                assert not line.startswith("wrong"), line
                if line.startswith("hit") and line.endswith("\n"):
                    hits.append(line.split()[1])
                if line.startswith("+") and line.endswith("\n"):
                    known.add(line[1:].strip())
                left -= 1
                if left == 0:
                    child.kill()
            assert child.wait() == -signal.SIGKILL
    return known, hits


def check_folder(root: pathlib.Path, known: set[str]) -> None:
    files = RowStore(root / "kv")
    scan = files.scan()
    assert scan.quarantined == 0
    assert known <= {found.meta.id.name for found in scan.found}
    assert all(files.is_good(found.meta.id) for found in scan.found)
    assert list((root / "kv" / "quarantine").iterdir()) == []


@pytest.mark.parametrize(
    "kills", [8, pytest.param(500, marks=[pytest.mark.long, pytest.mark.timeout(3_600)])]
)
def test_kills_at_random_lose_nothing_that_was_published(
    tmp_path: pathlib.Path, kills: int
) -> None:
    known, hits = kill_at_random(tmp_path, kills, "stub")
    check_folder(tmp_path, known)
    assert len(known) >= kills
    assert "cold" in hits
    if kills > 100:
        assert {"exact", "partial"} & set(hits), "later runs use what earlier ones have kept"


@pytest.mark.parametrize(
    "kills", [2, pytest.param(50, marks=[pytest.mark.long, pytest.mark.timeout(3_600)])]
)
def test_kills_with_a_real_model_lose_nothing_that_was_published(
    tmp_path: pathlib.Path, tiny_gguf: pathlib.Path, kills: int
) -> None:
    known, _ = kill_at_random(tmp_path, kills, str(tiny_gguf), lines=8)
    check_folder(tmp_path, known)
    assert known


# The lock


async def test_a_folder_in_use_is_refused_read_or_taken_after_a_kill(
    tmp_path: pathlib.Path,
) -> None:
    root = tmp_path / "kv"
    with start_child("hold", root) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        with pytest.raises(ConfigError, match=r"cache_dir: .*in use by another process"):
            await Runtime(backend=StubBackend, cache_dir=str(tmp_path)).start()
        for way in ({"cache_read_only": True}, {"cache_if_locked": "read_only"}):
            async with Runtime(backend=StubBackend, cache_dir=str(tmp_path), **way) as reader:
                assert reader.cache.counters().rows == 1
                assert (await reader.cache.verify()).bad == 0
                await reader.cache.evict_bytes(1 << 30, ["disk"])
        assert len(row_files(root)) == 1
        child.kill()
    async with Runtime(backend=StubBackend, cache_dir=str(tmp_path)) as owner:
        assert owner.cache.counters().rows == 1
        await owner.cache.evict_bytes(1 << 30, ["disk"])
    assert row_files(root) == []


async def test_a_folder_is_free_after_an_orderly_end(tmp_path: pathlib.Path) -> None:
    for _ in range(3):
        async with Runtime(backend=StubBackend, cache_dir=str(tmp_path)):
            pass
    with start_child("hold", tmp_path / "kv") as child:
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline() == "open\n"
        child.stdin.close()
        assert child.wait() == 0
    RowStore(tmp_path / "kv").close()
