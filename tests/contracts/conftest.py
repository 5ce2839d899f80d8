"""A rig per kind of engine, on the real lane."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from erllama.backend.lane import Lane
from tests.contracts.rig import KINDS, LLAMAS, Kind, Rig, on_thread


@pytest_asyncio.fixture
async def lane() -> AsyncIterator[Lane]:
    lane = Lane()
    await lane.start()
    yield lane
    await lane.stop()


@pytest_asyncio.fixture(params=KINDS, ids=lambda kind: kind.name)
async def rig(request: pytest.FixtureRequest, lane: Lane) -> AsyncIterator[Rig]:
    """A rig of every kind of engine."""
    rig = Rig(request.param, lane, lane.new_owner())
    await on_thread(rig.kind.path)  # the first time it is written
    yield rig
    await rig.close()


@pytest_asyncio.fixture(params=LLAMAS, ids=lambda kind: kind.name)
async def llama_rig(request: pytest.FixtureRequest, lane: Lane) -> AsyncIterator[Rig]:
    """A rig of every family that llama.cpp computes."""
    kind: Kind = request.param
    rig = Rig(kind, lane, lane.new_owner())
    yield rig
    await rig.close()
