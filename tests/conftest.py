"""What every test gets: a guard against callbacks that block the loop, and the --long switch.

The tests run in several processes beside each other (pytest-xdist): one a core, four at most.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from erllama.actor.testing import forbid_blocked_loop
from erllama.backend import lane
from erllama.model import core_watch

MOST_WORKERS = 4
"""More gain nothing: computing children and models of two threads have to fit beside them."""

# How long an example takes is up to the machine and whatever else it does.
settings.register_profile("erllama", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("erllama")

# Without bytecode each of the hundreds of child processes compiles erllama for over a second.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Threads of OpenMP that spin while they wait take the cores from those that they wait for, in this
# process and the others: two engines of two threads on two cores came to a tenth of their speed.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run crash, soak and fuzz tests at length")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Processes for `-n auto`; none for files or tests given by name, which start sooner so."""
    if not any(Path(argument).is_dir() for argument in config.args):
        return 0
    return min(len(os.sched_getaffinity(0)), MOST_WORKERS)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long"):
        return
    skip = pytest.mark.skip(reason="a long run: give --long")
    for item in items:
        if item.get_closest_marker("long") is not None:
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def lane_nobody_used() -> None:
    """What an earlier test computed does not count as company on the compute thread.

    Slices of prompts are shorter for half a second after somebody else has used it.
    """
    lane._process._last_used.clear()


@pytest.fixture(autouse=True)
def cores_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test depends on what else its machine is doing."""
    monkeypatch.setattr(core_watch, "read_cpu_time", lambda: None)


@pytest.fixture(autouse=True)
def loop_never_blocked() -> Iterator[None]:
    """Fail a test in which one callback burns more than 50 ms of the loop thread's CPU time."""
    with forbid_blocked_loop():
        yield
