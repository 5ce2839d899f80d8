"""Posts from other threads to an event loop: each delivered once, in order, whatever happens."""

from __future__ import annotations

import asyncio
import contextvars
import errno
import gc
import os
import pathlib
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import pytest_asyncio

from erllama.actor.testing import forbid_blocked_loop
from erllama.backend import inbox as inbox_module
from erllama.backend.inbox import Inbox
from erllama.backend.lane import Lane

_PYTHON_API = 4  # ctypes: FUNCFLAG_PYTHONAPI, a call that keeps the interpreter lock


@pytest_asyncio.fixture
async def inbox() -> AsyncIterator[Inbox]:
    inbox = Inbox(asyncio.get_running_loop())
    inbox.open()
    yield inbox
    inbox.close()


def from_thread(work: Callable[[], object]) -> None:
    """Run `work` on another thread, to its end."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def descriptors() -> int:
    """How many this process has open."""
    return sum(1 for _ in pathlib.Path("/proc/self/fd").iterdir())


async def arrivals(post: Callable[..., object], n: int) -> list[int]:
    """Post so many numbers from another thread, and wait for the last of them."""
    got: list[int] = []
    last = asyncio.Event()

    def work() -> None:
        for number in range(n):
            post(got.append, number)
        post(last.set)

    from_thread(work)
    assert not got, "a post was delivered on the thread that posted"
    await last.wait()
    return got


async def test_posts_arrive_in_their_order_on_the_loop_s_thread(inbox: Inbox) -> None:
    assert inbox.is_open
    assert await arrivals(inbox.post, 100) == list(range(100))
    here: asyncio.Future[threading.Thread] = asyncio.get_running_loop().create_future()
    from_thread(lambda: inbox.post(lambda: here.set_result(threading.current_thread())))
    assert await here is threading.current_thread()


async def test_no_post_of_many_threads_is_lost(inbox: Inbox) -> None:
    got: list[tuple[int, int]] = []
    all_here = asyncio.Event()

    def take(post: tuple[int, int]) -> None:
        got.append(post)
        if len(got) == 4 * 500:
            all_here.set()

    def work(name: int) -> None:
        for number in range(500):
            inbox.post(take, (name, number))

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    await all_here.wait()
    for thread in threads:
        thread.join()
    for name in range(4):
        assert [number for who, number in got if who == name] == list(range(500))


async def test_a_post_of_a_callback_is_delivered_too(inbox: Inbox) -> None:
    done = asyncio.Event()
    inbox.post(inbox.post, done.set)
    await done.wait()


async def test_the_write_that_wakes_the_loop_keeps_the_interpreter_lock() -> None:
    assert inbox_module._write()._flags_ & _PYTHON_API


async def test_an_exception_goes_to_the_loop_s_handler_and_stops_no_other(inbox: Inbox) -> None:
    loop = asyncio.get_running_loop()
    told: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: told.append(context))
    done = asyncio.Event()

    def fail() -> None:
        raise ZeroDivisionError("in a callback")

    for callback in (fail, fail, done.set):
        inbox.post(callback)
    await done.wait()
    assert [type(context["exception"]) for context in told] == [ZeroDivisionError] * 2
    assert "fail" in told[0]["message"]


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that a test runs and closes by itself."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def turn(loop: asyncio.AbstractEventLoop, inbox: Inbox) -> None:
    """Run the loop until what was posted is delivered."""
    inbox.post(loop.stop)
    loop.run_forever()


def test_what_ends_the_loop_leaves_the_posts_behind_it_for_its_next_run(
    loop: asyncio.AbstractEventLoop,
) -> None:
    inbox = Inbox(loop)
    inbox.open()
    got: list[int] = []

    def interrupt() -> None:
        raise KeyboardInterrupt

    for callback in (lambda: got.append(1), interrupt, lambda: got.append(2)):
        inbox.post(callback)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    assert got == [1]
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert got == [1, 2]
    inbox.close()


async def test_closing_delivers_what_was_posted_before(inbox: Inbox) -> None:
    got: list[int] = []
    for number in range(3):
        inbox.post(got.append, number)
    inbox.close()
    assert got == []
    inbox.post(got.append, 3)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert got == [0, 1, 2, 3]


async def test_a_callback_may_close_the_inbox(inbox: Inbox) -> None:
    got: list[int] = []
    done = asyncio.Event()
    for callback in (lambda: got.append(1), inbox.close, lambda: got.append(2), done.set):
        inbox.post(callback)
    await done.wait()
    assert got == [1, 2]


async def test_a_closed_inbox_delivers_and_opens_again(inbox: Inbox) -> None:
    states = []
    for change in (inbox.close, inbox.close, inbox.open):
        change()
        states.append(inbox.is_open)
        assert await arrivals(inbox.post, 10) == list(range(10))
    assert states == [False, False, True]
    assert await arrivals(inbox.post, 10) == list(range(10))


async def test_opening_and_closing_again_and_again_takes_no_descriptor(inbox: Inbox) -> None:
    before = descriptors()
    for _ in range(5):
        inbox.open()
        inbox.open()
        inbox.close()
    assert descriptors() == before - 1
    inbox.open()


def test_posts_to_a_closed_loop_are_dropped(loop: asyncio.AbstractEventLoop) -> None:
    inbox = Inbox(loop)
    inbox.open()
    turn(loop, inbox)
    loop.close()
    inbox.post(pytest.fail, "delivered by a closed loop")
    assert not inbox._calls
    inbox.close()
    inbox.post(pytest.fail, "delivered by a closed loop")


def test_a_loop_that_closes_without_a_word_leaves_no_descriptor(
    loop: asyncio.AbstractEventLoop,
) -> None:
    inbox = Inbox(loop)
    inbox.open()
    fd = inbox._fd
    assert fd is not None
    loop.close()
    del inbox
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


async def test_a_loop_that_watches_no_descriptors_is_woken_as_usual(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()

    def refuse(*_: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(loop, "add_reader", refuse)
    before = descriptors()
    inbox = Inbox(loop)
    inbox.open()
    assert not inbox.is_open
    assert descriptors() == before
    assert await arrivals(inbox.post, 10) == list(range(10))
    inbox.close()


@pytest.mark.parametrize("how", ["no descriptor is left", "another system"])
async def test_a_system_without_the_means_delivers_all_the_same(
    monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EMFILE, "too many open files")

    inbox = Inbox(asyncio.get_running_loop())
    with monkeypatch.context() as patch:
        if how == "another system":
            patch.setattr(sys, "platform", "darwin")
        else:
            patch.setattr(os, "eventfd", refuse)
        inbox.open()
    assert not inbox.is_open
    assert await arrivals(inbox.post, 10) == list(range(10))


async def test_a_write_that_fails_loses_no_post(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_module, "_write", lambda: lambda *_: -1)
    assert await arrivals(inbox.post, 10) == list(range(10))


async def test_callbacks_do_not_see_the_context_of_whoever_opened() -> None:
    variable = contextvars.ContextVar("variable", default="none")
    variable.set("the opener's")
    inbox = Inbox(asyncio.get_running_loop())
    inbox.open()
    seen: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    inbox.post(lambda: seen.set_result(variable.get()))
    assert await seen == "none"
    inbox.close()


async def test_the_guard_against_a_blocked_loop_sees_what_a_callback_burns(inbox: Inbox) -> None:
    done = asyncio.Event()

    def burn() -> None:
        begin = time.thread_time()
        while time.thread_time() - begin < 0.01:
            pass
        done.set()

    guard = forbid_blocked_loop(limit=0.005)
    guard.__enter__()
    inbox.post(burn)
    await done.wait()
    with pytest.raises(AssertionError, match=r"Inbox\._deliver"):
        guard.__exit__(None, None, None)


# The lane's inbox


async def test_a_lane_opens_its_inbox_while_it_runs() -> None:
    lane = Lane()
    for _ in range(2):
        await lane.start()
        assert lane._inbox.is_open
        assert await lane.submit(1, lambda: 7) == 7
        await lane.stop()
        assert not lane._inbox.is_open


async def test_a_result_that_comes_after_the_stop_arrives() -> None:
    lane, other = Lane(), Lane()
    await other.start()
    await lane.start()
    gate = threading.Event()
    result = lane.submit(1, lambda: gate.wait(5))
    await lane.stop()  # the thread goes on, as the other handle uses it
    gate.set()
    assert await result
    await other.stop()
