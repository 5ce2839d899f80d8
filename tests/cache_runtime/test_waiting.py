"""Requests that end while rows are saved, read or restored for them, and those that wait."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
import threading
from collections.abc import Callable
from typing import Any

import pytest

from erllama import CallTimeout, Model, ModelNotFound, Runtime
from erllama.actor import kill
from erllama.actor.testing import settle
from erllama.backend.stub import StubEngine
from erllama.cache.reader import Reader
from erllama.model.caching import ModelCache
from tests.cache_runtime.rig import (
    PATIENCE_S,
    answer,
    cold,
    kept,
    pins,
    prompt,
    stub_runtime,
    unpinned,
)

PROMPT = prompt(1)
OTHER = prompt(2)


class Held:
    """A method whose calls wait on their thread until they are let go.

    Args:
        most: how many of them do; those that come later go through.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, kind: type, name: str, *, most: int = 1_000_000
    ) -> None:
        self.reached = asyncio.Event()
        self.calls = 0
        self._go_on = threading.Event()
        loop, original = asyncio.get_running_loop(), getattr(kind, name)

        def slow(this: Any, *args: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls <= most:
                loop.call_soon_threadsafe(self.reached.set)
                assert self._go_on.wait(PATIENCE_S)
            return original(this, *args, **options)

        monkeypatch.setattr(kind, name, slow)

    def go_on(self) -> None:
        self._go_on.set()


async def warm(runtime: Runtime, **options: Any) -> Model:
    """A model whose cache has the rows of `PROMPT`."""
    model = await runtime.load_model("stub.gguf", **options)
    await answer(model, PROMPT)
    await kept(runtime, model)
    return model


PLACES: dict[str, tuple[type, str]] = {
    "while the rows are read": (Reader, "fill"),
    "while the lane restores": (StubEngine, "restore"),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("end", ["cancel", "timeout"])
async def test_a_request_ends_at_once_while_it_waits_for_its_state(
    monkeypatch: pytest.MonkeyPatch, place: str, end: str
) -> None:
    expected, other = await cold(PROMPT), await cold(OTHER)
    async with stub_runtime() as runtime:
        model = await warm(runtime)
        held = Held(monkeypatch, *PLACES[place])
        options = {"timeout": 0.05} if end == "timeout" else {}
        asking = asyncio.create_task(answer(model, PROMPT, **options))
        await held.reached.wait()
        if end == "cancel":
            asking.cancel()
        with pytest.raises(asyncio.CancelledError if end == "cancel" else CallTimeout):
            await asking
        behind = asyncio.create_task(answer(model, OTHER))
        await settle()
        held.go_on()
        assert (await behind).tokens == other
        assert (await answer(model, PROMPT)).tokens == expected
        await unpinned(runtime)


@pytest.mark.parametrize("end", ["cancel", "timeout"])
async def test_rows_stay_pinned_while_a_thread_reads_them_for_nobody(
    monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """Its request is over, and others come and go: what it reads must not be evicted still."""
    expected = await cold(PROMPT)
    async with stub_runtime() as runtime:
        model = await warm(runtime)
        held = Held(monkeypatch, Reader, "fill", most=1)
        options = {"timeout": 0.05} if end == "timeout" else {}
        asking = asyncio.create_task(answer(model, PROMPT, **options))
        await held.reached.wait()
        if end == "cancel":
            asking.cancel()
        with pytest.raises(asyncio.CancelledError if end == "cancel" else CallTimeout):
            await asking
        read = pins(runtime)
        assert read == 2
        again = await answer(model, PROMPT)
        assert (again.cache.hit, again.tokens) == ("exact", expected)
        await kept(runtime, model)
        assert pins(runtime) == read, "a second reader gives back its own pins only"
        await runtime.cache.evict_bytes(1 << 40)
        assert runtime.cache.counters().rows >= read
        held.go_on()
        await unpinned(runtime)
        await runtime.cache.evict_bytes(1 << 40)
        assert runtime.cache.counters().rows == 0


@pytest.mark.parametrize("name", ["cache:arbiter", "cache:ram"])
async def test_pins_are_given_back_to_the_index_that_they_were_taken_from(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The actor of the cache that held the rows is another one by the time they are read."""
    expected = await cold(PROMPT)
    async with stub_runtime(restart_intensity=1_000) as runtime:
        model = await warm(runtime)
        before = runtime.view.index
        read = list(before)
        held = Held(monkeypatch, Reader, "fill", most=1)
        asking = asyncio.create_task(answer(model, PROMPT))
        await held.reached.wait()
        ref = await runtime._registry.wait_for(name)
        kill(ref)
        await ref.wait_dead()
        await (await runtime._registry.wait_for("cache:writers")).wait_started()
        held.go_on()
        assert (await asking).tokens == expected
        await kept(runtime, model)
        assert not any(before.pinned(row) for row in read)
        assert pins(runtime) == 0
        assert (await answer(model, PROMPT)).tokens == expected


@pytest.mark.parametrize("place", PLACES)
async def test_a_model_is_unloaded_while_a_request_waits_for_its_state(
    monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    async with stub_runtime() as runtime:
        model = await warm(runtime)
        held = Held(monkeypatch, *PLACES[place])
        asking = asyncio.create_task(answer(model, PROMPT))
        await held.reached.wait()
        unloading = asyncio.create_task(model.unload())
        await settle()
        held.go_on()
        await unloading
        with pytest.raises(ModelNotFound):
            await asking
        assert pins(runtime) == 0


# Rows that are just being saved


async def first_turn(runtime: Runtime, model: Model, hold: Callable[[], Held]) -> tuple[Any, Held]:
    """A finished request whose last rows are held on the lane."""
    await kept(runtime, model)
    held = hold()
    done = await answer(model, PROMPT, max_tokens=20)
    return done, held


async def test_a_request_waits_for_the_rows_that_it_goes_on_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unbroken = await cold(PROMPT, max_tokens=30)
    async with stub_runtime() as runtime:
        model = await runtime.load_model(
            "stub.gguf", session_resume_wait_ms=60_000, cold_min_tokens=10_000
        )
        done, held = await first_turn(runtime, model, lambda: Held(monkeypatch, StubEngine, "save"))
        resuming = asyncio.create_task(
            answer(model, done.context_tokens, parent_key=done.finish_key, max_tokens=10)
        )
        await held.reached.wait()
        await settle()
        assert not resuming.done()
        held.go_on()
        again = await resuming
        assert again.cache.read == len(done.context_tokens) - 1
        assert done.tokens + again.tokens == unbroken


async def test_it_does_not_wait_longer_than_its_policy_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The offer to the arbiter never ends: the rows stay on their way."""
    unbroken = await cold(PROMPT, max_tokens=30)
    started = asyncio.Event()

    async def never(*_: object) -> None:
        started.set()
        await asyncio.get_running_loop().create_future()

    async with stub_runtime(shutdown_s=0.2) as runtime:
        model = await runtime.load_model(
            "stub.gguf", session_resume_wait_ms=20, cold_min_tokens=10_000
        )
        with monkeypatch.context() as patched:
            patched.setattr(ModelCache, "offer", never)
            done = await answer(model, PROMPT, max_tokens=20)
            await started.wait()
            again = await answer(
                model, done.context_tokens, parent_key=done.finish_key, max_tokens=10
            )
        assert again.cache.hit == "cold"
        assert again.timings.queue_ms >= 20
        assert done.tokens + again.tokens == unbroken


@pytest.mark.parametrize("end", ["cancel", "timeout", "unload"])
async def test_a_request_ends_while_it_waits_for_rows_being_saved(
    monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    async with stub_runtime() as runtime:
        model = await runtime.load_model(
            "stub.gguf", session_resume_wait_ms=60_000, cold_min_tokens=10_000
        )
        done, held = await first_turn(runtime, model, lambda: Held(monkeypatch, StubEngine, "save"))
        await held.reached.wait()
        options = {"timeout": 0.05} if end == "timeout" else {}
        waiting = asyncio.create_task(answer(model, done.context_tokens, **options))
        await settle()
        unloading = None
        if end == "cancel":
            waiting.cancel()
        elif end == "unload":
            unloading = asyncio.create_task(model.unload())
            await settle()
            held.go_on()
        expected = {
            "cancel": asyncio.CancelledError, "timeout": CallTimeout, "unload": ModelNotFound,
        }  # fmt: skip
        with pytest.raises(expected[end]):
            await waiting
        held.go_on()
        if unloading is not None:
            await unloading
            return
        assert (await answer(model, OTHER)).tokens == await cold(OTHER)


# The end of a model


async def test_what_was_computed_is_kept_when_the_runtime_stops_right_behind_it(
    tmp_path: pathlib.Path,
) -> None:
    async with stub_runtime(tmp_path) as runtime:
        model = await runtime.load_model("stub.gguf")
        done = await answer(model, PROMPT)
    async with stub_runtime(tmp_path) as runtime:
        model = await runtime.load_model("stub.gguf")
        more = [*done.context_tokens, 97]
        again = await model.complete(more, max_tokens=1, parent_key=done.finish_key)
        assert again.cache.read == len(done.context_tokens) - 1


async def test_an_end_that_cannot_wait_for_the_lane_still_answers_and_frees(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with stub_runtime(shutdown_s=0.1) as runtime:
        model = await runtime.load_model("stub.gguf")
        held = Held(monkeypatch, StubEngine, "save")
        asking = asyncio.create_task(answer(model, PROMPT))
        await held.reached.wait()
        waiting = asyncio.create_task(answer(model, OTHER))
        await settle()
        unloading = asyncio.create_task(model.unload())
        with contextlib.suppress(ModelNotFound):
            await asking
        with pytest.raises(ModelNotFound):
            await waiting
        held.go_on()
        await unloading
        again = await runtime.load_model("stub.gguf")
        assert (await answer(again, OTHER)).tokens == await cold(OTHER)
