"""What all tests of the kernel share: time that stands still, and no task left behind."""

from collections.abc import AsyncIterator

import pytest

from erllama.actor.testing import ManualClock, no_orphan_tasks


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(autouse=True)
async def no_task_is_left_behind() -> AsyncIterator[None]:
    async with no_orphan_tasks():
        yield
