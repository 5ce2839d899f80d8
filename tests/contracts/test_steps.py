"""What a step does, and what an abort does to it."""

from __future__ import annotations

import array
import itertools
import threading
from typing import Any

import pytest

from erllama.backend.base import Begin, Draw, Engine, Row, StepPlan
from erllama.backend.stub import StubEngine
from erllama.errors import DecodeFailed
from tests.contracts.rig import GREEDY, PROMPT, RANDOM, Rig, on_thread, slice_of


async def test_a_step_answers_with_its_number_and_its_time(rig: Rig) -> None:
    engine = await rig.load()
    outcome = await rig.step(engine, number=41, begin=(Begin(0, GREEDY),))
    assert (outcome.number, outcome.status, outcome.sampled) == (41, "done", ())
    assert outcome.elapsed_ns > 0


async def test_positions_count_the_tokens_in_the_cells(rig: Rig) -> None:
    engine = await rig.load()
    begun = await rig.step(engine, begin=(Begin(0, GREEDY), Begin(2, GREEDY)))
    assert begun.positions == {0: 0, 2: 0}
    first = await rig.step(engine, prefill=slice_of(PROMPT[:64], seq=2, logits=False))
    assert first.positions == {2: 64}
    tail = await rig.step(engine, prefill=slice_of(PROMPT[64:100], seq=2, pos=64))
    assert tail.positions == {2: 100}
    await rig.step(engine, prefill=slice_of(PROMPT[:10], seq=0))
    rows = await rig.step(engine, rows=(Row(0, 10, 5), Row(2, 100, 6)))
    assert rows.positions == {0: 11, 2: 101}


async def test_a_draw_has_the_token_its_bytes_and_no_end(rig: Rig) -> None:
    engine = await rig.load()
    sampled = await rig.prefill(engine, PROMPT)
    assert sampled.seq == 0
    assert 0 <= sampled.token < engine.info.n_vocab
    assert not sampled.end
    assert sampled.piece.decode("utf-8", "replace") == engine.detokenize([sampled.token])


async def test_greedy_is_the_same_every_time(rig: Rig) -> None:
    engine = await rig.load()
    once = await rig.generate(engine, PROMPT, 12)
    again = await rig.generate(engine, PROMPT, 12)
    assert once == again
    assert once != await rig.generate(engine, [*PROMPT[1:], 9], 12)


async def test_greedy_ignores_the_seed(rig: Rig) -> None:
    engine = await rig.load()
    assert await rig.generate(engine, PROMPT, seed=1) == await rig.generate(engine, PROMPT, seed=99)


async def test_two_engines_of_one_file_agree(rig: Rig) -> None:
    first = await rig.generate(await rig.load(), PROMPT, sampler=RANDOM, seed=5)
    assert first == await rig.generate(await rig.load(), PROMPT, sampler=RANDOM, seed=5)


async def test_a_draw_depends_on_seed_and_tokens_only(rig: Rig) -> None:
    engine = await rig.load()
    expected = await rig.generate(engine, PROMPT, 10, sampler=RANDOM, seed=7)
    await rig.generate(engine, PROMPT[::-1], 10, seq=1, sampler=RANDOM, seed=3)
    assert await rig.generate(engine, PROMPT, 10, seq=3, sampler=RANDOM, seed=7) == expected


async def test_another_seed_draws_another_token(rig: Rig) -> None:
    engine = await rig.load()
    drawn = {
        (await rig.prefill(engine, PROMPT, sampler=RANDOM, seed=seed)).token for seed in range(12)
    }
    assert len(drawn) > 3


async def test_the_largest_seed_is_a_seed(rig: Rig) -> None:
    engine = await rig.load()
    drawn = {
        (await rig.prefill(engine, PROMPT, sampler=RANDOM, seed=2**32 - 2)).token for _ in range(5)
    }
    assert len(drawn) == 1


async def test_sequences_do_not_see_each_other(rig: Rig) -> None:
    engine = await rig.load()
    prompts = [PROMPT[shift : shift + 70] for shift in (0, 11, 23, 37)]
    alone = [await rig.generate(engine, prompt, 6) for prompt in prompts]
    await rig.step(engine, end=(0,))
    tokens = [
        [(await rig.prefill(engine, prompt, seq=seq)).token] for seq, prompt in enumerate(prompts)
    ]
    for pos in range(70, 75):
        outcome = await rig.step(
            engine,
            rows=tuple(Row(seq, pos, tokens[seq][-1]) for seq in range(4)),
            draws=tuple(Draw(seq, pos) for seq in range(4)),
        )
        assert [sampled.seq for sampled in outcome.sampled] == [0, 1, 2, 3]
        for sampled in outcome.sampled:
            tokens[sampled.seq].append(sampled.token)
    assert tokens == alone


async def test_draws_come_back_in_the_order_of_the_plan(rig: Rig) -> None:
    engine = await rig.load()
    for seq in (0, 1):
        await rig.prefill(engine, PROMPT[seq : seq + 10], seq=seq)
    rows = (Row(0, 10, 5), Row(1, 10, 6))
    outcome = await rig.step(engine, rows=rows, draws=(Draw(1, 0), Draw(0, 0)))
    assert [sampled.seq for sampled in outcome.sampled] == [1, 0]


async def test_a_row_without_a_draw_is_computed_all_the_same(rig: Rig) -> None:
    engine = await rig.load()
    expected = await rig.generate(engine, PROMPT, 4)
    await rig.prefill(engine, PROMPT)
    outcome = await rig.step(engine, rows=(Row(0, 150, expected[0]),))
    assert (outcome.sampled, outcome.positions) == ((), {0: 151})
    assert await rig.go_on(engine, expected[1], 151, 2) == expected[2:]


async def test_beginning_anew_forgets_what_the_sequence_held(rig: Rig) -> None:
    engine = await rig.load()
    expected = await rig.generate(engine, PROMPT, 6)
    await rig.generate(engine, PROMPT[50:], 3)
    assert await rig.generate(engine, PROMPT, 6) == expected


async def test_beginning_anew_takes_the_new_sampler(rig: Rig) -> None:
    engine = await rig.load()
    greedy = await rig.generate(engine, PROMPT, 10)
    drawn = await rig.generate(engine, PROMPT, 10, sampler=RANDOM, seed=3)
    assert drawn != greedy == await rig.generate(engine, PROMPT, 10)


async def test_an_ended_sequence_has_no_cells_and_no_sampler(rig: Rig) -> None:
    engine = await rig.load()
    await rig.prefill(engine, PROMPT)
    await rig.step(engine, end=(0,))
    with pytest.raises(DecodeFailed, match="gap"):
        await rig.step(engine, rows=(Row(0, 150, 5),))
    with pytest.raises(DecodeFailed, match="sampler"):
        await rig.step(engine, prefill=slice_of(PROMPT), draws=(Draw(0, 0),))


async def test_ending_comes_before_beginning_in_one_step(rig: Rig) -> None:
    engine = await rig.load()
    expected = await rig.generate(engine, PROMPT, 5)
    outcome = await rig.step(
        engine,
        end=(0,),
        begin=(Begin(0, GREEDY),),
        prefill=slice_of(PROMPT),
        draws=(Draw(0, 0),),
    )
    assert outcome.sampled[0].token == expected[0]
    assert await rig.go_on(engine, expected[0], 150, 4) == expected[1:]


async def test_ending_one_sequence_leaves_the_others(rig: Rig) -> None:
    engine = await rig.load()
    expected = await rig.generate(engine, PROMPT, 5)
    first = await rig.prefill(engine, PROMPT, seq=1)
    await rig.prefill(engine, PROMPT[9:], seq=2)
    await rig.step(engine, end=(0, 2))
    assert [first.token, *await rig.go_on(engine, first.token, 150, 4, seq=1)] == expected


async def test_ending_a_sequence_that_never_began_is_harmless(rig: Rig) -> None:
    engine = await rig.load()
    assert (await rig.step(engine, end=(3,))).status == "done"


async def test_a_sequence_takes_exactly_n_ctx_tokens(rig: Rig) -> None:
    engine = await rig.load()
    tokens = (PROMPT * 2)[:255]
    await rig.step(engine, begin=(Begin(1, GREEDY),))
    await rig.step(engine, prefill=slice_of(tokens[:192], seq=1, logits=False))
    await rig.step(engine, prefill=slice_of(tokens[192:], seq=1, pos=192))
    last = await rig.step(engine, rows=(Row(1, 255, 5),), draws=(Draw(1, 0),))
    assert (last.status, last.positions) == ("done", {1: 256})


async def test_all_sequences_fill_their_contexts_at_once(rig: Rig) -> None:
    engine = await rig.load()
    for seq in range(4):
        await rig.step(engine, begin=(Begin(seq, GREEDY),))
        for pos in (0, 64, 128, 192):
            outcome = await rig.step(engine, prefill=slice_of(PROMPT[:64], seq=seq, pos=pos))
            assert outcome.status == "done", outcome.detail
    assert outcome.positions == {3: 256}


async def test_a_sampler_that_raises_fails_its_sequence_alone(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await rig.load()
    for seq in (0, 1, 2):
        await rig.prefill(engine, PROMPT[seq : seq + 10], seq=seq)
    rows = tuple(Row(seq, 10, 5) for seq in (0, 1, 2))
    with monkeypatch.context() as patch:
        break_draws(engine, 1, patch)
        outcome = await rig.step(engine, rows=rows, draws=tuple(Draw(seq, 0) for seq in (0, 1, 2)))
    assert outcome.status == "done"
    assert outcome.failures == {1: "it chose nothing"}
    assert [sampled.seq for sampled in outcome.sampled] == [0, 2]
    assert outcome.positions == {0: 11, 1: 11, 2: 11}
    again = await rig.step(engine, rows=(Row(1, 11, 5),), draws=(Draw(1, 0),))
    assert (again.failures, len(again.sampled)) == ({}, 1)


def break_draws(engine: Engine, seq: int, patch: pytest.MonkeyPatch) -> None:
    """Let every draw of a sequence raise."""

    def fail(draw: Any, *_: Any) -> None:
        if not isinstance(draw, Draw) or draw.seq == seq:
            raise DecodeFailed("it chose nothing")

    if isinstance(engine, StubEngine):
        patch.setattr(engine._backend, "on_draw", fail)
    else:
        patch.setattr(engine._samplers[seq], "sample", fail)  # type: ignore[attr-defined]


# Aborts


async def test_an_aborted_step_computes_nothing_when_the_abort_came_first(rig: Rig) -> None:
    engine = await rig.load()
    engine.abort(10)
    outcome = await rig.step(
        engine,
        number=10,
        begin=(Begin(0, GREEDY),),
        prefill=slice_of(PROMPT),
        draws=(Draw(0, 0),),
    )
    assert (outcome.status, outcome.sampled, outcome.positions) == ("aborted", (), {0: 0})


async def test_the_step_after_an_aborted_one_is_whole(rig: Rig) -> None:
    engine = await rig.load()
    expected = await rig.generate(engine, PROMPT, 4)
    engine.abort(100)
    await rig.step(engine, number=100, begin=(Begin(0, GREEDY),), prefill=slice_of(PROMPT))
    after = await rig.step(
        engine,
        number=101,
        begin=(Begin(0, GREEDY),),
        prefill=slice_of(PROMPT),
        draws=(Draw(0, 0),),
    )
    assert after.status == "done"
    assert after.sampled[0].token == expected[0]


async def test_an_abort_of_a_finished_step_does_nothing(rig: Rig) -> None:
    engine = await rig.load()
    await rig.step(engine, number=5, begin=(Begin(0, GREEDY),))
    engine.abort(5)
    engine.abort(4)
    outcome = await rig.step(engine, number=6, prefill=slice_of(PROMPT), draws=(Draw(0, 0),))
    assert outcome.status == "done"
    assert outcome.positions == {0: 150}


async def test_an_abort_of_a_step_to_come_spares_the_one_before(rig: Rig) -> None:
    engine = await rig.load()
    engine.abort(8)
    before = await rig.step(engine, number=7, begin=(Begin(0, GREEDY),), prefill=slice_of(PROMPT))
    assert before.status == "done"
    assert (await rig.step(engine, number=8, rows=(Row(0, 150, 5),))).status == "aborted"


@pytest.mark.parametrize("number", [20, 21, 22], ids=["the last one", "its own", "the next one"])
async def test_an_abort_hits_only_the_step_of_its_number(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The abort comes in the middle of a step: after it began, before it computes."""
    engine = await rig.load()
    await rig.step(engine, number=20, begin=(Begin(0, GREEDY),))
    compute = engine._compute  # type: ignore[attr-defined]

    def abort_first(*args: object) -> object:
        aborting = threading.Thread(target=engine.abort, args=(number,))
        aborting.start()
        aborting.join()
        return compute(*args)

    monkeypatch.setattr(engine, "_compute", abort_first)
    outcome = await rig.step(engine, number=21, prefill=slice_of(PROMPT))
    assert outcome.status == ("aborted" if number == 21 else "done")
    assert outcome.positions == {0: 0 if number == 21 else 150}


async def test_an_aborted_sequence_goes_on_where_its_cells_end(rig: Rig) -> None:
    engine = await rig.load()
    expected = await rig.generate(engine, PROMPT, 6)
    await rig.step(engine, number=1_000, begin=(Begin(0, GREEDY),))
    first = await rig.step(engine, number=1_001, prefill=slice_of(PROMPT[:64], logits=False))
    engine.abort(1_002)
    second = await rig.step(engine, number=1_002, prefill=slice_of(PROMPT[64:], pos=64))
    assert (first.positions, second.positions) == ({0: 64}, {0: 64})
    third = await rig.step(
        engine, number=1_003, prefill=slice_of(PROMPT[64:], pos=64), draws=(Draw(0, 0),)
    )
    token = third.sampled[0].token
    rig.numbers = itertools.count(1_004)
    assert [token, *await rig.go_on(engine, token, 150, 5)] == expected


async def test_aborts_from_many_threads_end_in_one_aborted_step(rig: Rig) -> None:
    engine = await rig.load()
    for _ in range(4):
        await on_thread(lambda: engine.abort(50))
    plan = StepPlan(
        number=50, begin=(Begin(0, GREEDY),), slices=(slice_of(array.array("i", PROMPT)),)
    )
    assert (await rig.on_lane(lambda: engine.step(plan))).status == "aborted"
