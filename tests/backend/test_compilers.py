"""Each kind of structure is compiled on a thread of its own, and only for who still wants it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from erllama import InvalidGrammar
from erllama.backend.compilers import Compilers, Ended
from erllama.backend.trial import Trial
from erllama.sampling.effort import Pause
from erllama.sampling.plan import Grammar
from tests.model.staging import PATIENCE_S

GRAMMAR, SCHEMA, REGEX = Grammar("root ::= ."), Grammar("{}", "json_schema"), Grammar("a", "regex")
RISKY = Grammar("crash &&", "regex")


def no(pause: Pause) -> None:
    pause()


def never() -> bool:
    return False


@pytest.fixture
async def compilers() -> AsyncIterator[Compilers]:
    made = Compilers()
    async with asyncio.timeout(PATIENCE_S):
        yield made
    made.close()


@pytest.mark.parametrize("busy", [GRAMMAR, SCHEMA, REGEX])
async def test_one_kind_does_not_wait_for_another(busy: Grammar, compilers: Compilers) -> None:
    over = threading.Event()
    working = asyncio.create_task(compilers.run(busy, lambda _: over.wait(PATIENCE_S), never))
    for other in (GRAMMAR, SCHEMA, REGEX):
        if other != busy:
            await compilers.run(other, no, never)
    over.set()
    assert await working


async def test_a_trial_is_waited_for_by_trials_only(
    compilers: Compilers, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()

    def check(stage: Grammar, pause: Pause) -> None:
        assert over.wait(PATIENCE_S)
        raise InvalidGrammar("no", field=stage.kind)

    monkeypatch.setattr(compilers._trial, "check", check)
    tried = asyncio.create_task(compilers.run(RISKY, no, never))
    for one in (GRAMMAR, SCHEMA, REGEX):
        await compilers.run(one, no, never)
    over.set()
    with pytest.raises(InvalidGrammar):
        await tried


async def test_what_waits_for_a_request_that_is_over_is_never_begun(compilers: Compilers) -> None:
    gone, begun = threading.Event(), []
    free = threading.Event()
    first = asyncio.create_task(compilers.run(GRAMMAR, lambda _: free.wait(PATIENCE_S), never))
    rest = [
        asyncio.create_task(compilers.run(GRAMMAR, lambda _: begun.append(1), gone.is_set))
        for _ in range(8)
    ]
    await asyncio.sleep(0)
    gone.set()
    free.set()
    assert await first
    results = await asyncio.gather(*rest, return_exceptions=True)
    assert all(isinstance(one, Ended) for one in results)
    assert not begun


async def test_work_for_a_request_that_is_over_ends(compilers: Compilers) -> None:
    gone, begun = threading.Event(), threading.Event()

    def endless(pause: Pause) -> None:
        while True:
            begun.set()
            pause()

    working = asyncio.create_task(compilers.run(GRAMMAR, endless, gone.is_set))
    assert await asyncio.to_thread(begun.wait, PATIENCE_S)
    gone.set()
    with pytest.raises(Ended):
        await working
    await compilers.run(GRAMMAR, no, never)  # its thread is free


async def test_closing_ends_what_is_at_work(compilers: Compilers) -> None:
    begun = threading.Event()

    def endless(pause: Pause) -> None:
        while True:
            begun.set()
            pause()

    working = asyncio.create_task(compilers.run(GRAMMAR, endless, never))
    assert await asyncio.to_thread(begun.wait, PATIENCE_S)
    compilers.close()
    with pytest.raises(Ended):
        await working


async def test_what_ends_a_process_is_refused_by_its_trial(compilers: Compilers) -> None:
    compilers._trial = Trial("tests.backend.stubborn_trial")
    compiled: list[int] = []
    with pytest.raises(InvalidGrammar, match="regex"):
        await compilers.run(RISKY, lambda _: compiled.append(1), never)
    assert not compiled
