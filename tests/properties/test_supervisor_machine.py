"""Trees of supervisors against a model that does one thing after another.

Every rule disturbs a tree at rest and lets it come to rest again. The model says, to the second,
which leaf starts and ends when: in which order, how long stubborn leaves take, which restarts the
intensity allows, which supervisors fail upward, and what is left in the end.
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from erllama.actor import (
    Actor,
    ChildInfo,
    ChildSpec,
    Ref,
    RestartChild,
    RestartIntensityExceeded,
    StartChild,
    StopChild,
    Supervisor,
    kill,
    spawn,
    tree,
)
from erllama.actor.cancellation import CANCEL_GRACE
from erllama.actor.childspec import Restart
from erllama.actor.strategy import Strategy
from erllama.actor.testing import Crash, Exit, Hang, ManualClock, Probe, hang, settle

TERMINATE_TIMEOUT = 3.0

Event = tuple[float, str]


@dataclass
class Manner:
    """How all incarnations of a leaf behave, until told otherwise."""

    failing_starts: int = 0
    slow_start: float = 0.0
    hangs_in_terminate: bool = False
    swallows_in_terminate: int = 0


@dataclass(frozen=True)
class Plan:
    """A node of the tree as it is specified; a supervisor if it has a strategy."""

    name: str
    restart: Restart = "permanent"
    shutdown: float = 5.0
    strategy: Strategy | None = None
    intensity: int = 3
    period: float = 5.0
    children: tuple["Plan", ...] = ()


class World:
    """What the leaves and the model share."""

    def __init__(self) -> None:
        self.manners: dict[str, Manner] = {}
        self.journal: list[Event] = []
        self.living: list[str] = []

    def manner(self, name: str) -> Manner:
        return self.manners.setdefault(name, Manner())

    def spec(self, plan: Plan) -> ChildSpec:
        return ChildSpec(
            plan.name, lambda: self.build(plan), restart=plan.restart, shutdown=plan.shutdown
        )

    def build(self, plan: Plan) -> Actor:
        if plan.strategy is None:
            return Leaf(self, plan.name)
        return Supervisor(
            [self.spec(child) for child in plan.children],
            strategy=plan.strategy,
            intensity=plan.intensity,
            period=plan.period,
        )


class Leaf(Probe):
    terminate_timeout = TERMINATE_TIMEOUT

    def __init__(self, world: World, name: str) -> None:
        super().__init__([], name)
        self.world = world

    def note(self, sign: str) -> None:
        self.world.journal.append((self.clock.now(), sign + self.label))

    async def init(self) -> None:
        self.note("+")
        manner = self.world.manner(self.label)
        if manner.slow_start:
            ready = asyncio.Event()
            self.clock.call_later(manner.slow_start, ready.set)
            await ready.wait()
        if manner.failing_starts:
            manner.failing_starts -= 1
            raise ValueError(f"{self.label} does not start")
        self.world.living.append(self.label)

    async def terminate(self, reason: object) -> None:
        self.note("-")
        self.world.living.remove(self.label)
        manner = self.world.manner(self.label)
        if manner.hangs_in_terminate:
            await hang(manner.swallows_in_terminate)


# The model


class StartFailed(Exception):
    pass


@dataclass(eq=False)
class Node:
    """A node of the tree as it ought to be."""

    plan: Plan
    up: bool = False
    starts: int = 0
    children: list["Node"] = field(default_factory=list)
    restarts: list[float] = field(default_factory=list)
    hung: int | None = None  # in a handler, ignoring so many cancellations

    def walk(self) -> Iterator["Node"]:
        yield self
        for child in self.children:
            yield from child.walk()


class Model:
    def __init__(self, plan: Plan) -> None:
        self.now = 0.0
        self.events: list[Event | list[Event]] = []  # a list: in any order
        self.manners: dict[str, Manner] = {}
        self.root = Node(plan)
        self.failed_upward: list[str] = []

    def manner(self, name: str) -> Manner:
        return self.manners.setdefault(name, Manner())

    def parent(self, node: Node) -> Node | None:
        return next((n for n in self.root.walk() if node in n.children), None)

    def start(self, node: Node) -> None:
        node.starts += 1
        node.hung = None
        node.restarts = []
        if node.plan.strategy is None:
            manner = self.manner(node.plan.name)
            self.events.append((self.now, "+" + node.plan.name))
            self.now += manner.slow_start
            if manner.failing_starts:
                manner.failing_starts -= 1
                raise StartFailed
        else:
            node.children = [Node(plan) for plan in node.plan.children]
            for child in node.children:
                try:
                    self.start(child)
                except StartFailed:
                    self.stop_children(node)
                    raise
        node.up = True

    def stop_children(self, node: Node) -> None:
        for child in reversed(node.children):
            if child.up:
                self.stop(child)

    def stop(self, node: Node) -> None:
        """Orderly, within the node's own deadline (a supervisor has all the time it needs)."""
        node.up = False
        if node.plan.strategy is not None:
            self.stop_children(node)
        elif node.hung is not None:
            self.now += node.plan.shutdown + node.hung * CANCEL_GRACE
            self.terminate(node)
        else:
            self.terminate(node, node.plan.shutdown)

    def terminate(self, node: Node, limit: float = math.inf) -> None:
        self.events.append((self.now, "-" + node.plan.name))
        self.now += self.terminate_time(node, limit)

    def terminate_time(self, node: Node, limit: float = math.inf) -> float:
        manner = self.manner(node.plan.name)
        if not manner.hangs_in_terminate:
            return 0.0
        return min(TERMINATE_TIMEOUT, limit) + manner.swallows_in_terminate * CANCEL_GRACE

    def kill(self, node: Node) -> None:
        """All leaves below at the same time."""
        events: list[Event] = []
        end = self.now
        for leaf in (n for n in node.walk() if n.plan.strategy is None and n.up):
            at = self.now + (leaf.hung or 0) * CANCEL_GRACE
            events.append((at, "-" + leaf.plan.name))
            end = max(end, at + self.terminate_time(leaf))
        self.events.append(events)
        self.now = end
        self.ended(node, normal=False)

    def leaf_ends(self, node: Node, *, normal: bool) -> None:
        self.terminate(node)
        self.ended(node, normal=normal)

    def supervisor_fails(self, node: Node) -> None:
        self.stop_children(node)
        self.ended(node, normal=False)

    def ended(self, node: Node, *, normal: bool) -> None:
        """What the node's supervisor does about it."""
        node.up = False
        parent = self.parent(node)
        if parent is None:
            return
        if node.plan.restart == "permanent" or (node.plan.restart == "transient" and not normal):
            self.restart(parent, node)
        else:
            parent.children.remove(node)

    def restart(self, parent: Node, crashed: Node) -> None:
        plan = parent.plan
        while True:
            recent = [t for t in parent.restarts if self.now - t <= plan.period]
            if len(recent) + 1 > plan.intensity:
                self.failed_upward.append(plan.name)
                self.supervisor_fails(parent)
                return
            parent.restarts = [*recent, self.now]
            position = parent.children.index(crashed)
            group = {
                "one_for_one": [],
                "one_for_all": parent.children,
                "rest_for_one": parent.children[position + 1 :],
            }[plan.strategy or "one_for_one"]
            for sibling in [n for n in reversed(group) if n.up]:
                self.stop(sibling)
                if sibling.plan.restart == "temporary":
                    parent.children.remove(sibling)
            failed = self.start_absent(parent)
            if failed is None:
                return
            if failed.plan.restart == "temporary":
                parent.children.remove(failed)
                return
            crashed = failed

    def start_absent(self, parent: Node) -> Node | None:
        for child in parent.children:
            if not child.up:
                try:
                    self.start(child)
                except StartFailed:
                    return child
        return None

    def add(self, parent: Node, plan: Plan) -> bool:
        node = Node(plan)
        parent.children.append(node)
        try:
            self.start(node)
        except StartFailed:
            parent.children.remove(node)
            return False
        return True

    def remove(self, node: Node) -> None:
        parent = self.parent(node)
        assert parent is not None
        self.stop(node)
        parent.children.remove(node)

    def renew(self, node: Node) -> bool:
        self.stop(node)
        try:
            self.start(node)
        except StartFailed:
            self.ended(node, normal=False)
            return False
        return True


# The machine


@st.composite
def plans(draw: st.DrawFn, name: str = "root", depth: int = 2) -> Plan:
    children: list[Plan] = []
    for number in range(draw(st.integers(1, 3))):
        child = f"{name}.{number}"
        if depth > 0 and draw(st.integers(0, 2)) == 0:
            children.append(draw(plans(child, depth - 1)))
        else:
            children.append(draw(leaves(child)))
    return Plan(
        name,
        restart=draw(st.sampled_from(("permanent", "permanent", "transient", "temporary"))),
        shutdown=math.inf,
        strategy=draw(st.sampled_from(("one_for_one", "one_for_all", "rest_for_one"))),
        intensity=draw(st.integers(0, 4)),
        period=draw(st.sampled_from((2.0, 5.0, 30.0))),
        children=tuple(children),
    )


def leaves(name: str) -> st.SearchStrategy[Plan]:
    return st.builds(
        Plan,
        name=st.just(name),
        restart=st.sampled_from(("permanent", "permanent", "transient", "temporary")),
        shutdown=st.sampled_from((0.0, 2.0, 5.0)),
    )


def alive(self: "SupervisorMachine") -> bool:
    return self.model.root.up


class SupervisorMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        logging.getLogger("erllama.actor").setLevel(logging.CRITICAL + 1)
        self.loop = asyncio.new_event_loop()
        self.complaints: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.complaints.append(context))
        self.clock = ManualClock()
        self.world = World()
        self.added = 0

    @initialize(plan=plans())
    def grow(self, plan: Plan) -> None:
        self.plan = plan
        self.model = Model(plan)
        self.plant()

    def plant(self) -> None:
        with contextlib.suppress(StartFailed):
            self.model.start(self.model.root)
        plan = self.plan

        async def begin() -> Ref:
            return spawn(self.world.build(plan), name="root", clock=self.clock)

        self.root: Ref = self.loop.run_until_complete(begin())
        self.come_to_rest()

    # Looking

    def come_to_rest(self) -> None:
        """Let the time pass that the model says it takes, and compare what happened."""
        self.loop.run_until_complete(self.clock.advance(self.model.now - self.clock.now()))
        seen = self.world.journal
        for expected in self.model.events:
            if isinstance(expected, list):
                here, seen = seen[: len(expected)], seen[len(expected) :]
                assert sorted(here) == sorted(expected)
            else:
                assert seen[:1] == [expected], (seen, self.model.events)
                seen = seen[1:]
        assert seen == []
        self.world.journal.clear()
        self.model.events.clear()

    def running(self, pick: Callable[[Node], bool]) -> list[Node]:
        return [node for node in self.model.root.walk() if node.up and pick(node)]

    def draw(self, data: st.DataObject, pick: Callable[[Node], bool]) -> Node | None:
        nodes = self.running(pick)
        return data.draw(st.sampled_from(nodes)) if nodes else None

    def ref(self, node: Node) -> Ref:
        def find(info: ChildInfo) -> Ref | None:
            if info.id == node.plan.name:
                return info.ref
            return next((ref for child in info.children if (ref := find(child))), None)

        found = find(tree(self.root))
        assert found is not None
        return found

    def order(self, parent: Node, payload: object, *, succeeds: bool, result: bool) -> None:
        """Give a supervisor an order; the model has carried it out already."""

        async def send() -> asyncio.Future[Any]:
            return self.ref(parent).call_nowait(payload)

        answer = self.loop.run_until_complete(send())
        self.come_to_rest()
        assert answer.done()
        assert (answer.exception() is None) is succeeds
        if succeeds:
            assert isinstance(answer.result(), Ref) is result

    # Disturbing: what a leaf does

    @precondition(alive)
    @rule(data=st.data(), normal=st.booleans())
    def a_leaf_ends(self, data: st.DataObject, normal: bool) -> None:
        node = self.draw(data, lambda n: n.plan.strategy is None and n.hung is None)
        if node is not None:
            self.ref(node).cast(Exit("normal") if normal else Crash(ValueError("crash")))
            self.model.leaf_ends(node, normal=normal)
            self.come_to_rest()

    @precondition(alive)
    @rule(data=st.data())
    def somebody_stops_a_leaf(self, data: st.DataObject) -> None:
        """As it normally is: with the reason "shutdown", and not by its supervisor."""
        node = self.draw(data, lambda n: n.plan.strategy is None)
        if node is not None:
            abnormal = node.hung is not None  # it was killed in the end
            self.ref(node).request_stop(deadline=node.plan.shutdown)
            if node.hung is not None:
                self.model.now += node.plan.shutdown + node.hung * CANCEL_GRACE
                self.model.terminate(node)
            else:
                self.model.terminate(node, node.plan.shutdown)
            self.model.ended(node, normal=not abnormal)
            self.come_to_rest()

    @precondition(alive)
    @rule(data=st.data(), swallow=st.integers(0, 1))
    def a_leaf_hangs(self, data: st.DataObject, swallow: int) -> None:
        node = self.draw(data, lambda n: n.plan.strategy is None and n.hung is None)
        if node is not None:
            self.ref(node).cast(Hang(swallow))
            node.hung = swallow
            self.come_to_rest()

    @precondition(alive)
    @rule(
        data=st.data(),
        failing=st.integers(0, 3),
        slow=st.sampled_from((0.0, 0.0, 1.5)),
        hangs=st.booleans(),
        swallows=st.integers(0, 1),
    )
    def a_leaf_changes_its_manners(
        self, data: st.DataObject, failing: int, slow: float, hangs: bool, swallows: int
    ) -> None:
        node = self.draw(data, lambda n: n.plan.strategy is None)
        if node is not None:
            for manners in (self.model.manners, self.world.manners):
                manners[node.plan.name] = Manner(failing, slow, hangs, swallows)

    # Disturbing: what others do

    @precondition(alive)
    @rule(data=st.data())
    def somebody_kills(self, data: st.DataObject) -> None:
        node = self.draw(data, lambda n: True)
        if node is not None:
            kill(self.ref(node) if node is not self.model.root else self.root)
            self.model.kill(node)
            self.come_to_rest()

    @precondition(alive)
    @rule(data=st.data())
    def a_supervisor_crashes(self, data: st.DataObject) -> None:
        node = self.draw(data, lambda n: n.plan.strategy is not None)
        if node is not None:
            target = self.ref(node) if node is not self.model.root else self.root
            target.urgent("nonsense")
            self.model.supervisor_fails(node)
            self.come_to_rest()

    @precondition(alive)
    @rule(data=st.data(), failing=st.integers(0, 1))
    def a_child_is_added(self, data: st.DataObject, failing: int) -> None:
        parent = self.draw(data, lambda n: n.plan.strategy is not None)
        if parent is not None:
            self.added += 1
            plan = data.draw(leaves(f"added{self.added}"))
            for manners in (self.model.manners, self.world.manners):
                manners[plan.name] = Manner(failing_starts=failing)
            added = self.model.add(parent, plan)
            order = StartChild(self.world.spec(plan))
            self.order(parent, order, succeeds=added, result=True)

    @precondition(alive)
    @rule(data=st.data())
    def a_child_is_removed(self, data: st.DataObject) -> None:
        node = self.draw(data, lambda n: n is not self.model.root)
        parent = node and self.model.parent(node)
        if node is not None and parent is not None:
            self.model.remove(node)
            order = StopChild(node.plan.name)
            self.order(parent, order, succeeds=True, result=False)

    @precondition(alive)
    @rule(data=st.data())
    def a_child_is_renewed(self, data: st.DataObject) -> None:
        node = self.draw(data, lambda n: n is not self.model.root)
        parent = node and self.model.parent(node)
        if node is not None and parent is not None:
            target = parent
            renewed = self.model.renew(node)
            order = RestartChild(node.plan.name)
            self.order(target, order, succeeds=renewed, result=True)

    @precondition(alive)
    @rule(seconds=st.sampled_from((0.5, 2.0, 2.5, 6.0, 31.0)))
    def time_passes(self, seconds: float) -> None:
        self.model.now += seconds
        self.come_to_rest()

    @precondition(lambda self: not alive(self))
    @rule()
    def the_whole_tree_is_started_again(self) -> None:
        self.nothing_is_left()
        model = Model(self.plan)
        model.now, model.manners = self.model.now, self.model.manners
        self.model = model
        self.plant()

    # What always holds at rest

    @invariant()
    def the_tree_is_what_the_model_expects(self) -> None:
        if not hasattr(self, "root"):
            return
        assert self.complaints == []
        if not self.model.root.up:
            assert not self.root.alive
            return

        def compare(info: ChildInfo, node: Node) -> None:
            assert info.ref is not None
            assert info.ref.alive
            assert info.state == "running"
            assert info.restarts == (node.starts - 1 if node is not self.model.root else 0)
            assert [child.id for child in info.children] == [n.plan.name for n in node.children]
            for child_info, child in zip(info.children, node.children, strict=True):
                compare(child_info, child)

        compare(tree(self.root), self.model.root)
        expected = [n.plan.name for n in self.running(lambda n: n.plan.strategy is None)]
        assert sorted(self.world.living) == sorted(expected)

    def nothing_is_left(self) -> None:
        gave_up = isinstance(self.root.reason, RestartIntensityExceeded)
        assert gave_up is ("root" in self.model.failed_upward)
        assert self.world.living == []
        assert asyncio.all_tasks(self.loop) == set()
        assert self.clock.pending == 0
        assert self.complaints == []

    def teardown(self) -> None:
        if not hasattr(self, "root"):
            self.loop.close()
            return
        try:
            if self.model.root.up:
                self.root.request_stop(deadline=math.inf)
                self.model.stop(self.model.root)
                self.come_to_rest()
                assert self.root.reason == "shutdown"
            self.nothing_is_left()
        finally:
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.loop.run_until_complete(settle())
            self.loop.close()
            logging.getLogger("erllama.actor").setLevel(logging.NOTSET)


SupervisorMachine.TestCase.settings = settings(
    max_examples=150, stateful_step_count=30, deadline=None
)
TestSupervisor = SupervisorMachine.TestCase
