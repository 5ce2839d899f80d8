"""A runtime's life: start, stop, and what is true before, between and after."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import erllama
from erllama import (
    Busy,
    ErllamaError,
    Model,
    ModelLoadError,
    ModelNotFound,
    NotSupported,
    Runtime,
    RuntimeStopped,
    Stream,
)
from erllama.actor import kill
from erllama.actor.testing import settle
from erllama.backend.base import Progress
from erllama.backend.stub import StubBackend, StubLoading
from tests.model.staging import (
    PATIENCE_S,
    Stage,
    Theatre,
    always,
    assert_as_new,
    crash,
    decoding,
    running,
    until,
)


def lane_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "erllama-lane"]


async def test_a_runtime_that_was_not_started_says_so() -> None:
    runtime = Runtime(backend=StubBackend)
    with pytest.raises(RuntimeStopped, match="async with"):
        await runtime.load_model("a.gguf")
    with pytest.raises(RuntimeStopped, match="async with"):
        runtime.status()
    with pytest.raises(ModelNotFound):
        runtime.model("a")
    assert runtime.list_models() == []
    await runtime.stop()


async def test_after_stop_everything_says_so_at_once() -> None:
    async with running(StubBackend()) as runtime:
        model = await runtime.load_model("a.gguf")
        stream = model.stream("later")
    with pytest.raises(RuntimeStopped, match="async with"):
        await model.complete("hello")
    with pytest.raises(RuntimeStopped, match="async with"):
        await anext(stream)
    with pytest.raises(RuntimeStopped, match="async with"):
        await model.tokenize("hello")
    with pytest.raises(RuntimeStopped, match="async with"):
        await runtime.load_model("a.gguf")
    with pytest.raises(ModelNotFound):
        model.status()
    assert runtime.list_models() == []
    assert lane_threads() == []


async def test_a_runtime_can_be_started_again_and_is_empty_then() -> None:
    runtime = Runtime(backend=StubBackend)
    for _ in range(3):
        await runtime.start()
        await runtime.start()  # it stands already
        assert runtime.list_models() == []
        await assert_as_new(await runtime.load_model("a.gguf"))
        await runtime.stop()
        await runtime.stop()


async def test_two_starts_at_once_build_one_tree() -> None:
    runtime = Runtime(backend=StubBackend)
    await asyncio.gather(runtime.start(), runtime.start())
    await runtime.stop()
    assert lane_threads() == []


async def test_the_second_of_two_stops_at_once_waits_for_the_first() -> None:
    stage = Stage()
    runtime = Runtime(backend=lambda: stage.backend)
    await runtime.start()
    await runtime.load_model("a.gguf")
    first = asyncio.create_task(runtime.stop())
    await asyncio.sleep(0)
    await runtime.stop()
    assert lane_threads() == []
    await first
    assert stage.backend.engines[0].closed


async def test_a_start_during_a_stop_gives_a_runtime_that_works() -> None:
    runtime = Runtime(backend=StubBackend)
    await runtime.start()
    stopping = asyncio.create_task(runtime.stop())
    await asyncio.sleep(0)
    await runtime.start()
    await stopping
    model = await runtime.load_model("a.gguf")
    text = "long enough for a worker " * 100
    assert len(await model.tokenize(text)) == len(text) + 1
    await runtime.stop()


async def test_a_runtime_whose_tree_went_down_says_so_and_can_be_started_again() -> None:
    runtime = Runtime(backend=StubBackend)
    await runtime.start()
    model = await runtime.load_model("a.gguf")
    root = runtime._root
    assert root is not None
    kill(root)
    await root.wait_dead()
    with pytest.raises(RuntimeStopped, match="start it again"):
        await model.complete("hello")
    await runtime.start()
    with pytest.raises(ModelNotFound):
        await model.complete("hello")
    await assert_as_new(await runtime.load_model("a.gguf"))
    await runtime.stop()
    assert lane_threads() == []


async def test_load_gives_one_model_and_cleans_up(monkeypatch: pytest.MonkeyPatch) -> None:
    stub = StubBackend()
    monkeypatch.setattr(erllama.Runtime.__init__, "__kwdefaults__", {"backend": lambda: stub})
    async with erllama.load("a.gguf", n_ctx=128) as model:
        assert model.info().n_ctx == 128
        await model.complete("hello", max_tokens=1)
    assert stub.engines[0].closed
    with pytest.raises(ModelNotFound):
        model.status()


# Models in it


async def test_models_are_listed_in_the_order_of_loading() -> None:
    async with running(StubBackend()) as runtime:
        for name in ("b", "a", "c"):
            await runtime.load_model(f"{name}.gguf")
        await runtime.load_model("a.gguf", model_id="again")
        assert [info.id for info in runtime.list_models()] == ["b", "a", "c", "again"]
        await runtime.unload_model("a")
        assert [info.id for info in runtime.list_models()] == ["b", "c", "again"]
        assert [status.id for status in runtime.status().models] == ["b", "c", "again"]


async def test_the_status_shows_the_tree_and_the_lane() -> None:
    async with running(StubBackend()) as runtime:
        await runtime.load_model("a.gguf")
        status = runtime.status()
        assert status.tree.id == "runtime"
        assert [node.id for node in status.tree.children] == ["lane", "cache", "models"]
        assert [node.id for node in status.tree.children[2].children] == ["a"]
        assert all(node.state == "running" for node in status.tree.children)
        assert status.lane.alive
        assert status.lane.queued == 0


USES: dict[str, Callable[[Model], Any]] = {
    "complete": lambda model: model.complete("hello"),
    "tokenize": lambda model: model.tokenize("hello"),
    "detokenize": lambda model: model.detokenize([1]),
    "result": lambda model: model.stream("hello").result(),
    "unload": lambda model: model.unload(),
}


@pytest.mark.parametrize("use", USES)
async def test_an_unloaded_model_is_not_found(use: str) -> None:
    async with running(StubBackend()) as runtime:
        await runtime.load_model("b.gguf")
        model = await runtime.load_model("a.gguf")
        await model.unload()
        with pytest.raises(ModelNotFound, match=r"no model 'a' is loaded here \(loaded: b\)"):
            await USES[use](model)
        for show in (model.status, model.info, lambda: runtime.model("a")):
            with pytest.raises(ModelNotFound):
                show()


async def test_unloading_ends_what_runs_and_what_waits_and_frees_the_engine() -> None:
    stage = Stage()
    async with stage.runtime() as runtime:
        model = await runtime.load_model("a.gguf")
        stage.hang(decoding)
        tasks = [asyncio.create_task(model.complete("hello")) for _ in range(3)]
        await stage.held.wait()
        late = asyncio.create_task(model.complete("in the mailbox"))
        await asyncio.sleep(0)
        await model.unload()
        for task in (*tasks, late):
            with pytest.raises(ModelNotFound):
                await task
        assert stage.backend.engines[0].closed
        stage.resume()
        await assert_as_new(await runtime.load_model("a.gguf"))


async def test_a_stream_that_is_read_while_its_model_is_unloaded_ends_with_the_error() -> None:
    stage = Stage()
    async with stage.model() as model:
        stage.hang(decoding)
        stream = model.stream("hello")
        reading = asyncio.create_task(drain(stream))
        await stage.held.wait()
        await model.unload()
        with pytest.raises(ModelNotFound):
            await reading


async def drain(stream: Stream) -> None:
    async for _ in stream:
        pass


async def test_a_long_text_that_is_tokenized_while_its_model_is_unloaded_is_answered() -> None:
    stage = Stage()
    async with stage.model() as model:
        tasks = [asyncio.create_task(model.tokenize("x" * 5_000)) for _ in range(20)]
        await asyncio.sleep(0)
        await model.unload()
        for answer in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(answer, list | ErllamaError)


async def test_unloading_twice_at_once_finds_it_once() -> None:
    async with running(StubBackend()) as runtime:
        model = await runtime.load_model("a.gguf")
        answers = await asyncio.gather(model.unload(), model.unload(), return_exceptions=True)
        assert [type(answer) for answer in answers] == [type(None), ModelNotFound]


async def test_a_model_can_be_loaded_again_while_it_is_being_unloaded() -> None:
    stage = Stage()
    async with stage.runtime() as runtime:
        model = await runtime.load_model("a.gguf")
        stage.pause(always)
        task = asyncio.create_task(model.complete("hello"))
        await stage.held.wait()
        unloading = asyncio.create_task(model.unload())
        await settle()
        loading = asyncio.create_task(runtime.load_model("a.gguf"))
        await settle()
        stage.resume()
        await unloading
        await assert_as_new(await loading)
        with pytest.raises(ModelNotFound):
            await task


async def test_those_who_wait_for_a_restart_hear_of_an_unload() -> None:
    await _hear_of(lambda model: model.unload(), ModelNotFound)


async def test_those_who_wait_for_a_restart_hear_of_a_stop() -> None:
    await _hear_of(lambda model: model._directory.stop(), RuntimeStopped)  # type: ignore[attr-defined]


async def _hear_of(end: Callable[[Model], Awaitable[None]], error: type[Exception]) -> None:
    """While a killed model waits for the lane to free its engine, it is in no registry."""
    stage = Stage()
    async with stage.runtime() as runtime:
        other = await runtime.load_model("other.gguf")
        model = await runtime.load_model("a.gguf")
        stage.pause(always)
        busy = asyncio.create_task(other.complete("hello", max_tokens=1))
        await stage.held.wait()
        kill(await runtime.find("a", None))
        await settle()
        waiting = [asyncio.create_task(model.complete("hello")) for _ in range(3)]
        await settle()
        ending = asyncio.ensure_future(end(model))
        for task in waiting:
            with pytest.raises(error):
                await task
        stage.resume()
        await ending
        await asyncio.gather(busy, return_exceptions=True)


async def test_a_timeout_counts_while_a_model_restarts() -> None:
    stage = Stage()
    async with stage.runtime() as runtime:
        other = await runtime.load_model("other.gguf")
        model = await runtime.load_model("a.gguf")
        stage.pause(always)
        busy = asyncio.create_task(other.complete("hello", max_tokens=1))
        await stage.held.wait()
        kill(await runtime.find("a", None))
        await settle()
        with pytest.raises(erllama.CallTimeout, match="crash"):
            await model.complete("hello", timeout=0.01)
        stage.resume()
        await busy
        await assert_as_new(model)


# Loading


async def test_a_handle_can_be_had_while_the_model_loads() -> None:
    stage = Stage()
    async with stage.runtime() as runtime:
        stage.pause_loading()
        loading = asyncio.create_task(runtime.load_model("a.gguf"))
        await stage.load_held.wait()
        model = runtime.model("a")
        assert model.status().phase == "loading"
        assert runtime.list_models() == []
        with pytest.raises(Busy, match="still being loaded"):
            model.info()
        stage.resume()
        await loading
        assert model.status().load_progress == 1.0
        assert [info.id for info in runtime.list_models()] == ["a"]


async def test_a_load_that_is_cancelled_frees_what_it_had(monkeypatch: pytest.MonkeyPatch) -> None:
    discarded = count_discards(monkeypatch)
    stage = Stage()
    async with stage.runtime() as runtime:
        stage.pause_loading()
        loading = asyncio.create_task(runtime.load_model("a.gguf"))
        await stage.load_held.wait()
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        with pytest.raises(ModelNotFound):
            runtime.model("a")
        assert stage.backend.engines == []
        stage.resume()
        await assert_as_new(await runtime.load_model("a.gguf"))
        assert runtime.status().models[0].restarts == 0
        await until(lambda: bool(discarded))  # by the thread that loaded, in its own time
    assert discarded == ["a.gguf"]


async def test_a_load_that_is_cancelled_is_told_to_give_up(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: asyncio.Queue[bool] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    original = StubLoading.load

    def load(self: StubLoading, progress: Progress) -> None:
        original(self, lambda _: True)
        loop.call_soon_threadsafe(heard.put_nowait, progress(0.5))

    monkeypatch.setattr(StubLoading, "load", load)
    stage = Stage()
    async with stage.runtime() as runtime:
        stage.pause_loading()
        loading = asyncio.create_task(runtime.load_model("a.gguf"))
        await stage.load_held.wait()
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        stage.resume()
        assert await heard.get() is False
        await runtime.load_model("a.gguf")
        assert await heard.get() is True


@pytest.mark.parametrize("turns", [0, 1, 2, 5, 10, 20, 40, 80])
async def test_a_load_may_be_cancelled_at_any_moment(
    turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage()
    async with stage.runtime() as runtime:
        loading = asyncio.create_task(runtime.load_model("a.gguf"))
        for _ in range(turns):
            await asyncio.sleep(0)
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        if loading.cancelled():
            await assert_as_new(await runtime.load_model("a.gguf"))
        assert [info.id for info in runtime.list_models()] == ["a"]
    assert all(engine.closed for engine in stage.backend.engines)


def count_discards(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    discarded: list[str] = []
    original = StubLoading.discard

    def discard(self: StubLoading) -> None:
        discarded.append(self._path)
        original(self)

    monkeypatch.setattr(StubLoading, "discard", discard)
    return discarded


async def test_a_load_that_fails_says_why_and_leaves_the_id_free() -> None:
    stage = Stage()
    async with stage.runtime() as runtime:
        for _ in range(10):
            stage.load_error = ModelLoadError("no such thing")
            with pytest.raises(ModelLoadError, match="no such thing"):
                await runtime.load_model("a.gguf")
            assert runtime.list_models() == []
        stage.load_error = None
        await assert_as_new(await runtime.load_model("a.gguf"))
        assert runtime.status().tree.children[2].restarts == 0
        assert len(stage.loads) == 11


async def test_requests_that_waited_for_a_load_that_fails_are_answered() -> None:
    stage = Stage()
    async with stage.runtime() as runtime:
        stage.pause_loading()
        stage.load_error = ModelLoadError("no such thing")
        loading = asyncio.create_task(runtime.load_model("a.gguf"))
        await stage.load_held.wait()
        model = runtime.model("a")
        waiting = [
            asyncio.create_task(model.complete("a")),
            asyncio.create_task(model.tokenize("a")),
        ]
        await settle()
        stage.resume()
        with pytest.raises(ModelLoadError):
            await loading
        for task in waiting:
            with pytest.raises(ModelNotFound):
                await task


async def test_unloading_a_model_that_loads_ends_its_loading() -> None:
    stage = Stage()
    async with stage.runtime() as runtime:
        stage.pause_loading()
        loading = asyncio.create_task(runtime.load_model("a.gguf"))
        await stage.load_held.wait()
        await runtime.unload_model("a")
        with pytest.raises(ModelLoadError, match="unloaded while it was loading"):
            await loading
        # what took its id meanwhile is not touched by the end of the first
        stage.resume()
        await assert_as_new(await runtime.load_model("a.gguf"))


async def test_the_end_of_one_load_does_not_end_the_next_one_of_that_id() -> None:
    stage = Stage()
    async with stage.runtime() as runtime:
        stage.pause_loading()
        first = asyncio.create_task(runtime.load_model("a.gguf"))
        await stage.load_held.wait()
        unloading = asyncio.create_task(runtime.unload_model("a"))
        await asyncio.sleep(0)
        second = asyncio.create_task(runtime.load_model("a.gguf"))
        await unloading
        with pytest.raises(ModelLoadError):
            await first
        stage.resume()
        await assert_as_new(await second)


async def test_stopping_while_a_model_loads_ends_the_loading_at_once() -> None:
    stage = Stage()
    async with asyncio.timeout(PATIENCE_S):
        runtime = Runtime(backend=lambda: stage.backend)
        await runtime.start()
        stage.pause_loading()
        loading = asyncio.create_task(runtime.load_model("a.gguf"))
        await stage.load_held.wait()
        await runtime.stop()
        with pytest.raises(RuntimeStopped):
            await loading
        stage.resume()
    assert stage.backend.engines == []


async def test_stopping_under_load_answers_everything_and_frees_everything() -> None:
    free, held = Stage("free"), Stage("held")
    async with running(Theatre(free, held)) as runtime:
        models = [await runtime.load_model(f"{name}.gguf") for name in ("free", "held")]
        held.hang(decoding)
        tasks: list[asyncio.Task[object]] = []
        for model in models * 4:
            tasks.append(asyncio.create_task(model.complete("hello")))
            tasks.append(asyncio.create_task(drain(model.stream("hello"))))
        await held.held.wait()
        await runtime.stop()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(answer) for answer in answers} == {ModelNotFound}
        engines = [*free.backend.engines, *held.backend.engines]
        assert [engine.closed for engine in engines] == [True, True]
    assert lane_threads() == []


async def test_a_model_without_generation_can_still_tokenize() -> None:
    async with running(StubBackend()) as runtime:
        model = await runtime.load_model("a.gguf", vocab_only=True)
        assert not model.info().can_generate
        with pytest.raises(NotSupported, match="vocab_only"):
            await model.complete("hello")
        with pytest.raises(NotSupported):
            await anext(model.stream("hello"))
        assert await model.tokenize("a", add_special=False) == [97]


async def test_a_crash_shows_in_the_status_and_is_over_soon() -> None:
    stage = Stage()
    async with stage.runtime() as runtime:
        model = await runtime.load_model("a.gguf")
        await crash(runtime, "a")
        await assert_as_new(model)
        status = runtime.status()
        assert status.models[0].restarts == 1
        assert status.tree.children[2].children[0].restarts == 1
        assert [engine.closed for engine in stage.backend.engines] == [True, False]
