"""What the cache holds changes no answer.

A request that names no reply equals its cold run; one that names a reply equals the unbroken
stream of that reply. Whole replies are compared, by the logits that each token was drawn from.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import pytest

from tests.cache_exact.room import (
    CASES,
    CUT_AT_SNAPSHOTS,
    GREEDY,
    PLAIN,
    SAMPLED,
    Answer,
    Case,
    Seat,
    room,
)

F16 = PLAIN[4]
MIXED_UP = (F16, PLAIN[2], CUT_AT_SNAPSHOTS[0], *CUT_AT_SNAPSHOTS[3:5])
LENGTHS = (1, 2, 40, 63, 64, 65, 100, 128, 129, 200, 256, 257, 300)


async def assert_asked_again_as_cold(seat: Seat, length: int, **options: Any) -> None:
    prompt = seat.prompt(length)
    cold = await seat.cold(prompt, 12, **options)
    for _ in range(3):
        answer = await seat.ask(prompt, 12, cache_salt=f"again {length}", **options)
        assert answer.record.logits == cold.record.logits, (length, answer.completion.cache)
        assert answer.completion.cache.pure


@pytest.mark.parametrize("case", [F16, PLAIN[2], CUT_AT_SNAPSHOTS[4]], ids=lambda case: case.name)
async def test_a_prompt_asked_again_gets_the_same_answer(case: Case) -> None:
    async with room() as here:
        seat = await here.load(case)
        for length in LENGTHS:
            await assert_asked_again_as_cold(seat, length, **SAMPLED)


@pytest.mark.long
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_prompts_of_all_lengths_asked_again_get_the_same_answers(case: Case) -> None:
    async with room() as here:
        seat = await here.load(case)
        for length in range(1, 301):
            await assert_asked_again_as_cold(seat, length, **random.choice([GREEDY, SAMPLED]))


async def test_a_prompt_that_begins_as_a_reply_did_by_accident_equals_its_cold_run() -> None:
    async with room() as here:
        seat = await here.load(F16)
        first = await seat.ask(seat.prompt(70), 60)
        prompt = [*first.context[:101], *seat.prompt(20)]
        cold = await seat.cold(prompt, 10)
        answer = await seat.ask(prompt, 10)
        assert answer.completion.cache.read == 64
        assert answer.record.logits == cold.record.logits


@pytest.mark.parametrize("case", MIXED_UP, ids=lambda case: case.name)
async def test_a_turn_that_is_asked_again_goes_on_at_the_same_place(case: Case) -> None:
    """The second turn's rows take the place of the first one's; the first one's name stays good."""
    async with room() as here:
        seat = await here.load(case)
        first = await seat.ask(seat.prompt(40), 10)
        prompt = [*first.context, *seat.prompt(20)]
        turns = [await seat.ask(prompt, 8, parent_key=first.key) for _ in range(3)]
        assert [turn.completion.cache.read for turn in turns] == [49] * 3
        assert len({tuple(turn.record.logits) for turn in turns}) == 1
        third = [*turns[0].context, *seat.prompt(30)]
        later = [await seat.ask(third, 8, parent_key=turn.key) for turn in turns]
        assert len({tuple(turn.record.logits) for turn in later}) == 1
        branch = [*first.context, *seat.prompt(90)]
        for _ in range(2):
            other = await seat.ask(branch, 4, parent_key=first.key)
            assert other.completion.cache.read == 49


async def test_two_streams_that_say_the_same_are_each_gone_on_with_as_themselves() -> None:
    """One began within what the other had said: the same tokens, computed otherwise."""
    async with room() as here:
        seat = await here.load(F16)
        prompt = seat.prompt(70)
        whole = await seat.cold(prompt, 40)
        inner = [*prompt, *whole.tokens[:7]]
        other = await seat.cold(inner, 33)
        first = await seat.ask(prompt, 20)
        second = await seat.ask(inner, 13)
        assert second.context == first.context  # the last bits of logits choose no other token
        assert first.key != second.key
        for _ in range(2):
            on = await seat.ask(first.context, 20, parent_key=first.key)
            assert [*first.record.logits, *on.record.logits] == whole.record.logits
            on = await seat.ask(second.context, 20, parent_key=second.key)
            assert [*second.record.logits, *on.record.logits] == other.record.logits


@pytest.mark.parametrize("case", MIXED_UP, ids=lambda case: case.name)
@pytest.mark.parametrize("text", [1, 30, 150])
async def test_a_turn_is_the_same_in_its_session_behind_it_and_by_its_name(
    case: Case, text: int
) -> None:
    async with room() as here:
        seat = await here.load(case, n_seq_max=2)
        answers = []
        for way in ("live", "saved", "named"):
            options: dict[str, Any] = {"cache_salt": way}
            if way != "named":
                options["session_id"] = way
            first = await seat.ask(seat.prompt(90), 20, settle=way != "live", **options)
            if way == "named":
                options["parent_key"] = first.key
            prompt = [*first.context, *seat.prompt(text)]
            answer = await seat.ask(prompt, 10, settle=False, **options)
            assert answer.completion.cache.read == 109
            assert answer.completion.cache.hit == ("sticky" if way == "live" else "partial")
            answers.append(answer.record.logits)
        assert answers[0] == answers[1] == answers[2]


async def test_a_session_that_goes_another_way_keeps_pure_rows_alone() -> None:
    async with room() as here:
        seat = await here.load(F16, n_seq_max=1)
        first = await seat.ask(seat.prompt(90), 50, settle=False, session_id="one")
        prompt = [*first.context[:120], *seat.prompt(40)]
        second = await seat.ask(prompt, 10, settle=False, session_id="one")
        assert (second.completion.cache.hit, second.completion.cache.read) == ("sticky", 64)
        assert second.record.logits == (await seat.cold(prompt, 10)).record.logits


async def test_cached_prefix_says_what_a_prompt_would_begin_with() -> None:
    async with room() as here:
        seat = await here.load(F16)
        first = await seat.ask(seat.prompt(300), 100)
        prompt = [*first.context, *seat.prompt(10)]
        assert await seat.model.cached_prefix(prompt) == 256
        assert (await seat.ask(prompt, 2)).completion.cache.read == 256
        assert await seat.model.cached_prefix(seat.prompt(300)) == 300


async def test_behind_a_reply_whose_rows_are_gone_all_is_computed_cold() -> None:
    async with room(ram_bytes=1 << 20) as here:
        seat = await here.load(F16)
        first = await seat.ask(seat.prompt(90), 20)
        prompt = [*first.context, *seat.prompt(30)]
        for n in range(40):
            await seat.ask(seat.prompt(300, n), 1)
        answer = await seat.ask(prompt, 10, parent_key=first.key)
        assert answer.completion.cache.pure
        assert answer.record.logits == (await seat.cold(prompt, 10)).record.logits


# Whatever came before


@dataclass
class Turn:
    """One request of a chain, each of which names the one before it."""

    prompt: list[int]
    n: int
    options: dict[str, Any]
    before: Turn | None = None
    answer: Answer | None = None

    @property
    def done(self) -> Answer:
        assert self.answer is not None
        return self.answer


async def alone(seat: Seat, turn: Turn, salt: str) -> Answer:
    """The chain of a turn, with nothing else in the cache."""
    named: dict[str, Any] = {}
    if turn.before is not None:
        named["parent_key"] = (await alone(seat, turn.before, salt)).completion.finish_key
    return await seat.ask(turn.prompt, turn.n, cache_salt=salt, **named, **turn.options)


def random_lengths(source: random.Random, most: int) -> list[int]:
    return [source.randrange(3, most) for _ in range(4)]


async def mix(case: Case, *, rounds: int, seed: object = 0) -> tuple[int, int]:
    """Random prompts, retries, branches and turns; returns how many named a reply or read rows."""
    source = random.Random(f"{case.name} {seed}")
    named = read = 0
    async with room() as here:
        seat = await here.load(case, n_seq_max=2)
        turns: list[Turn] = []
        for n in range(rounds):
            text = seat.prompt(source.choice([1, 2, *random_lengths(source, 130)]), n)
            options = source.choice([GREEDY, SAMPLED])
            length = source.choice([1, 2, *random_lengths(source, 60)])
            turn = Turn(seat.prompt(random_lengths(source, 250)[0], n), length, options)
            if turns:
                old = source.choice(turns)
                match source.choice(["retry", "on", "on", "branch", "accident"]):
                    case "retry":
                        turn = Turn(old.prompt, length, options, old.before)
                    case "on":
                        turn = Turn([*old.done.context, *text], length, options, old)
                    case "branch":
                        turn = Turn([*old.prompt, *text], length, options)
                    case _:
                        cut = source.randrange(1, len(old.done.context) + 1)
                        turn = Turn([*old.done.context[:cut], *text], length, options)
            if len(turn.prompt) > 800:
                continue
            own: dict[str, Any] = {}
            if turn.before is not None:
                own["parent_key"] = turn.before.done.completion.finish_key  # None: too short
                named += own["parent_key"] is not None
            turn.answer = await seat.ask(turn.prompt, turn.n, **own, **turn.options)
            turns.append(turn)
            expected = await alone(seat, turn, f"alone {n}")
            read += turn.answer.completion.cache.read > 0
            assert turn.answer.record.logits == expected.record.logits, (
                n, len(turn.prompt), turn.before is not None, turn.answer.completion.cache,
            )  # fmt: skip
    return named, read


@pytest.mark.parametrize("case", MIXED_UP, ids=lambda case: case.name)
async def test_after_any_mixture_of_requests_each_is_answered_as_if_alone(case: Case) -> None:
    named, read = await mix(case, rounds=12)
    assert named + read > 4


@pytest.mark.long
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("seed", [1, 2])
async def test_after_long_mixtures_each_is_answered_as_if_alone(case: Case, seed: int) -> None:
    named, _ = await mix(case, rounds=120, seed=seed)
    assert named > 20
