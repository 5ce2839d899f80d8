"""One test for each clause of "OTP semantics, kept", named after it, on a tree of supervisors."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from erllama.actor import (
    Actor,
    ChildInfo,
    ChildSpec,
    Ref,
    Registry,
    RestartIntensityExceeded,
    Supervisor,
    start,
    tree,
)
from erllama.actor.testing import Crash, Exit, Hang, ManualClock, Probe, settle
from erllama.errors import ActorDied


class Tree:
    """root ─┬─ inner (the strategy under test) ─┬─ a, b, c
    └─ last
    """

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.registry = Registry(clock=clock)
        self.journal: list[tuple[Any, ...]] = []
        self.built: dict[str, list[Actor]] = {}
        self.root: Ref

    async def grow(self, *, restart: str = "permanent", **options: Any) -> None:
        def inner() -> Actor:
            specs = [self.spec(name, restart=restart) for name in "abc"]
            return Supervisor(specs, registry=self.registry, **options)

        specs = [ChildSpec("inner", inner, shutdown=60.0), self.spec("last")]
        supervisor = Supervisor(specs, registry=self.registry)
        self.root = await start(supervisor, name="root", clock=self.clock)

    def spec(self, name: str, **options: Any) -> ChildSpec:
        def build() -> Actor:
            actor = Probe(self.journal, name)
            self.built.setdefault(name, []).append(actor)
            return actor

        return ChildSpec(name, build, **options)

    def __getitem__(self, name: str) -> Ref:
        ref = self.registry.whereis(name)
        assert ref is not None
        return ref

    async def crash(self, name: str) -> None:
        self[name].cast(Crash(ValueError(name)))
        await settle()

    def events(self) -> str:
        """What happened since the last look, as "+a -a"."""
        signs = {"init": "+", "terminate": "-"}
        seen = [signs[entry[0]] + entry[1] for entry in self.journal if entry[0] in signs]
        self.journal.clear()
        return " ".join(seen)


@pytest.fixture
def forest(clock: ManualClock) -> Tree:
    return Tree(clock)


async def test_children_start_in_order_with_init_awaited(
    forest: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = asyncio.Event()

    async def slow_init(self: Probe) -> None:
        self.journal.append(("init", f"({self.label}"))
        await gate.wait()
        self.journal.append(("init", f"{self.label})"))

    monkeypatch.setattr(Probe, "init", slow_init)
    growing = asyncio.create_task(forest.grow())
    await settle()
    assert forest.events() == "+(a"
    gate.set()
    await growing
    assert forest.events() == "+a) +(b +b) +(c +c) +(last +last)"
    await forest.root.stop()


async def test_children_stop_in_reverse_order(forest: Tree) -> None:
    await forest.grow()
    forest.events()
    await forest.root.stop()
    assert forest.events() == "-last -c -b -a"


async def test_every_child_has_its_own_deadline(forest: Tree, clock: ManualClock) -> None:
    await forest.grow()
    for name in ("a", "c", "last"):
        forest[name].cast(Hang())
    stopping = asyncio.create_task(forest.root.stop(deadline=60.0))
    times: dict[str, float] = {}
    for name in ("a", "b", "c", "last"):
        forest[name].watch(lambda down: times.update({down.ref_name: clock.now()}))
    await clock.advance(30)
    assert await stopping
    assert times == {"last": 5.0, "c": 10.0, "b": 10.0, "a": 15.0}


@pytest.mark.parametrize(
    ("strategy", "events"),
    [
        ("one_for_one", "-b +b"),
        ("one_for_all", "-b -c -a +a +b +c"),
        ("rest_for_one", "-b -c +b +c"),
    ],
)
async def test_there_are_three_strategies(forest: Tree, strategy: str, events: str) -> None:
    await forest.grow(strategy=strategy)
    forest.events()
    await forest.crash("b")
    assert forest.events() == events
    await forest.root.stop()


@pytest.mark.parametrize(
    ("restart", "after_normal", "after_crash"),
    [
        ("permanent", "-a +a", "-a +a"),
        ("transient", "-a", "-a +a"),
        ("temporary", "-a", "-a"),
    ],
)
@pytest.mark.parametrize("how", ["normal", "crash"])
async def test_children_are_permanent_transient_or_temporary(
    forest: Tree, restart: str, after_normal: str, after_crash: str, how: str
) -> None:
    await forest.grow(restart=restart)
    forest.events()
    forest["a"].cast(Exit("normal") if how == "normal" else Crash(ValueError()))
    await settle()
    assert forest.events() == (after_normal if how == "normal" else after_crash)
    await forest.root.stop()


async def test_beyond_the_restart_intensity_in_a_period_the_supervisor_itself_fails_upward(
    forest: Tree, clock: ManualClock
) -> None:
    await forest.grow(intensity=2, period=10.0)
    inner = forest["inner"]
    for _ in range(3):
        await forest.crash("a")
        await clock.advance(5.1)
    assert inner.alive
    await forest.crash("a")
    assert inner.alive
    forest.events()
    await forest.crash("a")
    assert isinstance(inner.reason, RestartIntensityExceeded)
    assert forest.events() == "-a -c -b +a +b +c"
    assert forest["inner"] is not inner
    assert forest.root.alive
    await forest.root.stop()


async def test_a_restart_builds_a_new_actor_from_its_factory(forest: Tree) -> None:
    await forest.grow(strategy="one_for_all")
    await forest.crash("a")
    for name in "abc":
        first, second = forest.built[name]
        assert first is not second
    await forest.root.stop()


async def test_callers_hold_a_ref_that_fails_fast_with_actor_died(forest: Tree) -> None:
    await forest.grow()
    stale = forest["a"]
    pending = stale.call_nowait(Hang())
    await settle()
    stale.request_stop(deadline=0.0)
    await forest.clock.advance(0)
    with pytest.raises(ActorDied):
        await pending
    with pytest.raises(ActorDied):
        await stale.call("hello")
    assert await forest["a"].call("hello") == "hello"
    await forest.root.stop()


async def test_callers_that_hold_a_name_find_the_new_actor(forest: Tree) -> None:
    await forest.grow()
    stale = forest["a"]
    await forest.crash("a")
    assert await (await forest.registry.wait_for("a")).call("hello") == "hello"
    assert forest["a"] is not stale
    await forest.root.stop()


async def test_an_arbiter_crash_restarts_tiers_and_writers_after_it(clock: ManualClock) -> None:
    """The cache's part of the tree, with stand-ins for its actors."""
    forest = Tree(clock)

    def cache() -> Actor:
        specs = [forest.spec(name) for name in ("arbiter", "ram", "disk", "writers")]
        return Supervisor(specs, strategy="rest_for_one", registry=forest.registry)

    supervisor = Supervisor([ChildSpec("cache", cache), forest.spec("lane")])
    forest.root = await start(supervisor, name="runtime", clock=clock)
    forest.events()
    await forest.crash("arbiter")
    assert forest.events() == ("-arbiter -writers -disk -ram +arbiter +ram +disk +writers")
    await forest.crash("disk")
    assert forest.events() == "-disk -writers +disk +writers"
    await forest.root.stop()


def names(info: ChildInfo, pick: Callable[[ChildInfo], bool]) -> list[str]:
    below = [name for child in info.children for name in names(child, pick)]
    return [info.id, *below] if pick(info) else below


async def test_the_tree_can_be_seen_whole(forest: Tree) -> None:
    await forest.grow()
    root = tree(forest.root)
    assert names(root, lambda info: info.state == "running") == [
        "root",
        "inner",
        "a",
        "b",
        "c",
        "last",
    ]
    await forest.root.stop()
