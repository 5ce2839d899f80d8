"""Several models, several runtimes, several event loops: they share one lane and take turns."""

from __future__ import annotations

import asyncio
import itertools
import threading
from pathlib import Path
from typing import Any

import pytest

from erllama import Completion, Model, ModelNotFound, Runtime
from erllama.actor.testing import settle
from erllama.backend.base import StepPlan
from tests.model.staging import (
    PATIENCE_S,
    Stage,
    Theatre,
    always,
    assert_as_new,
    decoding,
    fresh_tokens,
    prefilling,
    running,
    until,
)

GREEDY: dict[str, Any] = {"temperature": 0}
REAL: dict[str, Any] = {"n_ctx": 512, "n_threads": 1}

Journal = list[tuple[str, StepPlan]]


async def together(stage: Stage, runtime: Runtime, one: Model, two: Model) -> list[Completion]:
    """Two requests, the second begun while the first step of the first one, on `stage`, runs."""
    stage.pause(always)
    first = asyncio.create_task(ask(one))
    await stage.held.wait()
    second = asyncio.create_task(ask(two))
    await until_queued(runtime)
    stage.resume()
    return [await first, await second]


async def until_queued(runtime: Runtime) -> None:
    """Wait until a step waits for the lane."""
    await until(lambda: runtime.status().lane.queued > 0)


async def test_two_models_of_one_runtime_take_turns() -> None:
    journal: Journal = []
    a, b = Stage("a", shared=journal), Stage("b", shared=journal)
    async with running(Theatre(a, b)) as runtime:
        one, two = [await runtime.load_model(f"{name}.gguf") for name in "ab"]
        await together(a, runtime, one, two)
    check_turns(journal)


async def test_two_runtimes_take_turns() -> None:
    journal: Journal = []
    a, b = Stage("a", shared=journal), Stage("b", shared=journal)
    async with running(a.backend) as first, running(b.backend) as second:
        one, two = await first.load_model("m.gguf"), await second.load_model("m.gguf")
        answers = await together(a, second, one, two)
        assert first.status().lane.generation == second.status().lane.generation
    check_turns(journal)
    assert [a.tokens for a in answers] == [
        await fresh_tokens("hello", max_tokens=200, **GREEDY)
    ] * 2


async def ask(model: Model) -> Completion:
    return await model.complete("hello", max_tokens=200, **GREEDY)


def check_turns(journal: Journal) -> None:
    """Both computed their 200 steps, and neither was done before the other had come far.

    Turns go by the time that was used, so they need not alternate: after a step that took long on
    a busy machine the other one has many.
    """
    names = [name for name, _ in journal]
    assert (names.count("a"), names.count("b")) == (200, 200)
    done_first = names[: max(i for i, name in enumerate(names) if name == names[0]) + 1]
    other = "b" if names[0] == "a" else "a"
    assert done_first.count(other) > 20
    assert sum(1 for x, y in itertools.pairwise(names) if x != y) > 2


async def test_a_long_prompt_of_one_model_does_not_stop_another_one() -> None:
    journal: Journal = []
    long, short = Stage("long", shared=journal), Stage("short", shared=journal)
    async with running(Theatre(long, short)) as runtime:
        slow = await runtime.load_model("long.gguf", n_ctx=8_192, n_batch=512)
        quick = await runtime.load_model("short.gguf")
        short.pause(decoding)
        stream = asyncio.create_task(quick.complete("hello", max_tokens=2_000))
        await short.held.wait()
        prompt = asyncio.create_task(slow.complete([1] * 8_000, max_tokens=1))
        await until_queued(runtime)
        short.resume()
        await prompt
        stream.cancel()
        await asyncio.gather(stream, return_exceptions=True)
        await assert_as_new(quick)
    slices = [i for i, (name, _) in enumerate(journal) if name == "long"]
    assert len(slices) >= 16
    between = sum(1 for name, _ in journal[slices[0] : slices[-1]] if name == "short")
    assert between >= len(slices) // 2, "the stream went on during the whole prefill"


async def test_slices_get_smaller_while_another_model_computes() -> None:
    journal: Journal = []
    long, short = Stage("long", shared=journal), Stage("short", shared=journal)
    async with running(Theatre(long, short)) as runtime:
        slow = await runtime.load_model("long.gguf", n_ctx=4_096, n_batch=4_096)
        quick = await runtime.load_model("short.gguf")
        # 4,000 rows a second: 400 fit the tenth of a second that a slice may take
        runtime.gauges("long").pace.prefill_rate = 4_000.0
        short.pause(decoding)
        stream = asyncio.create_task(quick.complete("hello"))
        await short.held.wait()
        prompt = asyncio.create_task(slow.complete([1] * 4_000, max_tokens=1))
        await until_queued(runtime)
        short.resume()
        await prompt
        stream.cancel()
        await asyncio.gather(stream, return_exceptions=True)
    assert long.slices()[0] == (0, 384)
    assert all(pos % 64 == 0 for pos, _ in long.slices())


async def test_the_end_of_one_runtime_leaves_the_other_its_lane() -> None:
    a, b = Stage("a"), Stage("b")
    async with running(a.backend) as first:
        kept = await first.load_model("m.gguf")
        async with running(b.backend) as second:
            gone = await second.load_model("m.gguf")
            a.pause(decoding)
            streaming = asyncio.create_task(kept.complete("hello", max_tokens=30, **GREEDY))
            await a.held.wait()
            lost = asyncio.create_task(gone.complete("hello"))
            await asyncio.sleep(0)
            stopping = asyncio.create_task(second.stop())
            await asyncio.sleep(0)
            a.resume()
            await stopping
            with pytest.raises(ModelNotFound):
                await lost
        assert (await streaming).tokens == await fresh_tokens("hello", max_tokens=30, **GREEDY)
        await assert_as_new(kept)


async def test_a_model_that_fails_a_request_does_not_disturb_another_one() -> None:
    a, b = Stage("a"), Stage("b")
    async with running(Theatre(a, b)) as runtime:
        one, two = [await runtime.load_model(f"{name}.gguf") for name in "ab"]
        b.pause(prefilling)
        streaming = asyncio.create_task(two.complete("hello", max_tokens=20, **GREEDY))
        await b.held.wait()
        bad = [
            asyncio.create_task(one.complete([1] * 5_000)),
            asyncio.create_task(one.complete([258])),
            asyncio.create_task(one.detokenize([-1])),
        ]
        unloading = asyncio.create_task(one.unload())
        await settle()
        b.resume()
        await unloading
        assert all(
            isinstance(e, Exception) for e in await asyncio.gather(*bad, return_exceptions=True)
        )
        assert (await streaming).tokens == await fresh_tokens("hello", max_tokens=20, **GREEDY)
        await assert_as_new(two)


# On real models


async def test_two_real_models_answer_together_what_they_answer_alone(tiny_gguf: Path) -> None:
    async with asyncio.timeout(PATIENCE_S), Runtime() as runtime:
        models = [await runtime.load_model(tiny_gguf, model_id=name, **REAL) for name in ("a", "b")]
        prompts: list[Any] = [[n % 500 for n in range(130)], "hello"]
        alone = [
            (await model.complete(prompt, max_tokens=20, seed=1)).tokens
            for model, prompt in zip(models, prompts, strict=True)
        ]
        together = await asyncio.gather(
            *(
                model.complete(prompt, max_tokens=20, seed=1)
                for model, prompt in zip(models, prompts, strict=True)
            )
        )
        assert [done.tokens for done in together] == alone


def test_two_event_loops_in_two_threads_share_the_lane(tiny_gguf: Path) -> None:
    answers: dict[str, list[list[int]]] = {}
    generations: set[int] = set()
    lanes: list[int] = []
    meet = threading.Barrier(2, timeout=PATIENCE_S)

    async def main(name: str) -> None:
        async with asyncio.timeout(PATIENCE_S), Runtime() as runtime:
            model = await runtime.load_model(tiny_gguf, **REAL)
            await asyncio.to_thread(meet.wait)
            generations.add(runtime.status().lane.generation)
            answers[name] = [
                (await model.complete(f"hello {n}", max_tokens=10, **GREEDY)).tokens
                for n in range(5)
            ]
            lanes.append(sum(t.name == "erllama-lane" for t in threading.enumerate()))
            await asyncio.to_thread(meet.wait)

    threads = [threading.Thread(target=asyncio.run, args=(main(name),)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert answers["a"] == answers["b"]
    assert len(generations) == 1
    assert lanes == [1, 1]
