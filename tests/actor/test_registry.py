import asyncio

import pytest

from erllama.actor import NameTaken, Registry, kill, spawn, start
from erllama.actor.testing import ManualClock, Probe, settle
from erllama.clock import LoopClock
from erllama.errors import ActorDied, CallTimeout


@pytest.fixture
def registry(clock: ManualClock) -> Registry:
    return Registry(clock=clock)


async def test_a_registered_actor_is_found_by_its_name(
    clock: ManualClock, registry: Registry
) -> None:
    ref = await start(Probe(), name="probe", clock=clock)
    assert registry.whereis("b") is None
    registry.register("b", ref)
    registry.register("a", ref)
    assert registry.whereis("b") is ref
    assert registry.names() == ("a", "b")
    await ref.stop()


async def test_a_taken_name_is_refused(clock: ManualClock, registry: Registry) -> None:
    first = await start(Probe(), name="first", clock=clock)
    second = await start(Probe(), name="second", clock=clock)
    registry.register("name", first)
    registry.register("name", first)
    with pytest.raises(NameTaken, match=r"'name' is taken by <Ref 'first'"):
        registry.register("name", second)
    assert registry.whereis("name") is first
    await first.stop()
    await second.stop()


async def test_a_dead_actor_cannot_be_registered(clock: ManualClock, registry: Registry) -> None:
    ref = await start(Probe(), name="gone", clock=clock)
    await ref.stop()
    with pytest.raises(ActorDied):
        registry.register("name", ref)


async def test_a_dead_actor_loses_its_name(clock: ManualClock, registry: Registry) -> None:
    ref = await start(Probe(), name="probe", clock=clock)
    registry.register("name", ref)
    await ref.stop()
    assert registry.whereis("name") is None
    assert registry.names() == ()
    assert not registry._refs


async def test_an_actor_that_is_ending_has_lost_its_name_already(
    clock: ManualClock, registry: Registry
) -> None:
    class SlowEnd(Probe):
        async def terminate(self, reason: object) -> None:
            await gate.wait()

    gate = asyncio.Event()
    old = await start(SlowEnd(), name="old", clock=clock)
    registry.register("name", old)
    old.request_stop()
    await settle()
    assert registry.whereis("name") is None
    assert registry.names() == ()
    new = await start(Probe(), name="new", clock=clock)
    registry.register("name", new)
    gate.set()
    await old.wait_dead()
    assert registry.whereis("name") is new
    await new.stop()


async def test_wait_for_returns_a_live_actor_at_once(
    clock: ManualClock, registry: Registry
) -> None:
    ref = await start(Probe(), name="probe", clock=clock)
    registry.register("name", ref)
    assert await registry.wait_for("name") is ref
    await ref.stop()


async def test_wait_for_returns_an_actor_that_reappears(
    clock: ManualClock, registry: Registry
) -> None:
    old = await start(Probe(), name="old", clock=clock)
    registry.register("name", old)
    kill(old)
    await old.wait_dead()
    waiting = [asyncio.create_task(registry.wait_for("name", 5)) for _ in range(2)]
    await clock.advance(4)
    new = spawn(Probe(), name="new", clock=clock)
    registry.register("name", new)
    assert [await waiter for waiter in waiting] == [new, new]
    assert clock.pending == 0
    await new.stop()


async def test_wait_for_gives_up_in_time(clock: ManualClock, registry: Registry) -> None:
    waiting = asyncio.create_task(registry.wait_for("nobody", 5))
    await clock.advance(4.9)
    assert not waiting.done()
    await clock.advance(0.1)
    with pytest.raises(CallTimeout, match=r"no actor named 'nobody' appeared within 5 s"):
        await waiting
    assert not registry._waiters


async def test_a_cancelled_wait_leaves_nothing_behind(
    clock: ManualClock, registry: Registry
) -> None:
    waiting = [asyncio.create_task(registry.wait_for("name", 5)) for _ in range(2)]
    await settle()
    waiting[0].cancel()
    await settle()
    ref = await start(Probe(), name="probe", clock=clock)
    registry.register("name", ref)
    assert await waiting[1] is ref
    assert waiting[0].cancelled()
    assert not registry._waiters
    assert clock.pending == 0
    await ref.stop()


def test_a_registry_uses_the_loops_clock_unless_given_another() -> None:
    assert isinstance(Registry()._clock, LoopClock)
