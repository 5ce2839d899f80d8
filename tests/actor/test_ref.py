import asyncio
import gc
import logging
import weakref
from typing import Any

import pytest

from erllama.actor import (
    DEFERRED,
    Actor,
    ActorStatus,
    Down,
    ReplyTo,
    kill,
    spawn,
    start,
)
from erllama.actor.testing import Crash, CrashingActor, Exit, Hang, ManualClock, Probe, settle
from erllama.errors import ActorDied, CallTimeout, MailboxFull


async def test_a_call_returns_the_handlers_value(clock: ManualClock) -> None:
    ref = await start(Probe(), name="probe", clock=clock)
    assert await ref.call("hello") == "hello"
    await ref.stop()


async def test_a_call_that_is_not_answered_in_time_times_out_on_the_actors_clock(
    clock: ManualClock,
) -> None:
    ref = await start(Probe(), name="slow", clock=clock)
    calling = asyncio.create_task(ref.call(Hang(), timeout=3))
    await clock.advance(2.9)
    assert not calling.done()
    await clock.advance(0.1)
    with pytest.raises(CallTimeout, match=r"'slow' did not answer within 3 s"):
        await calling
    assert ref.alive
    kill(ref)
    await settle()


async def test_an_answered_call_leaves_no_timer(clock: ManualClock) -> None:
    ref = await start(Probe(), name="probe", clock=clock)
    await ref.call("hello", timeout=3)
    assert clock.pending == 0
    await ref.stop()


async def test_a_cast_and_an_urgent_message_arrive(clock: ManualClock) -> None:
    probe = Probe()
    ref = await start(probe, name="probe", clock=clock)
    ref.cast("work")
    assert ref.urgent("system")
    await settle()
    assert probe.journal[1:] == [("urgent", "probe", "system"), ("cast", "probe", "work")]
    await ref.stop()


async def test_a_note_lets_an_actor_sleep_and_comes_before_all_that_is_sent_later(
    clock: ManualClock,
) -> None:
    probe = Probe()
    ref = await start(probe, name="probe", clock=clock)
    await settle()
    assert ref.note("by the way")
    await settle()
    assert len(probe.journal) == 1
    ref.cast("work")
    await settle()
    assert probe.journal[1:] == [("urgent", "probe", "by the way"), ("cast", "probe", "work")]
    await ref.stop()
    assert not ref.note("late")


async def test_a_dead_actor_takes_nothing(clock: ManualClock) -> None:
    ref = await start(Probe(), name="gone", clock=clock)
    await ref.stop("normal")
    assert not ref.alive
    assert ref.reason == "normal"
    for send in (ref.cast, ref.call_nowait):
        with pytest.raises(ActorDied, match="'gone' is dead: normal") as caught:
            send("late")
        assert caught.value.reason == "normal"
    with pytest.raises(ActorDied):
        await ref.call("late")
    with pytest.raises(ActorDied):
        await ref.probe()
    assert not ref.urgent("late")


async def test_call_nowait_returns_the_future_of_the_answer(clock: ManualClock) -> None:
    ref = await start(Probe(), name="probe", clock=clock)
    future = ref.call_nowait("hello")
    assert not future.done()
    assert await future == "hello"
    await ref.stop()


async def test_a_full_mailbox_refuses_calls_and_casts(clock: ManualClock) -> None:
    ref = spawn(Probe(), name="full", clock=clock, mailbox_capacity=1)
    ref.cast("fits")
    with pytest.raises(MailboxFull, match="'full' is full: all 1 places"):
        ref.cast("too much")
    with pytest.raises(MailboxFull):
        await ref.call("too much")
    assert ref.urgent("the system lane has room")
    await ref.wait_started()
    await ref.stop()


async def test_the_error_of_a_dropped_future_makes_no_noise(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    ref = await start(Probe(), name="probe", clock=clock)
    ref.call_nowait(ActorDied("refused"))
    await settle()
    gc.collect()
    await settle()
    assert "never retrieved" not in caplog.text
    await ref.stop()


async def test_an_actor_that_calls_itself_is_told_so_instead_of_waiting_forever(
    clock: ManualClock,
) -> None:
    class Narcissus(Actor):
        async def handle_cast(self, payload: Any) -> None:
            await self.ref.call("me")

    ref = await start(Narcissus(), name="narcissus", clock=clock)
    ref.cast("go")
    await ref.wait_dead()
    assert "called itself" in str(ref.reason)


async def test_an_actor_that_awaits_its_own_end_is_told_to_use_stop_self(
    clock: ManualClock,
) -> None:
    class Ouroboros(Actor):
        async def handle_cast(self, payload: Any) -> None:
            await self.ref.stop()

    ref = await start(Ouroboros(), name="ouroboros", clock=clock)
    ref.cast("go")
    await ref.wait_dead()
    assert "use stop_self" in str(ref.reason)


async def test_a_probe_is_answered_by_the_actor_itself(clock: ManualClock) -> None:
    ref = await start(Probe(), name="probe", clock=clock)
    status = await ref.probe()
    assert status == ActorStatus("probe", ref.id, "running", 0, 0, 0.0)
    ref.cast(Hang())
    await settle()
    probing = asyncio.create_task(ref.probe(timeout=1))
    await clock.advance(1)
    with pytest.raises(CallTimeout):
        await probing
    kill(ref)
    await settle()


async def test_pending_probes_fail_with_the_actor(clock: ManualClock) -> None:
    ref = await start(Probe(), name="probe", clock=clock)
    ref.cast(Hang())
    await settle()
    probing = asyncio.create_task(ref.probe())
    await settle()
    kill(ref)
    with pytest.raises(ActorDied):
        await probing


async def test_the_status_needs_no_answer(clock: ManualClock) -> None:
    ref = spawn(Probe(), name="probe", clock=clock)
    assert ref.status().state == "starting"
    await ref.wait_started()
    ref.cast(Hang())
    await settle()
    ref.cast("waiting")
    ref.cast("waiting")
    ref.urgent("waiting")
    await clock.advance(7)
    assert ref.status() == ActorStatus("probe", ref.id, "running", 1, 2, 7.0)
    kill(ref)
    await ref.wait_dead()
    await clock.advance(5)
    assert ref.status() == ActorStatus("probe", ref.id, "dead", 0, 0, 7.0)


async def test_the_status_survives_an_actor_that_cannot_tell_its_state(
    clock: ManualClock,
) -> None:
    class Shy(Probe):
        def status_state(self) -> str:
            raise ValueError("secret")

    ref = await start(Shy(), name="shy", clock=clock)
    assert ref.status().state == "unknown: ValueError('secret')"
    await ref.stop()


async def test_refs_have_unique_ids(clock: ManualClock) -> None:
    refs = [await start(Probe(), name="same", clock=clock) for _ in range(3)]
    assert len({ref.id for ref in refs}) == 3
    for ref in refs:
        await ref.stop()


async def test_a_watcher_hears_of_the_end_once(clock: ManualClock) -> None:
    ref = await start(Probe(), name="watched", clock=clock)
    downs: list[Down] = []
    ref.watch(downs.append)
    await ref.stop("normal")
    kill(ref)
    await settle()
    assert downs == [Down("watched", ref.id, "normal")]


async def test_a_watcher_of_a_dead_actor_hears_at_once(clock: ManualClock) -> None:
    ref = await start(Probe(), name="watched", clock=clock)
    await ref.stop()
    downs: list[Down] = []
    ref.watch(downs.append)
    assert downs == [Down("watched", ref.id, "shutdown")]


async def test_a_cancelled_watch_is_not_called_and_not_kept(clock: ManualClock) -> None:
    ref = await start(Probe(), name="watched", clock=clock)
    for _ in range(3):
        watch = ref.watch(lambda _: pytest.fail("cancelled"))
        watch.cancel()
        watch.cancel()
    assert not ref._watches
    await ref.stop()


async def test_a_failing_watcher_is_logged_and_hurts_no_other(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    ref = await start(Probe(), name="watched", clock=clock)
    downs: list[Down] = []

    def fail(_: Down) -> None:
        raise ValueError("bad watcher")

    ref.watch(fail)
    ref.watch(downs.append)
    await ref.stop()
    assert len(downs) == 1
    assert "bad watcher" in caplog.text


async def test_watchers_hear_only_after_terminate_is_done(clock: ManualClock) -> None:
    journal: list[tuple[Any, ...]] = []
    ref = await start(Probe(journal), name="watched", clock=clock)
    ref.watch(lambda _: journal.append(("heard",)))
    await ref.stop()
    assert [entry[0] for entry in journal] == ["init", "terminate", "heard"]


async def test_stop_returns_true_once_the_actor_has_ended(clock: ManualClock) -> None:
    probe = Probe()
    ref = await start(probe, name="probe", clock=clock)
    assert await ref.stop()
    assert probe.heard("terminate") == ["shutdown"]
    assert clock.pending == 0


async def test_stopping_a_dead_actor_returns_at_once(clock: ManualClock) -> None:
    ref = await start(Probe(), name="probe", clock=clock)
    await ref.stop("normal")
    assert await ref.stop("again")
    assert ref.reason == "normal"


async def test_stop_lets_the_current_message_finish(clock: ManualClock) -> None:
    class Slow(Probe):
        async def handle_call(self, payload: Any, reply: ReplyTo) -> Any:
            await asyncio.shield(gate)
            return "done"

    gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    ref = await start(Slow(), name="slow", clock=clock)
    answer = ref.call_nowait("work")
    await settle()
    stopping = asyncio.create_task(ref.stop(deadline=5))
    await clock.advance(4)
    gate.set_result(None)
    assert await stopping
    assert await answer == "done"
    assert ref.reason == "shutdown"


async def test_stop_kills_at_its_deadline(clock: ManualClock) -> None:
    probe = Probe()
    ref = await start(probe, name="hung", clock=clock)
    ref.cast(Hang())
    stopping = asyncio.create_task(ref.stop(deadline=5))
    await clock.advance(4.9)
    assert ref.alive
    await clock.advance(0.1)
    assert await stopping
    assert ref.reason == "killed"
    assert probe.heard("terminate") == ["killed"]


@pytest.mark.parametrize("deadlines", [(9.0, 2.0), (2.0, 9.0)])
async def test_of_several_stops_the_earliest_deadline_counts(
    clock: ManualClock, deadlines: tuple[float, float]
) -> None:
    ref = await start(Probe(), name="hung", clock=clock)
    ref.cast(Hang())
    await settle()
    for deadline in deadlines:
        ref.request_stop(deadline=deadline)
    await clock.advance(1.9)
    assert ref.status().state == "running"
    await clock.advance(0.1)
    assert ref.status().state == "dead"
    assert clock.pending == 0


async def test_a_cancelled_stop_goes_on_without_its_caller(clock: ManualClock) -> None:
    ref = await start(Probe(), name="hung", clock=clock)
    ref.cast(Hang())
    stopping = asyncio.create_task(ref.stop(deadline=5))
    await settle()
    stopping.cancel()
    await clock.advance(5)
    assert stopping.cancelled()
    assert ref.reason == "killed"


async def test_an_infinite_deadline_never_kills(clock: ManualClock) -> None:
    ref = await start(Probe(), name="hung", clock=clock)
    ref.cast(Hang())
    stopping = asyncio.create_task(ref.stop(deadline=float("inf")))
    await clock.advance(1e9)
    assert ref.alive
    kill(ref)
    assert await stopping


async def test_a_stop_cancels_an_init_that_still_runs(clock: ManualClock) -> None:
    class SlowStart(Probe):
        async def init(self) -> None:
            await super().init()
            await asyncio.get_running_loop().create_future()

    probe = SlowStart()
    ref = spawn(probe, name="slow start", clock=clock)
    await settle()
    assert await ref.stop("changed my mind")
    assert ref.reason == "changed my mind"
    assert probe.heard("terminate") == []


async def test_wait_started_raises_what_init_raised(clock: ManualClock) -> None:
    ref = spawn(CrashingActor(ValueError("bad init")), name="bad", clock=clock)
    with pytest.raises(ValueError, match="bad init"):
        await ref.wait_started()


async def test_wait_started_raises_actor_died_if_the_start_was_cut_short(
    clock: ManualClock,
) -> None:
    ref = spawn(Probe(), name="probe", clock=clock)
    kill(ref)
    with pytest.raises(ActorDied) as caught:
        await ref.wait_started()
    assert caught.value.reason == "killed"


async def test_on_started_is_called_after_init_and_never_for_a_failed_one(
    clock: ManualClock,
) -> None:
    journal: list[tuple[Any, ...]] = []
    ref = spawn(Probe(journal), name="good", clock=clock)
    ref.on_started(lambda: journal.append(("started",)))
    bad = spawn(CrashingActor(ValueError()), name="bad", clock=clock)
    bad.on_started(lambda: pytest.fail("it never started"))
    await settle()
    ref.on_started(lambda: journal.append(("at once",)))
    assert journal == [("init", "probe"), ("started",), ("at once",)]
    await ref.stop()


async def test_open_calls_may_still_be_answered_in_terminate(clock: ManualClock) -> None:
    class Conscientious(Actor):
        async def init(self) -> None:
            self.open: list[ReplyTo] = []

        async def handle_call(self, payload: Any, reply: ReplyTo) -> Any:
            self.open.append(reply)
            return DEFERRED

        async def terminate(self, reason: object) -> None:
            for reply in self.open:
                reply.send("sorry")

    ref = await start(Conscientious(), name="conscientious", clock=clock)
    answer = ref.call_nowait("work")
    await settle()
    await ref.stop()
    assert await answer == "sorry"


async def test_calls_that_were_never_looked_at_fail_before_terminate_is_done(
    clock: ManualClock,
) -> None:
    class SlowEnd(Probe):
        async def terminate(self, reason: object) -> None:
            await gate.wait()

    gate = asyncio.Event()
    ref = await start(SlowEnd(), name="slow end", clock=clock)
    ref.cast(Exit())
    unseen = ref.call_nowait("work")
    await settle()
    assert isinstance(unseen.exception(), ActorDied)
    assert ref.status().state == "stopping"
    gate.set()
    await settle()
    assert ref.status().state == "dead"


async def test_a_crash_is_logged_with_the_actors_name(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    ref = await start(Probe(), name="fragile", clock=clock)
    ref.cast(Crash(ValueError("oops")))
    await ref.wait_dead()
    assert "actor 'fragile' crashed: ValueError('oops')" in caplog.text
    assert caplog.records[0].name == "erllama.actor"
    assert caplog.records[0].levelno == logging.ERROR


async def test_an_idle_actor_that_nobody_holds_lives_on(clock: ManualClock) -> None:
    async def forget() -> weakref.ref[Probe]:
        probe = Probe()
        await start(probe, name="forgotten", clock=clock)
        return weakref.ref(probe)

    forgotten = await forget()
    await settle()
    gc.collect()
    probe = forgotten()
    assert probe is not None
    assert await probe.ref.call("still there") == "still there"
    await probe.ref.stop()


async def test_a_ref_does_not_keep_a_dead_actor(clock: ManualClock) -> None:
    probe = Probe()
    gone = weakref.ref(probe)
    ref = await start(probe, name="gone", clock=clock)
    await ref.stop()
    del probe
    await settle()
    gc.collect()
    assert gone() is None
    assert not ref.alive
