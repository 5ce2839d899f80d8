"""The lane: one thread for the process, in turns, and what happens when it goes down."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from erllama.backend import lane as lane_module
from erllama.backend.lane import Lane
from erllama.errors import EngineCrashed, EngineStuck


@pytest_asyncio.fixture
async def lane() -> AsyncIterator[Lane]:
    lane = Lane()
    await lane.start()
    yield lane
    await lane.stop()


class Gate:
    """A job that holds the lane until it is told to go on."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.go_on = threading.Event()

    def __call__(self) -> None:
        self.entered.set()
        self.go_on.wait(5)  # a failed test must not hold up the others

    async def wait_entered(self) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self.entered.wait)


def lane_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "erllama-lane"]


async def test_a_job_runs_on_the_lane_thread_and_its_result_comes_back(lane: Lane) -> None:
    thread = await lane.submit(1, threading.current_thread)
    assert thread.name == "erllama-lane"
    assert thread is not threading.current_thread()


async def test_a_job_s_exception_comes_back_and_the_lane_lives(lane: Lane) -> None:
    def fail() -> None:
        raise ZeroDivisionError("on the lane")

    with pytest.raises(ZeroDivisionError, match="on the lane"):
        await lane.submit(1, fail)
    assert await lane.submit(1, lambda: 7) == 7


async def test_the_callback_of_submit_then_is_called_on_the_loop(lane: Lane) -> None:
    done: asyncio.Future[tuple[object, ...]] = asyncio.get_running_loop().create_future()

    def then(result: object, error: object) -> None:
        done.set_result((result, error, threading.current_thread()))

    lane.submit_then(1, lambda: "result", then)
    assert await done == ("result", None, threading.current_thread())


async def test_the_callback_of_submit_then_gets_the_exception(lane: Lane) -> None:
    done: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    lane.submit_then(1, lambda: 1 / 0, lambda _, error: done.set_result(error))
    assert isinstance(await done, ZeroDivisionError)


async def test_a_job_that_goes_on_is_done_again_and_each_time_is_heard_of(lane: Lane) -> None:
    left = [3, 2, 1]
    heard: list[object] = []
    over = asyncio.Event()

    def then(*said: object) -> None:
        heard.append(said)
        if len(heard) == 3:
            over.set()

    lane.submit_then(1, left.pop, then, goes_on=lambda: bool(left))
    await over.wait()
    await lane.submit(1, lambda: None)
    assert heard == [(1, None), (2, None), (3, None)]


async def test_a_job_that_goes_on_takes_turns_with_others_and_queues_behind_its_own(
    lane: Lane,
) -> None:
    gate = Gate()
    order: list[str] = []
    times: list[object] = []
    over = asyncio.Event()

    def then(*said: object) -> None:
        times.append(said)
        if len(times) == 7:
            over.set()

    def work() -> None:
        order.append("again")
        if len(order) == 1:
            gate()

    lane.submit_then(1, work, then, goes_on=lambda: len(order) < 9)
    await gate.wait_entered()
    mine = lane.submit(1, lambda: order.append("mine"))
    other = lane.submit(2, lambda: order.append("other"))
    gate.go_on.set()
    await asyncio.gather(mine, other)
    await over.wait()
    assert sorted(order[1:3]) == ["mine", "other"]
    assert order.count("again") == 7


async def test_a_job_that_fails_does_not_go_on(lane: Lane) -> None:
    heard: list[BaseException | None] = []
    lane.submit_then(1, lambda: 1 / 0, lambda _, error: heard.append(error), goes_on=lambda: True)
    await lane.submit(1, lambda: None)
    await asyncio.sleep(0)
    assert [type(error) for error in heard] == [ZeroDivisionError]


async def test_what_would_go_on_hears_that_the_lane_stops() -> None:
    lane = Lane()
    await lane.start()
    gate = Gate()
    heard: list[str | None] = []

    def then(result: str | None, error: BaseException | None) -> None:
        heard.append(result if error is None else type(error).__name__)

    def work() -> str:
        gate()
        return "done"

    lane.submit_then(1, work, then, goes_on=lambda: True)
    await gate.wait_entered()
    stopping = asyncio.create_task(lane.stop())
    await asyncio.sleep(0.05)
    gate.go_on.set()
    await stopping
    await asyncio.sleep(0)
    assert heard == ["done", "EngineCrashed"]


async def test_a_cancelled_future_neither_stops_the_job_nor_hurts_the_lane(lane: Lane) -> None:
    gate, ran = Gate(), threading.Event()
    lane.submit(1, gate)
    second = lane.submit(1, ran.set)
    second.cancel()
    gate.go_on.set()
    await lane.submit(1, lambda: None)
    assert ran.is_set()


async def test_several_handles_share_one_thread(lane: Lane) -> None:
    other = Lane()
    await other.start()
    assert await lane.submit(1, threading.get_ident) == await other.submit(2, threading.get_ident)
    assert len(lane_threads()) == 1
    await other.stop()
    assert await lane.submit(1, lambda: "still there") == "still there"


async def test_handles_of_two_event_loops_share_one_thread(lane: Lane) -> None:
    async def elsewhere() -> int:
        handle = Lane()
        await handle.start()
        ident = await handle.submit("other loop", threading.get_ident)
        await handle.stop()
        return ident

    def run() -> int:
        return asyncio.run(elsewhere())

    idents = await asyncio.gather(
        *(asyncio.get_running_loop().run_in_executor(None, run) for _ in range(3))
    )
    assert {*idents, await lane.submit(1, threading.get_ident)} == {idents[0]}


async def test_the_last_handle_ends_the_thread() -> None:
    first, second = Lane(), Lane()
    await first.start()
    await second.start()
    await first.stop()
    assert len(lane_threads()) == 1
    await second.stop()
    assert lane_threads() == []
    assert not first.status().alive


async def test_starting_again_starts_a_new_thread(lane: Lane) -> None:
    generation = lane.status().generation
    await lane.stop()
    await lane.start()
    assert lane.status().generation == generation + 1
    assert len(lane_threads()) == 1


async def test_what_is_queued_when_the_lane_stops_is_done_first() -> None:
    lane = Lane()
    await lane.start()
    gate, order = Gate(), list[int]()
    lane.submit(1, gate)
    jobs = [lane.submit(1, lambda i=i: order.append(i)) for i in range(5)]  # type: ignore[misc]
    stopping = asyncio.ensure_future(lane.stop())
    await gate.wait_entered()
    gate.go_on.set()
    await stopping
    await asyncio.gather(*jobs)
    assert order == [0, 1, 2, 3, 4]


async def test_a_stopped_lane_refuses_jobs() -> None:
    lane = Lane()
    await lane.start()
    await lane.stop()
    with pytest.raises(EngineCrashed, match="down"):
        lane.submit(1, lambda: None)
    with pytest.raises(EngineCrashed, match="down"):
        lane.submit_then(1, lambda: None, lambda *_: None)


async def test_jobs_of_one_owner_run_in_order(lane: Lane) -> None:
    order: list[int] = []
    await asyncio.gather(
        *(lane.submit(1, lambda i=i: order.append(i)) for i in range(50))  # type: ignore[misc]
    )
    assert order == list(range(50))


async def test_owners_take_turns_by_the_time_they_use(
    lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000.0
    order: list[str] = []

    def job(owner: str, seconds: float) -> Callable[[], None]:
        def work() -> None:
            nonlocal now
            now += seconds
            order.append(owner)

        return work

    gate = Gate()
    held = lane.submit("gate", gate)
    await gate.wait_entered()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    jobs = [lane.submit("slow", job("slow", 3.0)) for _ in range(3)]
    jobs += [lane.submit("fast", job("fast", 1.0)) for _ in range(9)]
    gate.go_on.set()
    await asyncio.gather(held, *jobs)
    monkeypatch.undo()
    # 3 seconds of the one for 3 seconds of the other
    assert order[:8].count("slow") == 2
    assert order[:4].count("fast") == 3


async def test_a_new_owner_is_like_no_other(lane: Lane) -> None:
    assert len({lane.new_owner() for _ in range(10)}) == 10


# Contention


@pytest.fixture
def nobody_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """The owners of other tests used the lane a moment ago."""
    monkeypatch.setattr(lane_module._process, "_last_used", {})


@pytest.mark.usefixtures("nobody_before")
async def test_a_lone_owner_is_not_contended(lane: Lane) -> None:
    owner = lane.new_owner()
    await lane.submit(owner, lambda: None)
    assert not lane.contended(owner)
    assert lane.contended(lane.new_owner())
    lane.forget(owner)


@pytest.mark.usefixtures("nobody_before")
async def test_an_owner_contends_while_its_job_runs_or_waits(lane: Lane) -> None:
    mine, running, waiting = (lane.new_owner() for _ in range(3))
    gate = Gate()
    held = lane.submit(running, gate)
    await gate.wait_entered()
    assert lane.contended(mine)
    assert not lane.contended(running)
    behind = lane.submit(waiting, lambda: None)
    assert lane.contended(running)
    gate.go_on.set()
    await asyncio.gather(held, behind)
    lane.forget(running)
    lane.forget(waiting)
    assert not lane.contended(mine)


@pytest.mark.usefixtures("nobody_before")
async def test_an_owner_forgotten_by_its_own_last_job_contends_no_more(lane: Lane) -> None:
    owner, mine = lane.new_owner(), lane.new_owner()
    await lane.submit(owner, lambda: lane.forget(owner))
    assert not lane.contended(mine)


# Going down


def go_down() -> None:
    raise SystemExit("the lane's loop ends by accident")


async def downed(lane: Lane) -> BaseException:
    """Make the lane's thread go down, and wait until that was noticed."""
    noticed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
    lane.on_down = noticed.set_result
    with pytest.raises(EngineCrashed, match="during this call"):
        await lane.submit("killer", go_down)
    return await noticed


async def test_a_lane_that_went_down_says_why_and_takes_no_jobs(lane: Lane) -> None:
    assert isinstance(await downed(lane), SystemExit)
    assert not lane.status().alive
    assert lane.status().busy_s == 0
    with pytest.raises(EngineCrashed):
        lane.submit(1, lambda: None)


async def test_jobs_queued_behind_a_fatal_one_fail(lane: Lane) -> None:
    lane.on_down = lambda _: None
    gate = Gate()
    held = lane.submit("killer", gate)
    fatal = lane.submit("killer", go_down)
    behind = lane.submit("killer", lambda: "never")
    gate.go_on.set()
    await held
    with pytest.raises(EngineCrashed, match="during this call"):
        await fatal
    with pytest.raises(EngineCrashed, match="before this call"):
        await behind


async def test_frees_outlive_the_thread_and_run_on_the_next(lane: Lane) -> None:
    lane.on_down = lambda _: None
    gate, posted = Gate(), threading.Event()
    held = lane.submit("killer", gate)
    lane.submit("killer", go_down).add_done_callback(lambda done: done.exception())
    queued = lane.submit_free("killer", threading.get_ident)
    gate.go_on.set()
    await held
    for thread in lane_threads():
        await asyncio.get_running_loop().run_in_executor(None, thread.join)
    lane.post_free(2, posted.set)
    late = lane.submit_free(3, lambda: "late")
    assert not queued.done()
    generation = lane.status().generation
    await lane.start()
    assert lane.status().generation == generation + 1
    ident = await queued
    assert await late == "late"
    assert posted.is_set()
    assert ident == await lane.submit(1, threading.get_ident)


async def test_a_failing_free_that_nobody_waits_for_is_logged(
    lane: Lane, caplog: pytest.LogCaptureFixture
) -> None:
    lane.post_free(1, lambda: 1 / 0)
    await lane.submit(1, lambda: None)
    assert "freeing native memory failed" in caplog.text


async def test_no_second_thread_starts_while_the_old_one_hangs(
    lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    held = lane.submit(1, gate)
    await gate.wait_entered()
    generation = lane.status().generation
    monkeypatch.setattr(lane_module, "JOIN_S", 0.02)
    with pytest.raises(EngineStuck, match="restart the process"):
        await lane.stop()
    with pytest.raises(EngineStuck):
        await lane.start()
    assert len(lane_threads()) == 1
    assert lane.status().generation == generation
    gate.go_on.set()
    monkeypatch.setattr(lane_module, "JOIN_S", 10.0)
    await held
    await lane.start()
    assert lane.status().generation == generation + 1


async def test_the_status_shows_a_running_job_and_the_waiting_ones(lane: Lane) -> None:
    gate = Gate()
    jobs = [lane.submit(1, gate)]
    await gate.wait_entered()
    jobs += [lane.submit(1, lambda: None) for _ in range(3)]
    status = lane.status()
    assert status.alive
    assert status.queued == 3
    assert status.busy_s > 0
    gate.go_on.set()
    await asyncio.gather(*jobs)
    await lane.submit(1, lambda: None)
    assert lane.status().queued == 0


async def test_a_closed_loop_does_not_hurt_the_lane(lane: Lane) -> None:
    gate = Gate()

    async def leave_a_job() -> None:
        handle = Lane()
        await handle.start()
        handle.submit("gone", gate)
        handle.submit_then("gone", lambda: None, lambda *_: None)
        await gate.wait_entered()
        # and its loop closes with the job on the lane

    await asyncio.get_running_loop().run_in_executor(None, lambda: asyncio.run(leave_a_job()))
    gate.go_on.set()
    assert await lane.submit(1, lambda: "well") == "well"
    forgotten = [h for h in lane_module._process._handles if h is not lane]
    for handle in forgotten:
        lane_module._process.release(handle)
