"""The lane: the one thread of this process that computes.

Why one: llama.cpp computes with OpenMP. Once a second live thread of a process has started a
parallel region, and the process manages more threads than there are cores, GNU OpenMP stops
spinning at barriers and sleeps instead; decoding then runs at a quarter of its speed
(docs/lane.md). So every decode, encode, sampling and state call of every model of every Runtime
runs here, one at a time.

Contract
    State     stopped → running → down (the loop ended by accident) or stopped (told to).
    Writers   `submit` from any thread, under the lock; the lane thread takes jobs out.
    Invariant at most one lane thread is alive. A new one starts only after the old one is
              joined; while it cannot be joined, none starts (`EngineStuck`).
    Jobs      each belongs to an owner (an engine); owners take turns by time used. A job is never
              interrupted: who wants it to end sets its engine's abort flag. Work that frees
              native memory outlives the loop: it is kept for the next one.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from erllama.backend.fairness import FairQueue
from erllama.backend.inbox import Inbox
from erllama.errors import EngineCrashed, EngineStuck
from erllama.types import LaneInfo

T = TypeVar("T")

log = logging.getLogger("erllama.lane")

JOIN_S = 10.0
_CONTENDED_S = 0.5


_STUCK = (
    "the compute thread does not come back from a native call and a second one must not start "
    "beside it; restart the process"
)


class _Job:
    """Work, and who hears of its result.

    Attributes:
        kept: it outlives the loop of the lane.
        goes_on: asked after it was done whether it is to be done again; it then waits for its next
            turn before anybody hears of this one.
    """

    __slots__ = ("deliver", "goes_on", "kept", "work")

    def __init__(
        self,
        work: Callable[[], Any],
        deliver: Callable[[Any, BaseException | None], None],
        *,
        kept: bool = False,
        goes_on: Callable[[], bool] | None = None,
    ) -> None:
        self.work = work
        self.deliver = deliver
        self.kept = kept
        self.goes_on = goes_on


class _ComputeThread:
    """The process-wide thread and its queue, counted by the `Lane` handles that use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: FairQueue[_Job] = FairQueue()
        self._wake: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._handles: set[Lane] = set()
        self._accepting = False
        self._last_used: dict[Hashable, float] = {}
        self._running: Hashable | None = None
        self.generation = 0
        self.stuck = False
        self.busy_since: float | None = None

    def acquire(self, handle: Lane) -> None:
        """Count `handle` in and see that a thread runs. May wait for an old thread's end."""
        with self._lock:
            old = None if self._accepting else self._thread
        self._join(old)
        with self._lock:
            self._handles.add(handle)
            if self._accepting:
                return
            self._wake = queue.SimpleQueue()
            for _ in range(len(self._jobs)):
                self._wake.put(True)
            self._accepting = True
            self.generation += 1
            self._thread = threading.Thread(
                target=self._main, args=(self._wake,), name="erllama-lane", daemon=True
            )
            self._thread.start()

    def release(self, handle: Lane) -> None:
        """Count `handle` out; the last one ends the thread, after what is queued."""
        with self._lock:
            self._handles.discard(handle)
            if self._handles or not self._accepting:
                return
            self._accepting = False
            old = self._thread
            self._wake.put(False)
        self._join(old)

    def submit(self, owner: Hashable, job: _Job) -> None:
        with self._lock:
            if self.stuck and not job.kept:
                raise EngineStuck(_STUCK)
            if not self._accepting and not job.kept:
                raise EngineCrashed("the compute lane is down; it is being restarted, try again")
            self._jobs.put(owner, job)
            self._wake.put(True)

    def give_up(self) -> None:
        """The running job does not come back: who waits behind it is told, nobody may come."""
        with self._lock:
            self.stuck = True
            left = self._jobs.drain()
            for owner, job in left:
                if job.kept:
                    self._jobs.put(owner, job)
                    self._wake.put(True)
        for _, job in left:
            if not job.kept:
                job.deliver(None, EngineStuck(_STUCK))

    def contended(self, owner: Hashable) -> bool:
        """Whether another owner uses the lane, did so within half a second, or waits for it."""
        since = time.monotonic() - _CONTENDED_S
        with self._lock:
            recent = [other for other, used in self._last_used.items() if used > since]
            others = {*recent, *self._jobs.waiting(), self._running} - {owner, None}
        return bool(others)

    def forget(self, owner: Hashable) -> None:
        with self._lock:
            self._jobs.forget(owner)
            self._last_used.pop(owner, None)

    def status(self) -> LaneInfo:
        busy = self.busy_since
        with self._lock:
            return LaneInfo(
                alive=self._accepting,
                generation=self.generation,
                queued=len(self._jobs),
                busy_s=0.0 if busy is None else time.monotonic() - busy,
                stuck=self.stuck,
            )

    @staticmethod
    def _join(old: threading.Thread | None) -> None:
        if old is None or old is threading.current_thread():
            return
        old.join(JOIN_S)
        if old.is_alive():
            raise EngineStuck(_STUCK)

    def _main(self, wake: queue.SimpleQueue[bool]) -> None:
        reason: BaseException | None = None
        try:
            while wake.get():
                self._run_next()
            self._run_rest()
        except BaseException as error:
            reason = error
        finally:
            self._down(reason)

    def _run_next(self) -> None:
        with self._lock:
            if not len(self._jobs):
                return  # whoever gave the lane up has taken the job out
            owner, job = self._jobs.get()
            self._running = owner
        while self._run(owner, job):
            pass

    def _run(self, owner: Hashable, job: _Job) -> bool:
        """Do a job; whether it is its turn again, as it goes on and nobody else waits."""
        started = self.busy_since = time.monotonic()
        result, error, again, at_once = None, None, False, False
        try:
            result = job.work()
            again = job.goes_on is not None and job.goes_on()
        except Exception as failure:
            error = failure
        except BaseException:
            job.deliver(None, EngineCrashed("the compute lane went down during this call"))
            raise
        finally:
            self.busy_since = None
            ended = time.monotonic()
            with self._lock:
                self._running = None
                self.stuck = False  # late, but back
                if self._jobs.charge(owner, ended - started):
                    self._last_used[owner] = ended
                if again and self._accepting:
                    again, at_once = False, self._jobs.goes_on(owner)
                    if at_once:
                        self._running = owner
                    else:
                        self._jobs.put(owner, job)
                        self._wake.put(True)
        job.deliver(result, error)
        if again:
            job.deliver(None, EngineCrashed("the compute lane went down before this call"))
        return at_once

    def _run_rest(self) -> None:
        while True:
            with self._lock:
                if not len(self._jobs):
                    return
            self._run_next()

    def _down(self, reason: BaseException | None) -> None:
        """The loop has ended; by accident if there is a reason."""
        with self._lock:
            self._accepting = False
            left = self._jobs.drain()
            for owner, job in left:
                if job.kept:
                    self._jobs.put(owner, job)
            handles = list(self._handles)
        for _, job in left:
            if not job.kept:
                job.deliver(None, EngineCrashed("the compute lane went down before this call"))
        if reason is not None:
            for handle in handles:
                handle.notify_down(reason)


_process = _ComputeThread()
_owners = itertools.count(1)


class Lane:
    """A Runtime's handle on the process-wide compute thread. Made on its event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._up = asyncio.Event()
        self._inbox = Inbox(self._loop)
        self.on_down: Callable[[BaseException], object] | None = None

    async def start(self) -> None:
        """Use the lane; start its thread if none runs.

        Raises:
            EngineStuck: an old thread hangs in a native call.
        """
        await self._loop.run_in_executor(None, _process.acquire, self)
        self._inbox.open()
        self._up.set()

    async def wait_up(self) -> None:
        """Return once the lane takes jobs."""
        await self._up.wait()

    async def stop(self) -> None:
        """Stop using the lane; the last user ends its thread.

        Raises:
            EngineStuck: the thread hangs in a native call.
        """
        self._up.clear()
        try:
            await self._loop.run_in_executor(None, _process.release, self)
        finally:
            self._inbox.close()

    def new_owner(self) -> int:
        """A fresh owner id."""
        return next(_owners)

    def forget(self, owner: Hashable) -> None:
        """`owner` will submit no more."""
        _process.forget(owner)

    def submit(self, owner: Hashable, work: Callable[[], T]) -> asyncio.Future[T]:
        """Queue `work`; the future gets its result.

        Cancelling the future does not stop the work.

        Raises:
            EngineCrashed: the lane is down.
        """
        return self._submit(owner, work, kept=False)

    def submit_then(
        self,
        owner: Hashable,
        work: Callable[[], T],
        then: Callable[[T | None, BaseException | None], object],
        *,
        goes_on: Callable[[], bool] | None = None,
    ) -> None:
        """Queue `work`; `then(result, error)` is called on the event loop.

        Args:
            goes_on: asked on the lane after each time that the work was done, whether it is to be
                done again, at the next turn of `owner`; `then` is called for each.

        Raises:
            EngineCrashed: the lane is down.
        """
        post = self._inbox.post

        def deliver(result: Any, error: BaseException | None) -> None:
            post(then, result, error)

        _process.submit(owner, _Job(work, deliver, goes_on=goes_on))

    def submit_free(self, owner: Hashable, work: Callable[[], T]) -> asyncio.Future[T]:
        """Queue work that frees native memory: never refused, kept if the lane is down."""
        return self._submit(owner, work, kept=True)

    def post_free(self, owner: Hashable, work: Callable[[], object]) -> None:
        """`submit_free` for callers on any thread, with nobody waiting for the result."""
        _process.submit(owner, _Job(work, _log_failure, kept=True))

    def contended(self, owner: Hashable) -> bool:
        """Whether owners other than this one are using the lane too."""
        return _process.contended(owner)

    def give_up(self) -> None:
        """The running job obeys no abort and does not come back.

        What waits behind it gets `EngineStuck`, and so does all that comes, until it is back.
        """
        _process.give_up()

    def status(self) -> LaneInfo:
        """A snapshot; does not wait."""
        return _process.status()

    def notify_down(self, reason: BaseException) -> None:
        """Called on the lane thread when its loop ended by accident."""
        self._inbox.post(self._went_down, reason)

    def _went_down(self, reason: BaseException) -> None:
        self._up.clear()
        if self.on_down is not None:
            self.on_down(reason)

    def _submit(self, owner: Hashable, work: Callable[[], T], *, kept: bool) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self._loop.create_future()

        def deliver(result: Any, error: BaseException | None) -> None:
            self._inbox.post(_settle, future, result, error)

        _process.submit(owner, _Job(work, deliver, kept=kept))
        return future


def _log_failure(_result: Any, error: BaseException | None) -> None:
    if error is not None:
        log.error("freeing native memory failed: %r", error, exc_info=error)


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
