"""Trees of supervisors that are never left in peace.

Unlike in `test_supervisor_machine`, nothing waits for the tree to come to rest: leaves hang in
`init`, in handlers and in `terminate`, ignore a cancellation, crash and are killed while others are
being stopped and started, and orders overlap. There is no model of what exactly happens then, but
some things hold whatever happens.
"""

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from erllama.actor import (
    Actor,
    ChildInfo,
    ChildSpec,
    Ref,
    RestartChild,
    StartChild,
    StopChild,
    Supervisor,
    WhichChildren,
    kill,
    spawn,
    tree,
)
from erllama.actor.strategy import Strategy
from erllama.actor.testing import Crash, Exit, Hang, ManualClock, Probe, hang, settle

STRATEGIES: tuple[Strategy, ...] = ("one_for_one", "one_for_all", "rest_for_one")


class Weather:
    """What the next incarnations of a leaf will do, and which ones there are."""

    def __init__(self) -> None:
        self.starts: dict[str, str] = {}
        self.ends: dict[str, str] = {}
        self.living: Counter[str] = Counter()
        self.ended_twice: list[str] = []

    def calm(self) -> None:
        self.starts.clear()
        self.ends.clear()


class Leaf(Probe):
    terminate_timeout = 3.0

    def __init__(self, weather: Weather, name: str) -> None:
        super().__init__([], name)
        self.weather = weather

    async def init(self) -> None:
        match self.weather.starts.get(self.label):
            case "fail":
                raise ValueError("no start")
            case "hang":
                await hang()
            case "hang on":
                await hang(swallow=1)
            case "slow":
                ready = asyncio.Event()
                self.clock.call_later(1.0, ready.set)
                await ready.wait()
        self.weather.living[self.label] += 1

    async def terminate(self, reason: object) -> None:
        try:
            match self.weather.ends.get(self.label):
                case "hang":
                    await hang()
                case "hang on":
                    await hang(swallow=1)
                case "fail":
                    raise ValueError("no end")
        finally:
            self.weather.living[self.label] -= 1


def supervisor(data: st.DataObject, weather: Weather, name: str, depth: int) -> Supervisor:
    specs: list[ChildSpec] = []
    for number in range(data.draw(st.integers(1, 3))):
        child = f"{name}.{number}"
        if depth and data.draw(st.booleans()):
            shape = data.draw(st.integers())  # the same subtree at each restart
            specs.append(nested(weather, child, depth - 1, shape, data.draw(shutdowns)))
        else:
            specs.append(leaf(weather, child, data.draw(shutdowns)))
    return Supervisor(
        specs,
        strategy=data.draw(st.sampled_from(STRATEGIES)),
        intensity=data.draw(st.integers(1, 6)),
    )


shutdowns = st.sampled_from((0.0, 1.0, 5.0, 20.0))


def leaf(weather: Weather, name: str, shutdown: float) -> ChildSpec:
    return ChildSpec(name, lambda: Leaf(weather, name), shutdown=shutdown)


def nested(weather: Weather, name: str, depth: int, shape: int, shutdown: float) -> ChildSpec:
    def build() -> Actor:
        specs = [leaf(weather, f"{name}.{n}", 2.0 + n) for n in range(1 + shape % 3)]
        if depth:
            specs.append(nested(weather, f"{name}.deep", depth - 1, shape // 3, 4.0))
        return Supervisor(specs, strategy=STRATEGIES[shape % 3], intensity=2)

    return ChildSpec(name, build, shutdown=shutdown)


def walk(info: ChildInfo) -> Iterator[ChildInfo]:
    yield info
    for child in info.children:
        yield from walk(child)


class SupervisorChaos(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        logging.getLogger("erllama.actor").setLevel(logging.CRITICAL + 1)
        self.loop = asyncio.new_event_loop()
        self.complaints: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.complaints.append(context))
        self.clock = ManualClock()
        self.weather = Weather()
        self.answers: list[asyncio.Future[Any]] = []
        self.added = 0
        self.root: Ref | None = None

    @initialize(data=st.data())
    def grow(self, data: st.DataObject) -> None:
        actor = supervisor(data, self.weather, "root", 2)

        async def begin() -> Ref:
            return spawn(actor, name="root", clock=self.clock)

        self.root = self.loop.run_until_complete(begin())

    def nodes(self) -> list[ChildInfo]:
        assert self.root is not None
        return [info for info in walk(tree(self.root)) if info.ref is not None]

    def pick(self, data: st.DataObject) -> tuple[ChildInfo, Ref]:
        nodes = self.nodes()
        info = nodes[data.draw(st.integers(0, len(nodes) - 1))]
        assert info.ref is not None
        return info, info.ref

    def supervisors(self) -> list[Ref]:
        return [info.ref for info in self.nodes() if info.ref is not None and info.children]

    @rule(
        data=st.data(),
        start=st.sampled_from(("fail", "hang", "hang on", "slow", "")),
        end=st.sampled_from(("hang", "hang on", "fail", "")),
    )
    def the_weather_changes(self, data: st.DataObject, start: str, end: str) -> None:
        info, _ = self.pick(data)
        self.weather.starts[info.id] = start
        self.weather.ends[info.id] = end

    @rule(
        data=st.data(),
        what=st.sampled_from((Crash(ValueError()), Exit("normal"), Hang(), Hang(swallow=1), "hi")),
        urgent=st.booleans(),
    )
    def a_message_is_sent(self, data: st.DataObject, what: object, urgent: bool) -> None:
        async def send() -> None:
            if urgent:
                assert ref.urgent(what) is ref.alive
            elif ref.alive:
                self.answers.append(ref.call_nowait(what))

        info, ref = self.pick(data)
        if not info.children:
            self.loop.run_until_complete(send())

    @rule(data=st.data())
    def somebody_kills(self, data: st.DataObject) -> None:
        _, ref = self.pick(data)
        if ref is not self.root:
            kill(ref)

    @rule(data=st.data(), deadline=st.sampled_from((0.0, 1.0, 10.0)))
    def somebody_stops(self, data: st.DataObject, deadline: float) -> None:
        _, ref = self.pick(data)
        if ref is not self.root:
            ref.request_stop(deadline=deadline)

    @rule(data=st.data(), kind=st.sampled_from(("start", "stop", "renew")))
    def an_order_is_given(self, data: st.DataObject, kind: str) -> None:
        async def send() -> None:
            if target.alive:
                self.answers.append(target.call_nowait(order))

        parents = [info for info in self.nodes() if info.children]
        if not parents:
            return
        parent = parents[data.draw(st.integers(0, len(parents) - 1))]
        assert parent.ref is not None
        target = parent.ref
        child = data.draw(st.sampled_from(parent.children)).id
        order: object
        if kind == "start":
            self.added += 1
            name = f"added{self.added}"
            self.weather.starts[name] = data.draw(st.sampled_from(("", "fail", "hang", "slow")))
            order = StartChild(leaf(self.weather, name, 2.0))
        else:
            order = StopChild(child) if kind == "stop" else RestartChild(child)
        self.loop.run_until_complete(send())

    @rule(turns=st.integers(1, 5))
    def the_loop_turns(self, turns: int) -> None:
        async def turn() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turn())

    @rule(seconds=st.sampled_from((0.0, 0.5, 1.0, 3.0, 7.0)))
    def time_passes(self, seconds: float) -> None:
        self.loop.run_until_complete(self.clock.advance(seconds))

    @rule()
    def the_supervisors_answer(self) -> None:
        """Whatever their children do: the answer needs no time to pass."""

        async def ask() -> None:
            answers = [(ref, ref.call_nowait(WhichChildren())) for ref in refs if ref.alive]
            await settle()
            for ref, answer in answers:
                assert answer.done() or ref.status().state == "starting"

        refs = [ref for ref in self.supervisors() if ref.status().state != "starting"]
        self.loop.run_until_complete(ask())

    @invariant()
    def no_child_has_two_incarnations(self) -> None:
        assert all(count in (0, 1) for count in self.weather.living.values())

    @invariant()
    def nothing_is_complained_about(self) -> None:
        assert self.complaints == []

    @invariant()
    def in_order_one_child_starts_at_a_time(self) -> None:
        if self.root is None:
            return
        for info in self.nodes():
            process: Any = info.ref and info.ref._control
            if process is None or not isinstance(process.actor, Supervisor):
                continue
            if process.actor._strategy == "one_for_one":
                continue
            ready = ("starting", "restarting")
            assert sum(c.ref is not None and c.state in ready for c in info.children) <= 1

    def heal(self, root: Ref) -> None:
        """In calm weather, with time to recover, everything that is left comes up."""
        self.weather.calm()
        for _ in range(40):
            self.loop.run_until_complete(self.clock.advance(60.0))
            if not root.alive:
                return
            infos = list(walk(tree(root)))
            waiting = [i for i in infos if i.state in ("starting", "restarting") and i.ref]
            innermost = [i for i in waiting if not any(c in waiting for c in i.children)]
            if not waiting:
                assert all(info.state == "running" for info in infos)
                return
            assert innermost[0].ref is not None
            kill(innermost[0].ref)  # its init hangs: one crash, and a new try
        raise AssertionError(f"it does not come to rest: {tree(root)}")

    def teardown(self) -> None:
        try:
            if self.root is not None:
                self.heal(self.root)
                living = [i for i in self.nodes() if not i.children and i.id != "root"]
                assert self.weather.living.total() <= len(living)
                self.end(self.root)
        finally:
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.loop.run_until_complete(settle())
            self.loop.close()
            logging.getLogger("erllama.actor").setLevel(logging.NOTSET)

    def end(self, root: Ref) -> None:
        async def stop() -> bool:
            stopping = asyncio.create_task(root.stop(deadline=math.inf))
            await self.clock.advance(1000.0)
            assert stopping.done(), f"the tree does not end: {tree(root)}"
            return stopping.result()

        assert self.loop.run_until_complete(stop())
        assert self.weather.living.total() == 0
        assert all(answer.done() for answer in self.answers)
        assert asyncio.all_tasks(self.loop) == set()
        assert self.clock.pending == 0
        assert self.complaints == []


SupervisorChaos.TestCase.settings = settings(
    max_examples=150, stateful_step_count=30, deadline=None
)
TestSupervisorChaos = SupervisorChaos.TestCase
