"""Structures that take their time hold up nobody else, and end with their request."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from erllama import CallTimeout, Completion, InvalidGrammar, Model, Runtime
from erllama.backend.llama.words import Words
from erllama.sampling import SamplerPlan
from erllama.sampling.effort import Pause
from tests.model.staging import PATIENCE_S

MANY_READINGS = "root ::= (" + ".? " * 10 + '){0,140} "z"'
SLOW = 'root ::= "slow"'


class SlowGrammars:
    """Compiling `SLOW` goes on until its request is over."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = threading.Event()
        self.ended = threading.Semaphore(0)
        prepare = Words.prepare

        def slow(words: Words, plan: SamplerPlan, pause: Pause | None = None) -> None:
            if plan.grammar is None or plan.grammar.text != SLOW:
                prepare(words, plan, pause)
                return
            assert pause is not None
            try:
                while True:
                    self.begun.set()
                    pause()
            finally:
                self.ended.release()

        monkeypatch.setattr(Words, "prepare", slow)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> SlowGrammars:
    return SlowGrammars(monkeypatch)


@pytest.fixture
async def runtime() -> AsyncIterator[Runtime]:
    async with asyncio.timeout(PATIENCE_S), Runtime() as runtime:
        yield runtime


@pytest.fixture
async def model(runtime: Runtime, tiny_gguf: Path) -> Model:
    return await runtime.load_model(tiny_gguf, n_ctx=256, n_threads=1, n_seq_max=8)


async def test_others_do_not_wait_for_grammars(
    runtime: Runtime, model: Model, tiny_gguf: Path, slow: SlowGrammars
) -> None:
    waiting = [asyncio.create_task(model.complete("x", grammar=SLOW)) for _ in range(8)]
    assert await asyncio.to_thread(slow.begun.wait, PATIENCE_S)
    another = await runtime.load_model(tiny_gguf, model_id="b", n_ctx=64, n_threads=1)
    assert len(await model.tokenize("ab " * 2_000)) > 1_000  # too long for the event loop
    assert (await another.complete("x", max_tokens=2, regex="[a-z]+")).tokens
    assert (await model.complete("x", max_tokens=2, json_schema={"type": "null"})).tokens
    assert (await model.complete("x", max_tokens=2, logit_bias={97: 1.0})).tokens
    for one in waiting:
        one.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_compiling_ends_with_its_request(model: Model, slow: SlowGrammars) -> None:
    for _ in range(2):  # the second one finds the thread free
        with pytest.raises(CallTimeout):
            await model.complete("x", grammar=SLOW, timeout=0.05)
    assert await asyncio.to_thread(slow.ended.acquire, True, PATIENCE_S)
    task = asyncio.create_task(model.complete("x", grammar=SLOW))
    slow.begun.clear()
    assert await asyncio.to_thread(slow.begun.wait, PATIENCE_S)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await model.complete("x", max_tokens=2, grammar="root ::= .")).tokens


async def test_unloading_ends_what_is_compiled(model: Model, slow: SlowGrammars) -> None:
    waiting = asyncio.create_task(model.complete("x", grammar=SLOW))
    assert await asyncio.to_thread(slow.begun.wait, PATIENCE_S)
    await model.unload()
    assert await asyncio.to_thread(slow.ended.acquire, True, PATIENCE_S)
    with pytest.raises(Exception, match="unloaded"):
        await waiting


async def hostile_round(model: Model, seed: int) -> list[Any]:
    """Eight requests with grammars of many readings, and a few of others, at once."""
    work: list[Any] = [
        model.complete("x", grammar=MANY_READINGS + " " * (seed % 50 + n), timeout=60)
        for n in range(8)
    ]
    work.append(model.complete("x", max_tokens=4, seed=seed, regex="[a-z]{2,9}"))
    work.append(model.complete("x", max_tokens=4, seed=seed, grammar='root ::= ([a-z]? ){60} "!"'))
    work.append(
        model.complete("x", max_tokens=4, seed=seed, json_schema={"const": -(2**63) + seed})
    )
    work.append(model.complete("x", max_tokens=4, seed=seed))
    return await asyncio.gather(*work, return_exceptions=True)


def check_round(results: list[Any]) -> None:
    for failed in results[:8]:
        assert isinstance(failed, InvalidGrammar)
        assert "grammar" in str(failed)
        assert "too many ways" in str(failed)
    assert isinstance(results[10], InvalidGrammar | Completion)  # and the process lives
    for done in (results[8], results[9], results[11]):
        assert done.tokens


async def test_grammars_of_many_readings_are_refused_beside_others(model: Model) -> None:
    check_round(await hostile_round(model, 1))


@pytest.mark.long
@pytest.mark.timeout(1_500)
async def test_grammars_of_many_readings_at_length(tiny_gguf: Path) -> None:
    async with Runtime() as runtime:
        model = await runtime.load_model(tiny_gguf, n_ctx=256, n_threads=1, n_seq_max=8)
        until = asyncio.get_running_loop().time() + 660
        for seed in itertools.count():
            check_round(await hostile_round(model, seed % 50))
            if asyncio.get_running_loop().time() > until:
                break
        print(f"{seed + 1} rounds")
