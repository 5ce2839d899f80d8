import asyncio
import math
from collections.abc import Callable
from typing import Any

import pytest

from erllama.actor import (
    Actor,
    ChildExists,
    ChildInfo,
    ChildNotFound,
    ChildSpec,
    NameTaken,
    Ref,
    Registry,
    RestartChild,
    RestartIntensityExceeded,
    StartChild,
    StopChild,
    Supervisor,
    WhichChildren,
    kill,
    spawn,
    start,
    tree,
)
from erllama.actor.testing import Crash, CrashingActor, Exit, Hang, ManualClock, Probe, hang, settle
from erllama.errors import ActorDied, ConfigError

Journal = list[tuple[Any, ...]]


@pytest.fixture
def journal() -> Journal:
    return []


def probe(journal: Journal, child_id: str, **options: Any) -> ChildSpec:
    return ChildSpec(child_id, lambda: Probe(journal, child_id), **options)


def probes(journal: Journal, ids: str, **options: Any) -> list[ChildSpec]:
    return [probe(journal, child_id, **options) for child_id in ids]


class Script:
    """A factory of one child: each start behaves as the next word says, the last one for good.

    "ok", "crash" (init fails), "hang" (init never ends), "factory" (the factory itself fails).
    """

    def __init__(self, journal: Journal, label: str, *words: str) -> None:
        self.journal, self.label, self.words = journal, label, list(words)
        self.error = ValueError(f"{label} does not start")

    def __call__(self) -> Actor:
        word = self.words.pop(0) if len(self.words) > 1 else self.words[0]
        if word == "factory":
            raise self.error
        if word == "crash":
            return CrashingActor(self.error, self.journal, self.label)
        return (
            _Hanging(self.journal, self.label)
            if word == "hang"
            else Probe(self.journal, self.label)
        )


class _Hanging(Probe):
    async def init(self) -> None:
        await super().init()
        await hang()


def events(journal: Journal) -> list[str]:
    """Starts and ends, as "+a" and "-a"."""
    signs = {"init": "+", "terminate": "-"}
    return [signs[entry[0]] + entry[1] for entry in journal if entry[0] in signs]


def child(ref: Ref, child_id: str) -> Ref:
    (found,) = (info.ref for info in tree(ref).children if info.id == child_id)
    assert found is not None
    return found


def states(ref: Ref) -> dict[str, str]:
    return {info.id: info.state for info in tree(ref).children}


async def crash(ref: Ref, error: BaseException | None = None) -> None:
    ref.cast(Crash(error or ValueError("crash")))
    await settle()


async def up(clock: ManualClock, specs: list[ChildSpec], **options: Any) -> Ref:
    return await start(Supervisor(specs, **options), name="sup", clock=clock)


async def test_children_start_in_order_and_stop_in_reverse(
    clock: ManualClock, journal: Journal
) -> None:
    ref = await up(clock, probes(journal, "abc"))
    await ref.stop()
    assert events(journal) == ["+a", "+b", "+c", "-c", "-b", "-a"]
    assert [entry[2] for entry in journal if entry[0] == "terminate"] == ["shutdown"] * 3


async def test_a_child_starts_only_when_the_one_before_it_has_finished_its_init(
    clock: ManualClock, journal: Journal
) -> None:
    specs = [ChildSpec("a", Script(journal, "a", "hang")), probe(journal, "b")]
    ref = spawn(Supervisor(specs), name="sup", clock=clock)
    await settle()
    assert events(journal) == ["+a"]
    assert states(ref) == {"a": "starting", "b": "starting"}
    assert await ref.stop()
    assert events(journal) == ["+a"]


async def test_a_child_whose_init_fails_stops_the_others_in_reverse_and_fails_the_start(
    clock: ManualClock, journal: Journal
) -> None:
    bad = Script(journal, "bad", "crash")
    specs = [*probes(journal, "ab"), ChildSpec("bad", bad), probe(journal, "c")]
    supervisor = Supervisor(specs)
    with pytest.raises(ValueError, match="bad does not start"):
        await start(supervisor, name="sup", clock=clock)
    assert events(journal) == ["+a", "+b", "+bad", "-b", "-a"]
    assert supervisor.ref.reason is bad.error


async def test_a_factory_that_fails_fails_the_start(clock: ManualClock, journal: Journal) -> None:
    specs = [probe(journal, "a"), ChildSpec("bad", Script(journal, "bad", "factory"))]
    with pytest.raises(ValueError, match="bad does not start"):
        await start(Supervisor(specs), name="sup", clock=clock)
    assert events(journal) == ["+a", "-a"]


async def test_a_cancelled_start_ends_the_children(clock: ManualClock, journal: Journal) -> None:
    specs = [probe(journal, "a"), ChildSpec("b", Script(journal, "b", "hang"))]
    starting = asyncio.create_task(start(Supervisor(specs), name="sup", clock=clock))
    await settle()
    starting.cancel()
    await settle()
    assert events(journal) == ["+a", "+b", "-a"]


async def test_a_child_gets_its_own_deadline_to_stop(clock: ManualClock, journal: Journal) -> None:
    specs = [probe(journal, "a", shutdown=3.0), probe(journal, "b", shutdown=2.0)]
    ref = await up(clock, specs)
    for info in tree(ref).children:
        assert info.ref is not None
        info.ref.cast(Hang())
    stopping = asyncio.create_task(ref.stop(deadline=math.inf))
    await clock.advance(1.9)
    assert events(journal) == ["+a", "+b"]
    await clock.advance(0.1)
    assert events(journal) == ["+a", "+b", "-b"]
    await clock.advance(2.9)
    assert events(journal) == ["+a", "+b", "-b"]
    await clock.advance(0.1)
    assert events(journal) == ["+a", "+b", "-b", "-a"]
    assert await stopping


async def test_one_for_one_restarts_the_crashed_child_alone(
    clock: ManualClock, journal: Journal
) -> None:
    ref = await up(clock, probes(journal, "abc"))
    journal.clear()
    await crash(child(ref, "b"))
    assert events(journal) == ["-b", "+b"]
    await ref.stop()


async def test_one_for_all_restarts_all(clock: ManualClock, journal: Journal) -> None:
    ref = await up(clock, probes(journal, "abc"), strategy="one_for_all")
    journal.clear()
    await crash(child(ref, "b"))
    assert events(journal) == ["-b", "-c", "-a", "+a", "+b", "+c"]
    await ref.stop()


async def test_rest_for_one_restarts_those_after_the_crashed_child(
    clock: ManualClock, journal: Journal
) -> None:
    ref = await up(clock, probes(journal, "abcd"), strategy="rest_for_one")
    journal.clear()
    await crash(child(ref, "b"))
    assert events(journal) == ["-b", "-d", "-c", "+b", "+c", "+d"]
    await ref.stop()


@pytest.mark.parametrize(
    ("restart", "reason", "comes_back"),
    [
        ("permanent", "normal", True),
        ("permanent", "shutdown", True),
        ("permanent", ValueError(), True),
        ("transient", "normal", False),
        ("transient", "shutdown", False),
        ("transient", "other", True),
        ("transient", ValueError(), True),
        ("temporary", "normal", False),
        ("temporary", ValueError(), False),
    ],
)
async def test_the_restart_type_decides_whether_a_child_comes_back(
    clock: ManualClock, journal: Journal, restart: str, reason: object, comes_back: bool
) -> None:
    ref = await up(clock, [probe(journal, "a", restart=restart), probe(journal, "b")])
    child(ref, "a").cast(Exit(reason))
    await settle()
    assert states(ref) == ({"a": "running"} if comes_back else {}) | {"b": "running"}
    assert events(journal)[-2:] == (["-a", "+a"] if comes_back else ["+b", "-a"])
    await ref.stop()


async def test_a_killed_transient_child_comes_back(clock: ManualClock, journal: Journal) -> None:
    ref = await up(clock, [probe(journal, "a", restart="transient")])
    kill(child(ref, "a"))
    await settle()
    assert states(ref) == {"a": "running"}
    await ref.stop()


async def test_a_child_that_is_not_restarted_leaves_its_siblings_alone(
    clock: ManualClock, journal: Journal
) -> None:
    specs = [probe(journal, "a", restart="temporary"), probe(journal, "b")]
    ref = await up(clock, specs, strategy="one_for_all")
    journal.clear()
    await crash(child(ref, "a"))
    assert events(journal) == ["-a"]
    await ref.stop()


async def test_a_temporary_sibling_does_not_come_back_from_a_group_restart(
    clock: ManualClock, journal: Journal
) -> None:
    specs = [probe(journal, "a"), probe(journal, "b", restart="temporary"), probe(journal, "c")]
    ref = await up(clock, specs, strategy="one_for_all")
    journal.clear()
    await crash(child(ref, "a"))
    assert events(journal) == ["-a", "-c", "-b", "+a", "+c"]
    assert states(ref) == {"a": "running", "c": "running"}
    await ref.stop()


async def test_a_restarted_child_is_a_new_object_with_a_new_ref(
    clock: ManualClock, journal: Journal
) -> None:
    built: list[Actor] = []

    def build() -> Actor:
        built.append(Probe(journal, "a"))
        return built[-1]

    ref = await up(clock, [ChildSpec("a", build)])
    old = child(ref, "a")
    await crash(old)
    new = child(ref, "a")
    assert len(set(map(id, built))) == 2
    assert new is not old
    assert new.id != old.id
    with pytest.raises(ActorDied):
        await old.call("hello")
    assert await new.call("hello") == "hello"
    await ref.stop()


async def test_a_factory_that_returns_the_same_object_again_counts_as_a_crash(
    clock: ManualClock, journal: Journal
) -> None:
    same = Probe(journal, "a")
    ref = await up(clock, [ChildSpec("a", lambda: same)])
    await crash(child(ref, "a"))
    assert isinstance(ref.reason, RestartIntensityExceeded)
    assert isinstance(ref.reason.__cause__, ConfigError)


async def test_one_restart_more_than_the_intensity_ends_the_supervisor(
    clock: ManualClock, journal: Journal
) -> None:
    ref = await up(clock, probes(journal, "ab"), intensity=2, period=5.0)
    error = ValueError("again")
    for _ in range(2):
        await crash(child(ref, "b"))
    assert ref.alive
    journal.clear()
    await crash(child(ref, "b"), error)
    assert events(journal) == ["-b", "-a"]
    assert isinstance(ref.reason, RestartIntensityExceeded)
    assert ref.reason.__cause__ is error
    assert "'sup' gave up: more than 2 restarts within 5 s, the last one of child 'b'" in str(
        ref.reason
    )


async def test_crashes_further_apart_than_the_period_are_forgiven(
    clock: ManualClock, journal: Journal
) -> None:
    ref = await up(clock, probes(journal, "a"), intensity=1, period=5.0)
    for _ in range(5):
        await crash(child(ref, "a"))
        await clock.advance(5.1)
    assert ref.alive
    await crash(child(ref, "a"))
    await clock.advance(4.9)
    await crash(child(ref, "a"))
    assert not ref.alive


async def test_children_restarted_along_with_a_crashed_one_do_not_count(
    clock: ManualClock, journal: Journal
) -> None:
    ref = await up(clock, probes(journal, "abcd"), strategy="one_for_all", intensity=1)
    await crash(child(ref, "a"))
    assert ref.alive
    assert [info.restarts for info in tree(ref).children] == [1, 1, 1, 1]
    await ref.stop()


async def test_a_restart_whose_init_fails_counts_as_another_crash_and_is_tried_again(
    clock: ManualClock, journal: Journal
) -> None:
    script = Script(journal, "a", "ok", "crash", "factory", "ok")
    ref = await up(clock, [ChildSpec("a", script)], intensity=3)
    await crash(child(ref, "a"))
    assert states(ref) == {"a": "running"}
    assert tree(ref).children[0].restarts == 3
    await crash(child(ref, "a"))
    assert isinstance(ref.reason, RestartIntensityExceeded)


async def test_a_restart_that_always_fails_exceeds_the_intensity(
    clock: ManualClock, journal: Journal
) -> None:
    script = Script(journal, "a", "ok", "crash")
    ref = await up(clock, [ChildSpec("a", script)], intensity=3)
    await crash(child(ref, "a"))
    assert events(journal) == ["+a", "-a", "+a", "+a", "+a"]
    assert isinstance(ref.reason, RestartIntensityExceeded)
    assert ref.reason.__cause__ is script.error


async def test_a_failed_start_in_a_group_restart_restarts_the_group(
    clock: ManualClock, journal: Journal
) -> None:
    script = Script(journal, "b", "ok", "crash", "ok")
    specs = [probe(journal, "a"), ChildSpec("b", script), probe(journal, "c")]
    ref = await up(clock, specs, strategy="one_for_all")
    journal.clear()
    await crash(child(ref, "c"))
    assert events(journal) == ["-c", "-b", "-a", "+a", "+b", "-a", "+a", "+b", "+c"]
    await ref.stop()


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_while_a_restart_hangs_the_supervisor_answers_and_can_be_ended(
    clock: ManualClock, journal: Journal, end: str
) -> None:
    specs = [ChildSpec("a", Script(journal, "a", "ok", "hang")), probe(journal, "b")]
    ref = await up(clock, specs)
    await crash(child(ref, "a"))
    assert states(ref) == {"a": "restarting", "b": "running"}
    answer = await ref.call(WhichChildren())
    assert [(info.id, info.state, info.restarts) for info in answer] == [
        ("a", "restarting", 1),
        ("b", "running", 0),
    ]
    assert ref.status().state == "restarting"
    if end == "stop":
        assert await ref.stop()
    else:
        kill(ref)
        await ref.wait_dead()
    assert events(journal) == ["+a", "+b", "-a", "+a", "-b"]
    assert clock.pending == 0


async def test_a_hanging_child_of_one_for_one_holds_up_no_sibling(
    clock: ManualClock, journal: Journal
) -> None:
    specs = [ChildSpec("a", Script(journal, "a", "ok", "hang")), probe(journal, "b")]
    ref = await up(clock, specs)
    await crash(child(ref, "a"))
    await crash(child(ref, "b"))
    assert states(ref) == {"a": "restarting", "b": "running"}
    await ref.stop()


async def test_while_a_child_does_not_stop_the_supervisor_answers(
    clock: ManualClock, journal: Journal
) -> None:
    ref = await up(clock, probes(journal, "ab"), strategy="one_for_all")
    child(ref, "a").cast(Hang())
    await crash(child(ref, "b"))
    assert states(ref) == {"a": "stopping", "b": "restarting"}
    assert len(await ref.call(WhichChildren())) == 2
    await clock.advance(5)
    assert states(ref) == {"a": "running", "b": "running"}
    await ref.stop()


async def test_a_child_that_exits_during_the_stop_of_others_is_restarted_with_them(
    clock: ManualClock, journal: Journal
) -> None:
    ref = await up(clock, probes(journal, "abc"), strategy="one_for_all", intensity=1)
    a, b, c = (child(ref, child_id) for child_id in "abc")
    c.cast(Hang())
    await crash(b)
    assert states(ref) == {"a": "running", "b": "restarting", "c": "stopping"}
    await crash(a)
    assert states(ref) == {"a": "restarting", "b": "restarting", "c": "stopping"}
    journal.clear()
    await clock.advance(5)
    assert events(journal) == ["-c", "+a", "+b", "+c"]
    assert ref.alive
    await ref.stop()


async def test_a_child_that_crashes_while_it_is_stopped_is_no_crash(
    clock: ManualClock, journal: Journal
) -> None:
    class Sore(Probe):
        async def handle_cast(self, payload: Any) -> None:
            await gate.wait()
            raise ValueError("sore")

    gate = asyncio.Event()
    ref = await up(clock, [ChildSpec("a", lambda: Sore(journal, "a"))], intensity=0)
    child(ref, "a").cast("go")
    await settle()
    stopped = ref.call_nowait(StopChild("a"))
    await settle()
    gate.set()
    assert await stopped is None
    assert ref.alive
    assert states(ref) == {}
    await ref.stop()


async def test_an_earlier_child_that_crashes_during_a_restart_widens_it(
    clock: ManualClock, journal: Journal
) -> None:
    ref = await up(clock, probes(journal, "abcd"), strategy="rest_for_one", intensity=2)
    child(ref, "d").cast(Hang())
    await crash(child(ref, "c"))
    await crash(child(ref, "a"))
    journal.clear()
    await clock.advance(5)
    assert events(journal) == ["-d", "-b", "+a", "+b", "+c", "+d"]
    await ref.stop()


async def test_a_crash_while_a_later_child_restarts_stops_that_start(
    clock: ManualClock, journal: Journal
) -> None:
    script = Script(journal, "b", "ok", "hang", "ok")
    specs = [probe(journal, "a"), ChildSpec("b", script), probe(journal, "c")]
    ref = await up(clock, specs, strategy="rest_for_one")
    await crash(child(ref, "b"))
    assert states(ref) == {"a": "running", "b": "restarting", "c": "restarting"}
    journal.clear()
    await crash(child(ref, "a"))
    assert events(journal) == ["-a", "+a", "+b", "+c"]
    assert set(states(ref).values()) == {"running"}
    await ref.stop()


async def test_a_supervisor_that_gives_up_is_restarted_by_its_own_supervisor(
    clock: ManualClock, journal: Journal
) -> None:
    inner = ChildSpec("inner", lambda: Supervisor(probes(journal, "cd"), intensity=0))
    ref = await up(clock, [probe(journal, "a"), inner])
    old = child(ref, "inner")
    journal.clear()
    await crash(child(old, "c"))
    assert isinstance(old.reason, RestartIntensityExceeded)
    assert events(journal) == ["-c", "-d", "+c", "+d"]
    assert child(ref, "inner") is not old
    await ref.stop()


async def test_failure_goes_up_the_tree(clock: ManualClock, journal: Journal) -> None:
    inner = ChildSpec("inner", lambda: Supervisor(probes(journal, "c"), intensity=0))
    ref = await up(clock, [probe(journal, "a"), inner], intensity=0)
    await crash(child(child(ref, "inner"), "c"))
    assert isinstance(ref.reason, RestartIntensityExceeded)
    assert isinstance(ref.reason.__cause__, RestartIntensityExceeded)
    assert isinstance(ref.reason.__cause__.__cause__, ValueError)
    assert events(journal) == ["+a", "+c", "-c", "-a"]


async def test_a_killed_supervisor_kills_its_whole_tree_at_once(
    clock: ManualClock, journal: Journal
) -> None:
    inner = ChildSpec("inner", lambda: Supervisor(probes(journal, "cd")), shutdown=math.inf)
    ref = await up(clock, [probe(journal, "a"), inner])
    for name in "cd":
        child(child(ref, "inner"), name).cast(Hang())
    child(ref, "a").cast(Hang())
    await settle()
    kill(ref)
    await ref.wait_dead()
    assert sorted(events(journal)) == ["+a", "+c", "+d", "-a", "-c", "-d"]
    assert clock.now() == 0.0


async def test_a_supervisor_that_runs_out_of_time_kills_what_is_left(
    clock: ManualClock, journal: Journal
) -> None:
    ref = await up(clock, probes(journal, "ab", shutdown=math.inf))
    for name in "ab":
        child(ref, name).cast(Hang())
    stopping = asyncio.create_task(ref.stop(deadline=5))
    await clock.advance(4.9)
    assert events(journal) == ["+a", "+b"]
    await clock.advance(0.1)
    assert await stopping
    assert sorted(events(journal)) == ["+a", "+b", "-a", "-b"]


async def test_a_supervisor_whose_children_need_long_to_end_is_not_stuck(
    clock: ManualClock, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    class Slow(Probe):
        async def terminate(self, reason: object) -> None:
            await super().terminate(reason)
            await hang()

    ref = await up(clock, [ChildSpec("a", lambda: Slow(journal, "a")), probe(journal, "b")])
    child(ref, "b").cast(Hang())
    stopping = asyncio.create_task(ref.stop(deadline=1))
    await clock.advance(5.9)
    assert not stopping.done()
    await clock.advance(0.1)
    assert await stopping
    assert not ref.stuck
    assert "StuckActor" not in caplog.text


class Stubborn(Probe):
    """Ignores every cancellation until `let_go` is set."""

    def __init__(self, journal: Journal, label: str, let_go: asyncio.Event) -> None:
        super().__init__(journal, label)
        self.let_go = let_go

    async def handle_cast(self, payload: Any) -> None:
        while not self.let_go.is_set():
            try:
                await self.let_go.wait()
            except asyncio.CancelledError:
                continue


async def test_a_stuck_child_is_replaced_and_stops_nobody(
    clock: ManualClock, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    let_go = asyncio.Event()
    specs = [ChildSpec("a", lambda: Stubborn(journal, "a", let_go)), probe(journal, "b")]
    ref = await up(clock, specs)
    try:
        old = child(ref, "a")
        old.cast("go")
        await settle()
        renewed = ref.call_nowait(RestartChild("a"))
        await clock.advance(7)
        assert old.stuck
        assert (await renewed) is child(ref, "a")
        assert "StuckActor" in caplog.text

        child(ref, "a").cast("go")
        await settle()
        stopping = asyncio.create_task(ref.stop(deadline=math.inf))
        await clock.advance(7)
        assert await stopping
        assert events(journal) == ["+a", "+b", "+a", "-b"]
    finally:
        let_go.set()
        await settle()


async def test_a_killed_supervisor_gives_stuck_children_up(
    clock: ManualClock, journal: Journal
) -> None:
    let_go = asyncio.Event()
    ref = await up(clock, [ChildSpec("a", lambda: Stubborn(journal, "a", let_go))])
    try:
        child(ref, "a").cast("go")
        await settle()
        kill(ref)
        await clock.advance(2)
        assert ref.status().state == "dead"
        assert not ref.stuck
    finally:
        let_go.set()
        await settle()


# Dynamic children


async def test_a_child_can_be_added_and_stops_first(clock: ManualClock, journal: Journal) -> None:
    ref = await up(clock, probes(journal, "ab"))
    added = await ref.call(StartChild(probe(journal, "c")))
    assert await added.call("hello") == "hello"
    assert [info.id for info in tree(ref).children] == ["a", "b", "c"]
    await ref.stop()
    assert events(journal) == ["+a", "+b", "+c", "-c", "-b", "-a"]


async def test_an_added_child_is_supervised(clock: ManualClock, journal: Journal) -> None:
    ref = await up(clock, [])
    added = await ref.call(StartChild(probe(journal, "a")))
    await crash(added)
    assert child(ref, "a") is not added
    await ref.stop()


@pytest.mark.parametrize("word", ["crash", "factory"])
async def test_an_added_child_whose_start_fails_is_not_kept_and_no_crash(
    clock: ManualClock, journal: Journal, word: str
) -> None:
    ref = await up(clock, [], intensity=0)
    with pytest.raises((ValueError, ActorDied), match="bad does not start"):
        await ref.call(StartChild(ChildSpec("bad", Script(journal, "bad", word))))
    assert states(ref) == {}
    assert ref.alive
    await ref.stop()


async def test_a_child_id_that_is_taken_is_refused(clock: ManualClock, journal: Journal) -> None:
    ref = await up(clock, probes(journal, "a"))
    with pytest.raises(ChildExists, match=r"'sup' has a child 'a' already \(running\)"):
        await ref.call(StartChild(probe(journal, "a")))
    assert events(journal) == ["+a"]
    await ref.stop()


async def test_a_stopped_child_is_forgotten_and_its_id_is_free(
    clock: ManualClock, journal: Journal
) -> None:
    ref = await up(clock, probes(journal, "ab"))
    old = child(ref, "a")
    assert await ref.call(StopChild("a")) is None
    assert old.reason == "shutdown"
    assert states(ref) == {"b": "running"}
    await ref.call(StartChild(probe(journal, "a")))
    assert states(ref) == {"b": "running", "a": "running"}
    await ref.stop()


async def test_a_child_that_is_being_stopped_can_be_stopped_again_but_not_restarted(
    clock: ManualClock, journal: Journal
) -> None:
    ref = await up(clock, probes(journal, "a"))
    child(ref, "a").cast(Hang())
    stops = [ref.call_nowait(StopChild("a")) for _ in range(2)]
    await settle()
    assert states(ref) == {"a": "stopping"}
    with pytest.raises(ChildNotFound, match="'a' is being stopped"):
        await ref.call(RestartChild("a"))
    with pytest.raises(ChildExists, match="stopping"):
        await ref.call(StartChild(probe(journal, "a")))
    await clock.advance(5)
    assert [await stop for stop in stops] == [None, None]
    await ref.stop()


@pytest.mark.parametrize("order", [StopChild, RestartChild])
async def test_orders_for_an_unknown_child_are_refused_with_the_known_ones(
    clock: ManualClock, journal: Journal, order: Callable[[str], object]
) -> None:
    ref = await up(clock, probes(journal, "ab"))
    with pytest.raises(ChildNotFound, match="no child 'x'; its children are: a, b"):
        await ref.call(order("x"))
    await ref.stop()


async def test_a_child_that_starts_can_be_stopped(clock: ManualClock, journal: Journal) -> None:
    ref = await up(clock, [])
    starting = ref.call_nowait(StartChild(ChildSpec("a", Script(journal, "a", "hang"))))
    await settle()
    assert states(ref) == {"a": "starting"}
    assert await ref.call(StopChild("a")) is None
    with pytest.raises(ActorDied, match="'a' ended before it had started: shutdown"):
        await starting
    assert states(ref) == {}
    await ref.stop()


async def test_a_child_that_waits_for_its_turn_can_be_stopped(
    clock: ManualClock, journal: Journal
) -> None:
    ref = await up(clock, [], strategy="one_for_all")
    first = ref.call_nowait(StartChild(ChildSpec("a", Script(journal, "a", "hang"))))
    second = ref.call_nowait(StartChild(probe(journal, "b")))
    await settle()
    assert states(ref) == {"a": "starting", "b": "starting"}
    assert tree(ref).children[1].ref is None
    assert await ref.call(StopChild("b")) is None
    with pytest.raises(ActorDied):
        await second
    assert events(journal) == ["+a"]
    await ref.stop()
    with pytest.raises(ActorDied):
        await first


async def test_a_restart_on_request_concerns_one_child_and_is_no_crash(
    clock: ManualClock, journal: Journal
) -> None:
    ref = await up(clock, probes(journal, "ab"), strategy="one_for_all", intensity=0)
    old = child(ref, "a")
    new = await ref.call(RestartChild("a"))
    assert new is child(ref, "a")
    assert new is not old
    assert events(journal) == ["+a", "+b", "-a", "+a"]
    assert old.reason == "shutdown"
    await ref.stop()


async def test_a_restart_on_request_that_fails_is_a_crash(
    clock: ManualClock, journal: Journal
) -> None:
    script = Script(journal, "a", "ok", "crash", "ok")
    ref = await up(clock, [ChildSpec("a", script)], intensity=1)
    with pytest.raises(ValueError, match="a does not start"):
        await ref.call(RestartChild("a"))
    await settle()
    assert states(ref) == {"a": "running"}
    await crash(child(ref, "a"))
    assert not ref.alive


async def test_a_temporary_child_can_be_restarted_on_request(
    clock: ManualClock, journal: Journal
) -> None:
    ref = await up(clock, [probe(journal, "a", restart="temporary")])
    assert await ref.call(RestartChild("a")) is child(ref, "a")
    await ref.stop()


async def test_a_request_for_a_child_that_restarts_anyway_waits_for_that(
    clock: ManualClock, journal: Journal
) -> None:
    ref = await up(clock, probes(journal, "ab"), strategy="one_for_all")
    child(ref, "a").cast(Hang())
    await crash(child(ref, "b"))
    renewed = ref.call_nowait(RestartChild("b"))
    await settle()
    assert not renewed.done()
    await clock.advance(5)
    assert await renewed is child(ref, "b")
    assert [info.restarts for info in tree(ref).children] == [1, 1]
    await ref.stop()


async def test_an_added_child_that_a_group_restart_stops_is_announced_when_it_runs_again(
    clock: ManualClock, journal: Journal
) -> None:
    gate = asyncio.Event()

    class Slow(Probe):
        async def init(self) -> None:
            await super().init()
            await gate.wait()

    ref = await up(clock, probes(journal, "ab"), strategy="one_for_all")
    child(ref, "a").cast(Hang())
    adding = ref.call_nowait(StartChild(ChildSpec("c", lambda: Slow(journal, "c"))))
    removing = ref.call_nowait(StopChild("a"))
    await settle()
    await crash(child(ref, "b"))
    gate.set()
    await settle()
    assert states(ref) == {"a": "stopping", "b": "restarting", "c": "running"}
    assert not adding.done()
    journal.clear()
    await clock.advance(5)
    assert removing.done()
    assert events(journal) == ["-a", "-c", "+b", "+c"]
    assert await adding is child(ref, "c")
    await ref.stop()


async def test_a_child_stays_if_the_caller_that_added_it_gave_up(
    clock: ManualClock, journal: Journal
) -> None:
    gate = asyncio.Event()

    class Slow(Probe):
        async def init(self) -> None:
            await gate.wait()

    ref = await up(clock, [])
    starting = ref.call_nowait(StartChild(ChildSpec("a", lambda: Slow(journal, "a"))))
    await settle()
    starting.cancel()
    gate.set()
    await settle()
    assert states(ref) == {"a": "running"}
    await ref.stop()


async def test_pending_orders_fail_when_the_supervisor_ends(
    clock: ManualClock, journal: Journal
) -> None:
    ref = await up(clock, [])
    starting = ref.call_nowait(StartChild(ChildSpec("a", Script(journal, "a", "hang"))))
    await settle()
    await ref.stop()
    with pytest.raises(ActorDied):
        await starting


# Names, snapshots, mistakes


async def test_children_are_registered_under_their_names_and_again_after_a_restart(
    clock: ManualClock, journal: Journal
) -> None:
    registry = Registry(clock=clock)
    specs = [probe(journal, "a"), probe(journal, "b", name="bee")]
    ref = await up(clock, specs, registry=registry)
    assert registry.names() == ("a", "bee")
    old = child(ref, "b")
    assert old.name == "bee"
    assert registry.whereis("bee") is old
    await crash(old)
    assert await registry.wait_for("bee") is child(ref, "b")
    await ref.stop()
    assert registry.names() == ()


async def test_a_taken_name_fails_the_start_of_the_child(
    clock: ManualClock, journal: Journal
) -> None:
    registry = Registry(clock=clock)
    holder = await start(Probe(), name="holder", clock=clock)
    registry.register("a", holder)
    with pytest.raises(NameTaken):
        await start(Supervisor(probes(journal, "a"), registry=registry), name="sup", clock=clock)
    assert registry.whereis("a") is holder
    assert events(journal) == []
    await holder.stop()


async def test_a_tree_shows_all_levels_without_waiting(
    clock: ManualClock, journal: Journal
) -> None:
    inner = ChildSpec("inner", lambda: Supervisor(probes(journal, "c")))
    ref = await up(clock, [probe(journal, "a"), inner])
    root = tree(ref)
    assert (root.id, root.ref, root.state) == ("sup", ref, "running")
    a, nested = root.children
    assert (a.id, a.restarts, a.state, a.children) == ("a", 0, "running", ())
    assert [info.id for info in nested.children] == ["c"]
    assert await ref.call(WhichChildren()) == root.children
    await ref.stop()
    assert tree(ref) == ChildInfo("sup", ref, 0, "dead")


async def test_a_tree_shows_a_supervisor_that_starts_and_one_that_stops(
    clock: ManualClock, journal: Journal
) -> None:
    specs = [probe(journal, "a"), ChildSpec("b", Script(journal, "b", "hang"))]
    ref = spawn(Supervisor(specs), name="sup", clock=clock)
    await settle()
    assert tree(ref).state == "starting"
    assert states(ref) == {"a": "running", "b": "starting"}
    child(ref, "a").cast(Hang())
    await settle()
    ref.request_stop()
    await settle()
    assert tree(ref).state == "stopping"
    await clock.advance(5)


def test_two_children_with_one_id_are_refused(journal: Journal) -> None:
    with pytest.raises(ConfigError, match="two children have the id 'a'"):
        Supervisor(probes(journal, "aba"))


def test_an_unknown_strategy_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match="one of one_for_one, one_for_all, rest_for_one, not 'all_for_one'"
    ):
        Supervisor([], strategy="all_for_one")  # type: ignore[arg-type]


async def test_a_foreign_message_crashes_the_supervisor_and_ends_its_children(
    clock: ManualClock, journal: Journal
) -> None:
    ref = await up(clock, probes(journal, "ab"))
    ref.urgent("what")
    await ref.wait_dead()
    assert isinstance(ref.reason, TypeError)
    assert events(journal) == ["+a", "+b", "-b", "-a"]
    ref = await up(clock, [])
    with pytest.raises(ActorDied):
        await ref.call("what")
