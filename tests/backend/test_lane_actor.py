"""The lane's actor: a thread that went down is replaced, after it was joined."""

from __future__ import annotations

import asyncio

import pytest

from erllama.actor import start
from erllama.actor.childspec import ChildSpec
from erllama.actor.supervisor import Supervisor
from erllama.backend.lane import Lane
from erllama.backend.lane_actor import LaneActor
from erllama.errors import EngineCrashed
from tests.backend.test_lane import go_down, lane_threads


async def test_a_lane_that_went_down_comes_back_as_another_thread() -> None:
    lane = Lane()
    root = await start(Supervisor([ChildSpec("lane", lambda: LaneActor(lane))]), name="root")
    generation = lane.status().generation
    before = await lane.submit(1, lane_threads)
    with pytest.raises(EngineCrashed):
        await lane.submit(1, go_down)
    while lane.status().generation == generation:
        await asyncio.sleep(0)
    await lane.wait_up()
    assert lane.status().generation == generation + 1
    after = await lane.submit(1, lane_threads)
    assert len(before) == len(after) == 1
    assert before != after
    assert not before[0].is_alive()
    await root.stop()
    assert lane_threads() == []


async def test_two_runtimes_keep_one_thread_when_it_goes_down() -> None:
    lanes = [Lane(), Lane()]
    roots = [
        await start(
            Supervisor([ChildSpec("lane", lambda lane=lane: LaneActor(lane))]),  # type: ignore[misc]
            name="root",
        )
        for lane in lanes
    ]
    generation = lanes[0].status().generation
    with pytest.raises(EngineCrashed):
        await lanes[0].submit(1, go_down)
    while lanes[0].status().generation == generation:
        await asyncio.sleep(0)
    for lane in lanes:
        await lane.wait_up()
        assert len(await lane.submit(1, lane_threads)) == 1
    await roots[0].stop()
    assert len(lane_threads()) == 1
    await roots[1].stop()
    assert lane_threads() == []
