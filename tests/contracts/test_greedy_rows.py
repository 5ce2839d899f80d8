"""The likeliest token at each of the last rows of a slice."""

from __future__ import annotations

import numpy as np
import pytest

from erllama.backend.base import Begin, Draw, Prefill
from erllama.errors import DecodeFailed
from tests.contracts.rig import GREEDY, PROMPT, Rig, token_slice

ROWS = 6


async def test_rows_report_what_greedy_generation_would_draw(rig: Rig) -> None:
    engine = await rig.load()
    # Rows of a slice and rows of a decode differ in their last bits, so nothing may be nearly equal
    # here: with all of PROMPT, two tokens are within 0.016 of each other.
    prompt = PROMPT[:80]
    expected = await rig.generate(engine, prompt, ROWS + 1)
    await rig.prefill(engine, prompt)
    outcome = await rig.step(
        engine, prefill=token_slice(expected[:ROWS], pos=len(prompt), greedy=ROWS)
    )
    assert outcome.greedy == tuple(expected[1:])
    assert outcome.sampled == ()


@pytest.mark.parametrize("greedy", [0, 1, 3, ROWS])
async def test_as_many_rows_as_asked_for_are_reported(rig: Rig, greedy: int) -> None:
    engine = await rig.load()
    whole = await rig.step(
        engine, begin=(Begin(0, GREEDY),), prefill=token_slice(PROMPT[:ROWS], greedy=ROWS)
    )
    outcome = await rig.step(
        engine, begin=(Begin(0, GREEDY),), prefill=token_slice(PROMPT[:ROWS], greedy=greedy)
    )
    assert len(whole.greedy) == ROWS
    assert outcome.greedy == whole.greedy[ROWS - greedy :]


async def test_the_likeliest_is_the_first_of_the_largest_logits(rig: Rig) -> None:
    engine = await rig.load()
    outcome = await rig.step(
        engine,
        begin=(Begin(0, GREEDY),),
        prefill=Prefill(0, 0, token_slice(PROMPT[:20]).tokens, logits=True, greedy=2),
        draws=(Draw(0, 0),),
        keep_logits=True,
    )
    assert outcome.sampled[0].token == outcome.greedy[-1]
    if rig.kind.shape is not None:  # a stub's logits are its hash
        assert outcome.greedy[-1] == np.frombuffer(outcome.logits[0], np.float32).argmax()


@pytest.mark.parametrize("greedy", [-1, 21])
async def test_rows_that_the_slice_has_not_are_refused(rig: Rig, greedy: int) -> None:
    engine = await rig.load()
    with pytest.raises(DecodeFailed, match="likeliest tokens"):
        await rig.step(
            engine, begin=(Begin(0, GREEDY),), prefill=token_slice(PROMPT[:20], greedy=greedy)
        )


async def test_reporting_rows_changes_nothing_for_what_follows(rig: Rig) -> None:
    engine = await rig.load()
    expected = await rig.generate(engine, PROMPT, 5)
    outcome = await rig.step(
        engine,
        begin=(Begin(2, GREEDY),),
        prefill=token_slice(PROMPT, seq=2, greedy=4),
    )
    assert outcome.greedy[-1] == expected[0]
    assert await rig.go_on(engine, expected[0], len(PROMPT), 4, seq=2) == expected[1:]
