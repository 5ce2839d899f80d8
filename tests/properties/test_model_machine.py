"""Hypothesis drives one runtime through whatever users and faults may do, in any order.

Checked after every step: the bounds of the queue, the gauges, the order in which requests are
begun. Checked at the end: every request was answered once and with the right tokens, every engine
was freed, no task is left.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from erllama import (
    CallTimeout,
    Completion,
    Done,
    EngineCrashed,
    Model,
    ModelNotFound,
    QueueFull,
    Runtime,
    SessionBusy,
    Stream,
)
from erllama.actor import Ref, kill
from erllama.actor.testing import settle
from erllama.backend.base import StepPlan
from erllama.model.job import Job
from erllama.model.submission import Submission
from tests.model.staging import PATIENCE_S, Stage, always, floor_of, never, until

T = TypeVar("T")

MAX_QUEUE = 4
MAX_TOKENS = 3
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": MAX_TOKENS}
ERRORS = (CallTimeout, EngineCrashed, ModelNotFound, QueueFull, SessionBusy)


@dataclass
class Asked:
    """A request on its way."""

    prompt: bytes
    task: asyncio.Task[Completion]
    stream: Stream | None
    may_time_out: bool
    cancelled: bool = False


class ModelMachine(RuleBasedStateMachine):
    """One runtime, one model, one user who does everything at once."""

    n_seq_max = 1
    arrivals: list[bytes]
    """The prompts in the order in which they reached a mailbox, of all incarnations."""

    @initialize()
    def begin(self) -> None:
        self.runner = asyncio.Runner()
        self.asked: list[Asked] = []
        self.count = 0
        self.paused = False
        self.crashes = 0
        self.unloads = 0
        self.patch = pytest.MonkeyPatch()
        self.arrivals = arrivals = []

        class Noted(Submission):
            def __init__(self, ref: Ref, job: Job) -> None:
                super().__init__(ref, job)
                arrivals.append(prompt_of_job(job))

        self.patch.setattr("erllama.model.handle.Submission", Noted)
        self.run(self._start())

    async def _start(self) -> None:
        self.stage = Stage()
        self.runtime = Runtime(backend=lambda: self.stage.backend, restart_intensity=1_000)
        await self.runtime.start()
        self.model = await self._load()

    async def _load(self) -> Model:
        return await self.runtime.load_model(
            "m.gguf", max_queue=MAX_QUEUE, n_batch=64, n_seq_max=self.n_seq_max
        )

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        async def patiently() -> T:
            async with asyncio.timeout(PATIENCE_S):
                return await work

        return self.runner.run(patiently())

    # What a user does

    @rule(
        n=st.integers(1, 8),
        streamed=st.booleans(),
        rows=st.sampled_from([1, 70, 200]),
        text=st.booleans(),
        timeout=st.sampled_from([None, None, None, 1e-6, 60.0]),
    )
    def ask(self, n: int, *, streamed: bool, rows: int, text: bool, timeout: float | None) -> None:
        self.run(self._ask(n, streamed=streamed, rows=rows, text=text, timeout=timeout))

    async def _ask(
        self, n: int, *, streamed: bool, rows: int, text: bool, timeout: float | None, **more: Any
    ) -> None:
        options = {"timeout": timeout, **GREEDY, **more}
        for _ in range(n):
            self.count += 1
            name = f"{self.count:05}" + "." * (rows if not text else rows * 10)
            prompt: Any = name if text else list(name.encode())
            stream = self.model.stream(prompt, **options) if streamed else None
            work = read(stream) if stream else self.model.complete(prompt, **options)
            task = asyncio.create_task(work)
            self.asked.append(Asked(name[:5].encode(), task, stream, may_time_out=timeout == 1e-6))
        await asyncio.sleep(0)

    @precondition(lambda self: self.asked)
    @rule(which=st.integers(0, 50), by_task=st.booleans())
    def cancel(self, which: int, *, by_task: bool) -> None:
        asked = self.asked[which % len(self.asked)]
        asked.cancelled = True
        if by_task or asked.stream is None:
            asked.task.cancel()
        else:
            self.run(self._cancel(asked.stream))

    async def _cancel(self, stream: Stream) -> None:
        self.extra = asyncio.create_task(quiet(stream.cancel()))
        self.stage.resume()
        await self.extra
        if self.paused:
            self.stage.pause(always)

    # What time does

    @rule(n=st.integers(1, 60))
    def turn(self, n: int) -> None:
        self.run(turns(n))

    @rule()
    def wait(self) -> None:
        if self.paused:
            self.run(settle())
        else:
            self.run(self._wait())

    async def _wait(self) -> None:
        await asyncio.wait([asked.task for asked in self.asked] or [asyncio.create_task(turns(1))])

    @rule()
    def pause(self) -> None:
        self.paused = True
        self.stage.pause(always)

    @rule()
    def resume(self) -> None:
        self.paused = False
        self.stage.resume()

    # What goes wrong

    @rule()
    def crash(self) -> None:
        self.run(self._crash())

    async def _crash(self) -> None:
        ref = self.runtime._registry.whereis("model:m")
        if ref is not None:
            self.crashes += 1
            kill(ref)
        await asyncio.sleep(0)

    @rule()
    def raise_in_the_next_step(self) -> None:
        self.crashes += 1
        errors = iter([RuntimeError("a bug in the engine")])
        self.stage.fail(lambda _: next(errors, None))

    @rule()
    def load_again(self) -> None:
        self.unloads += 1
        self.run(self._load_again())

    async def _load_again(self) -> None:
        self.stage.resume()
        self.paused = False
        await self.model.unload()
        self.model = await self._load()

    # What is always true

    @invariant()
    def the_gauges_are_possible(self) -> None:
        status = self.run(status_of(self.model))
        assert 0 <= status.active <= self.n_seq_max
        # those that gave their sequences up are counted too
        assert 0 <= status.pending <= MAX_QUEUE + self.moved_off
        assert not status.active or status.phase == "running"
        assert status.heartbeat_age_s >= 0

    @property
    def moved_off(self) -> int:
        return len(self.asked) if self.n_seq_max > 1 else 0

    @precondition(lambda self: self.n_seq_max == 1)
    @invariant()
    def requests_are_begun_once_and_in_the_order_in_which_they_came(self) -> None:
        begun = [prompt_of(plan) for plan in list(self.stage.plans) if plan.begin and plan.prefill]
        begun = [prompt for prompt in begun if prompt.isdigit()]
        assert len(begun) == len(set(begun))
        arrived = iter(self.arrivals)
        assert all(prompt in arrived for prompt in begun), (begun, self.arrivals)

    @invariant()
    def answers_are_possible(self) -> None:
        for asked in self.asked:
            if asked.task.done():
                self.check(asked)

    def check(self, asked: Asked) -> None:
        if asked.task.cancelled():
            assert asked.cancelled
            return
        error = asked.task.exception()
        if error is None:
            done = asked.task.result()
            assert done.finish_reason == "length" or asked.cancelled
            return
        assert isinstance(error, ERRORS), error
        assert not isinstance(error, CallTimeout) or asked.may_time_out
        assert not isinstance(error, EngineCrashed) or self.crashes
        assert not isinstance(error, ModelNotFound) or self.unloads

    def teardown(self) -> None:
        try:
            self.run(self._end())
        finally:
            self.patch.undo()
            self.runner.close()

    async def _end(self) -> None:
        self.stage.resume()
        self.stage.hang(never)
        self.stage.fail(lambda _: None)
        if self.asked:
            _, hanging = await asyncio.wait([a.task for a in self.asked], timeout=PATIENCE_S / 2)
            assert not hanging
        for asked in self.asked:
            self.check(asked)
        await self._repeat()
        status = self.model.status()
        assert (status.phase, status.active, status.pending) == ("idle", 0, 0)
        floor_of(self.model).check_integrity()
        await self.runtime.stop()
        await settle()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert all(engine.closed for engine in self.stage.backend.engines)

    async def _repeat(self) -> None:
        """What was answered in the turmoil is answered again in peace."""
        answered = [a for a in self.asked if not a.task.cancelled() and not a.task.exception()]
        whole = [a.task.result() for a in answered if not a.cancelled]
        for done in whole[:3]:
            prompt = done.context_tokens[: done.usage.prompt_tokens]
            while True:
                try:
                    again = await self.model.complete(prompt, **GREEDY)
                except EngineCrashed:  # a crash of a moment ago
                    await asyncio.sleep(0)
                else:
                    break
            assert again.tokens == done.tokens
        await until(lambda: self.model.status().phase == "idle")


class ManyMachine(ModelMachine):
    """The same with several sequences: classes of priority, sessions, readers that lag."""

    n_seq_max = 3

    @rule(
        n=st.integers(1, 4),
        rows=st.sampled_from([1, 70, 200]),
        priority=st.sampled_from(["low", "normal", "high"]),
        session=st.sampled_from([None, None, "a", "b"]),
        salt=st.sampled_from(["", "", "salt"]),
    )
    def ask_more(self, n: int, *, rows: int, priority: str, session: str | None, salt: str) -> None:
        self.run(
            self._ask(
                n if session is None else 1,
                streamed=True,
                rows=rows,
                text=False,
                timeout=None,
                priority=priority,
                session_id=session,
                cache_salt=salt,
                stream_buffer=1,
            )
        )

    @rule(name=st.sampled_from(["a", "b"]))
    def end_session(self, name: str) -> None:
        self.run(self._end_session(name))

    async def _end_session(self, name: str) -> None:
        if self.model.status().phase in ("idle", "running"):
            with contextlib.suppress(SessionBusy, EngineCrashed, ModelNotFound):
                await self.model.end_session(name)


async def status_of(model: Model) -> Any:
    return model.status()


async def turns(n: int) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


async def quiet(work: Coroutine[Any, Any, Completion]) -> None:
    try:
        assert (await work).finish_reason in ("cancelled", "length")
    except ERRORS:
        return


async def read(stream: Stream) -> Completion:
    """Read a stream to its end; it has one last event, and that is `Done`."""
    events = [event async for event in stream]
    assert [isinstance(event, Done) for event in events] == [False] * (len(events) - 1) + [True]
    done = await stream.result()
    assert events[-1] == Done(done)
    return done


def prompt_of(plan: StepPlan) -> bytes:
    assert plan.prefill is not None
    return bytes(token for token in plan.prefill.tokens if token < 256)[:5]


def prompt_of_job(job: Job) -> bytes:
    prompt = job.prompt
    ids = prompt.encode() if isinstance(prompt, str) else prompt
    return bytes(token for token in ids if token < 256)[:5]


CALM = [HealthCheck.too_slow, HealthCheck.filter_too_much]


@pytest.mark.parametrize("machine", [ModelMachine, ManyMachine])
def test_a_model_survives_whatever_users_and_faults_do(machine: type[ModelMachine]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=CALM
        ),
    )


@pytest.mark.long
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("machine", [ModelMachine, ManyMachine])
def test_a_model_survives_whatever_users_and_faults_do_at_length(
    machine: type[ModelMachine],
) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=1_500, stateful_step_count=60, deadline=None, suppress_health_check=CALM
        ),
    )
