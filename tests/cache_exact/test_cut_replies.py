"""A reply that was cut goes on with what its sampler knows, wherever its state has been."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from erllama import Completion, Done, Runtime, bundled_model
from tests.cache_exact.room import CASES, GREEDY, PLAIN, SAMPLED, Answer, Case, Seat, room

COUNTED = 'root ::= ([a-z]{4} " " [0-9]{3} "\\n")+'
CHAINS: dict[str, dict[str, Any]] = {
    "mirostat 1": {"temperature": 1.2, "seed": 5, "mirostat": 1, "mirostat_eta": 0.5},
    "mirostat 2": {"temperature": 1.2, "seed": 6, "mirostat": 2, "mirostat_eta": 0.5},
    "grammar": {"temperature": 1.2, "seed": 7, "grammar": COUNTED, "ignore_eos": True},
    "regex": {"temperature": 1.2, "seed": 8, "regex": "([a-z]{4}-[0-9]{3},)+", "ignore_eos": True},
}


async def on(seat: Seat, first: Answer, n: int, **options: Any) -> Answer:
    return await seat.ask(first.context, n, parent_key=first.key, **options)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_after_a_reply_of_one_token_the_next_comes_bit_for_bit(case: Case) -> None:
    async with room() as here:
        seat = await here.load(case)
        for length in (64, 100, 257):
            prompt = seat.prompt(length)
            unbroken = await seat.cold(prompt, 12, **SAMPLED)
            options = {**SAMPLED, "cache_salt": str(length)}
            first = await seat.ask(prompt, 1, **options)
            second = await on(seat, first, 1, **options)
            third = await on(seat, second, 10, **options)
            assert second.completion.cache.read == length
            logits = [*first.record.logits, *second.record.logits, *third.record.logits]
            assert logits == unbroken.record.logits


async def test_text_behind_a_reply_of_one_token_is_computed_as_a_prompt() -> None:
    async with room() as here:
        seat = await here.load(PLAIN[0])
        first = await seat.ask(seat.prompt(100), 1)
        longer = [*first.context, *seat.prompt(30)]
        warm = await seat.ask(longer, 5, parent_key=first.key)
        assert warm.completion.cache.pure
        assert warm.record.logits == (await seat.cold(longer, 5)).record.logits


@pytest.mark.parametrize("chain", CHAINS)
async def test_a_chain_goes_on_by_its_key_and_in_its_session(chain: str) -> None:
    options = CHAINS[chain]
    async with room() as here:
        seat = await here.load(PLAIN[0], n_seq_max=1)
        prompt = seat.prompt(70)
        unbroken = await seat.cold(prompt, 40, **options)
        for way in ("key", "live session", "saved session"):
            own: dict[str, Any] = {"cache_salt": way, **options}
            if way != "key":
                own["session_id"] = way
            said, context, key = [], prompt, None
            for n in (1, 12, 9, 18):
                answer = await seat.ask(
                    context, n, settle=way != "live session", parent_key=key, **own
                )
                said += answer.tokens
                context = answer.context
                key = answer.key if way == "key" else None
            assert said == unbroken.tokens, way


@pytest.mark.parametrize("chain", CHAINS)
async def test_a_chain_that_gives_way_to_others_goes_on_where_it_was(chain: str) -> None:
    options = CHAINS[chain]
    async with room() as here:
        seat = await here.load(PLAIN[0], n_seq_max=1)
        prompt = seat.prompt(70)
        unbroken = await seat.cold(prompt, 60, **options)
        seat.record.restored.clear()
        begun = asyncio.Event()

        async def ask_low() -> Completion:
            stream = seat.model.stream(prompt, max_tokens=60, priority="low", **options)
            async for event in stream:
                begun.set()  # others would come first while its grammar is compiled
                if isinstance(event, Done):
                    return event.completion
            raise AssertionError("a stream without an end")

        low = asyncio.ensure_future(ask_low())
        await begun.wait()
        others = 0
        while not low.done() and others < 3:
            await seat.model.complete([others, 5, 6], max_tokens=1, priority="high", **GREEDY)
            others += 1
        done: Completion = await low
        assert done.tokens == unbroken.tokens
        assert seat.record.restored  # what was moved off was put back


async def test_another_chain_or_text_behind_begins_anew() -> None:
    async with room() as here:
        seat = await here.load(PLAIN[0])
        options = CHAINS["grammar"]
        first = await seat.ask(seat.prompt(70), 3, **options)
        row, more = first.key[:64], [*first.context, 300]
        other = {**options, "grammar": COUNTED.replace("{4}", "{5}")}
        begun_anew = []
        for prompt, chain in ((more, options), (first.context, other)):
            once = await seat.ask(prompt, 12, parent_key=first.key, **chain)
            again = await seat.ask(prompt, 12, parent_key=row, **chain)
            assert once.tokens == again.tokens
            begun_anew.append(once.completion.text)
        on = await seat.ask(first.context, 12, parent_key=first.key, **options)
    whole = first.completion.text + on.completion.text
    assert re.fullmatch(r"([a-z]{4} [0-9]{3}\n)*[a-z]{0,4} ?[0-9]{0,3}", whole)
    assert all(re.match("[a-z]{4}", text) for text in begun_anew)


@pytest.mark.parametrize("chain", CHAINS)
async def test_a_chain_too_short_to_be_saved_goes_on_too(chain: str) -> None:
    options = CHAINS[chain]
    async with room() as here:
        seat = await here.load(PLAIN[0])
        prompt = seat.prompt(9)
        unbroken = await seat.cold(prompt, 20, **options)
        first = await seat.ask(prompt, 7, **options)
        second = await on(seat, first, 13, **options)
        assert second.completion.cache.hit == "cold"
        assert [*first.tokens, *second.tokens] == unbroken.tokens


async def test_a_reply_that_its_grammar_and_the_model_ended_is_not_gone_on_in() -> None:
    async with Runtime() as runtime:
        model = await runtime.load_model(bundled_model())
        options = {**GREEDY, "grammar": 'root ::= "yes"'}
        first = await model.complete([7] * 70, **options)
        assert first.finish_reason == "stop"
        second = await model.complete(first.context_tokens, parent_key=first.finish_key, **options)
        assert (first.text, second.text) == ("yes", "yes")


@pytest.mark.parametrize("chain", CHAINS)
async def test_a_session_goes_on_where_nothing_is_cached(chain: str) -> None:
    options = CHAINS[chain]
    async with room() as here:
        seat = await here.load(PLAIN[0], n_seq_max=1, enabled=False)
        prompt = seat.prompt(70)
        unbroken = await seat.cold(prompt, 22, **options)
        first = await seat.ask(prompt, 3, settle=False, session_id="one", **options)
        assert first.completion.finish_key is None
        second = await seat.ask(first.context, 19, settle=False, session_id="one", **options)
    assert second.completion.cache.hit == "sticky"
    assert [*first.tokens, *second.tokens] == unbroken.tokens
