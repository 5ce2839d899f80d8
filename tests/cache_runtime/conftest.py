"""What all tests of the running cache share: no task is left behind."""

from collections.abc import AsyncIterator

import pytest

from erllama.actor.testing import no_orphan_tasks


@pytest.fixture(autouse=True)
async def no_task_is_left_behind() -> AsyncIterator[None]:
    async with no_orphan_tasks():
        yield
