"""What all tests of models share: no task is left behind, and a small real model."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from erllama.actor.testing import ManualClock, no_orphan_tasks
from tests.models.cache import cached_model
from tests.models.shapes import TINY


@pytest.fixture(autouse=True)
async def no_task_is_left_behind() -> AsyncIterator[None]:
    async with no_orphan_tasks():
        yield


@pytest.fixture(scope="session")
def tiny_gguf() -> Path:
    """A llama-architecture model of random weights, 512 tokens of vocabulary."""
    return cached_model(TINY)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    """The clock of all runtimes and actors that are made in the test: it stands still."""
    clock = ManualClock()
    for place in ("actor.actor", "actor.registry", "runtime"):
        monkeypatch.setattr(f"erllama.{place}.LoopClock", lambda: clock)
    return clock
