"""A model on a busy machine warns, at load and while it runs; and nothing waits for that."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from erllama.actor.testing import ManualClock
from erllama.backend.cpu_time import CpuTime
from erllama.model import core_watch
from erllama.model.core_watch import EVERY_S, REPEAT_S, STALE_S, CoreWatch
from erllama.model.gauges import Gauges
from tests.model.staging import Stage, until

LOG = "erllama.model"


class Cores:
    """Two cores whose time goes on with the test's clock, and others that take a share of it."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.taken = 0.0
        self.reads = 0
        self.error: Exception | None = None
        self._busy = 0.0
        self._at = 0.0

    def read(self) -> CpuTime | None:
        self.reads += 1
        if self.error is not None:
            raise self.error
        self._busy += self.taken * (self.clock.now() - self._at)
        self._at = self.clock.now()
        return CpuTime(at=self._at, cores=2, busy=self._busy, own=0.0)


class Watched:
    """A watch over a model's threads, which looks when time has passed."""

    def __init__(self, cores: Cores) -> None:
        self.gauges = Gauges("m")
        self.cores = cores
        self.watch = CoreWatch(gauges=self.gauges, clock=cores.clock, read=cores.read)

    async def after(self, seconds: float, act: Callable[[], None] | None = None) -> None:
        await self.cores.clock.advance(seconds)
        (act or self.watch.look)()
        await until(lambda: not self.watch._reading)

    async def load(self, n_threads: int = 2, seconds: float = 3.0) -> None:
        await self.after(0, self.watch.begin)
        await self.after(seconds, lambda: self.watch.loaded(n_threads))

    @property
    def warnings(self) -> tuple[str, ...]:
        return self.gauges.snapshot(self.cores.clock.now()).warnings


@pytest.fixture
def cores() -> Cores:
    return Cores(ManualClock())


async def test_a_machine_that_is_busy_while_a_model_loads_is_told_of(
    cores: Cores, caplog: pytest.LogCaptureFixture
) -> None:
    watched = Watched(cores)
    cores.taken = 1.0
    with caplog.at_level(logging.WARNING, LOG):
        await watched.load()
    (warning,) = watched.warnings
    assert "other processes take 1.0 of the 2 cores" in warning
    (line,) = caplog.messages
    assert line == f"model 'm': {warning} (docs/busy-machine.md)"


async def test_a_quiet_machine_is_not_told_of(
    cores: Cores, caplog: pytest.LogCaptureFixture
) -> None:
    watched = Watched(cores)
    await watched.load()
    for _ in range(20):
        await watched.after(EVERY_S)
    assert cores.reads == 22
    assert watched.warnings == ()
    assert caplog.messages == []


async def test_a_load_too_short_to_say_anything_is_looked_at_soon_again(cores: Cores) -> None:
    watched = Watched(cores)
    cores.taken = 2.0
    await watched.load(seconds=0.1)
    assert watched.warnings == ()
    await watched.after(1.0)
    assert watched.warnings != ()


async def test_what_begins_while_the_model_runs_is_seen_and_so_is_its_end(cores: Cores) -> None:
    watched = Watched(cores)
    await watched.load()
    cores.taken = 1.5
    await watched.after(EVERY_S)
    assert "take 1.5 of the 2 cores" in watched.warnings[0]
    cores.taken = 0.1
    await watched.after(EVERY_S)
    assert watched.warnings == ()


async def test_it_looks_seldom_however_often_it_is_asked(cores: Cores) -> None:
    watched = Watched(cores)
    await watched.load()
    reads = cores.reads
    for _ in range(40):
        await watched.after(EVERY_S / 20)
    assert cores.reads - reads == 2


async def test_a_shortage_that_stays_is_written_to_the_log_seldom(
    cores: Cores, caplog: pytest.LogCaptureFixture
) -> None:
    watched = Watched(cores)
    cores.taken = 1.0
    with caplog.at_level(logging.WARNING, LOG):
        await watched.load()
        for _ in range(int(1.5 * REPEAT_S / EVERY_S)):
            await watched.after(EVERY_S)
    assert len(caplog.messages) == 2


async def test_what_was_long_ago_is_neither_shown_nor_compared_with(cores: Cores) -> None:
    watched = Watched(cores)
    cores.taken = 2.0
    await watched.load()
    assert watched.warnings != ()
    await cores.clock.advance(STALE_S + 1)
    assert watched.warnings == ()
    cores.taken = 0.0
    await watched.after(0)
    assert watched.warnings == ()


async def test_a_model_on_a_gpu_is_not_watched(cores: Cores) -> None:
    watched = Watched(cores)
    cores.taken = 2.0
    await watched.load(n_threads=0)
    await watched.after(EVERY_S)
    assert cores.reads == 1
    assert watched.warnings == ()


async def test_a_reading_that_fails_fails_nothing(cores: Cores) -> None:
    watched = Watched(cores)
    cores.error = OSError("no such file")
    await watched.load()
    await watched.after(EVERY_S)
    assert cores.reads == 2
    assert watched.warnings == ()


async def test_a_models_status_warns_while_it_serves(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    cores = Cores(clock)
    monkeypatch.setattr(core_watch, "read_cpu_time", cores.read)
    async with Stage().model(n_threads_batch=2) as model:
        assert model.status().warnings == ()
        cores.taken = 1.0
        for _ in range(2):
            reads = cores.reads
            await clock.advance(EVERY_S)
            await model.complete([1, 2, 3], max_tokens=2, temperature=0)
            await until(lambda: cores.reads > reads)  # noqa: B023
        await until(lambda: model.status().warnings != ())
        assert "take 1.0 of the 2 cores" in model.status().warnings[0]
