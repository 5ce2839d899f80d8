"""The lane's actor: a thread that went down is replaced, after it was joined."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from erllama.actor import Ref, start
from erllama.actor.childspec import ChildSpec
from erllama.actor.supervisor import Supervisor
from erllama.backend.lane import Lane
from erllama.backend.lane_actor import LaneActor
from erllama.errors import EngineCrashed
from tests.backend.test_lane import go_down, lane_threads


async def started(lane: Lane) -> Ref:
    return await start(Supervisor([ChildSpec("lane", lambda: LaneActor(lane))]), name="root")


async def crash_and_recover(*lanes: Lane) -> None:
    """Make the thread go down; return when each lane heard of it and is up again."""
    heard = [watch(lane) for lane in lanes]
    with pytest.raises(EngineCrashed):
        await lanes[0].submit(1, go_down)
    for event in heard:
        await event.wait()
    for lane in lanes:
        await lane.wait_up()


def watch(lane: Lane) -> asyncio.Event:
    heard = asyncio.Event()
    tell: Callable[[BaseException], object] | None = lane.on_down
    assert tell is not None

    def note(reason: BaseException) -> None:
        tell(reason)
        heard.set()

    lane.on_down = note
    return heard


async def test_a_lane_that_went_down_comes_back_as_another_thread() -> None:
    lane = Lane()
    root = await started(lane)
    generation = lane.status().generation
    before = await lane.submit(1, lane_threads)
    await crash_and_recover(lane)
    assert lane.status().generation == generation + 1
    after = await lane.submit(1, lane_threads)
    assert len(before) == len(after) == 1
    assert before != after
    assert not before[0].is_alive()
    await root.stop()
    assert lane_threads() == []


async def test_two_runtimes_keep_one_thread_when_it_goes_down() -> None:
    lanes = [Lane(), Lane()]
    roots = [await started(lane) for lane in lanes]
    generation = lanes[0].status().generation
    await crash_and_recover(*lanes)
    assert lanes[0].status().generation == generation + 1
    for lane in lanes:
        assert len(await lane.submit(1, lane_threads)) == 1
    await roots[0].stop()
    assert len(lane_threads()) == 1
    await roots[1].stop()
    assert lane_threads() == []
