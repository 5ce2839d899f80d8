"""A context made anew: empty, and in every way like the first."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from erllama.backend.base import Begin, Draw, Engine, Row
from erllama.backend.stub import StubEngine
from erllama.errors import DecodeFailed, ModelLoadError
from tests.contracts.rig import GREEDY, PROMPT, RANDOM, Rig, slice_of


async def rebuild(rig: Rig, engine: Engine) -> None:
    await rig.on_lane(engine.rebuild)


def break_making(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no context be made until `monkeypatch.undo`."""

    def fail(*_: Any) -> None:
        raise ModelLoadError("no memory is left for the context")

    if isinstance(engine, StubEngine):
        monkeypatch.setattr(engine._backend, "on_rebuild", fail)
    else:
        monkeypatch.setattr(engine, "_make_context", fail)


async def test_a_rebuilt_engine_holds_nothing_and_has_no_samplers(rig: Rig) -> None:
    engine = await rig.load()
    await rig.prefill(engine, PROMPT, seq=1)
    await rebuild(rig, engine)
    with pytest.raises(DecodeFailed, match="holds 0 tokens"):
        await rig.step(engine, rows=(Row(1, len(PROMPT), 5),))
    with pytest.raises(DecodeFailed, match="no sampler"):
        await rig.step(engine, prefill=slice_of(PROMPT, seq=1), draws=(Draw(1, 0),))


async def test_a_rebuilt_engine_computes_the_same(rig: Rig) -> None:
    engine = await rig.load()
    expected = await rig.generate(engine, PROMPT, 6, sampler=RANDOM, seed=3)
    capabilities = engine.capabilities
    for _ in range(2):
        await rebuild(rig, engine)
        assert await rig.generate(engine, PROMPT, 6, seq=2, sampler=RANDOM, seed=3) == expected
    assert engine.capabilities == capabilities


async def test_a_state_saved_before_serves_the_rebuilt_engine(rig: Rig) -> None:
    engine = await rig.load()
    state = engine.capabilities.state
    assert state is not None
    expected = await rig.generate(engine, PROMPT, 6)
    await rig.prefill(engine, PROMPT)
    n = len(PROMPT)
    ranges = [(0, n)] if state.layers else []
    saved = await rig.on_lane(partial(engine.save, 0, ranges, snapshot=state.snapshot))
    await rebuild(rig, engine)
    frame = engine.frame(1, n)
    for rows in saved.rows:
        frame.put_rows(0, rows, n, n)
    if state.snapshot and saved.snapshot is not None:
        frame.put_snapshot(saved.snapshot)
    await rig.on_lane(lambda: engine.restore(1, frame))
    await rig.step(engine, begin=(Begin(1, GREEDY, keep=n),))
    assert await rig.go_on(engine, expected[0], n, 5, seq=1) == expected[1:]


async def test_a_rebuilt_engine_can_be_aborted(rig: Rig) -> None:
    engine = await rig.load()
    await rebuild(rig, engine)
    engine.abort(70)
    outcome = await rig.step(engine, number=70, begin=(Begin(0, GREEDY),), prefill=slice_of(PROMPT))
    assert (outcome.status, outcome.positions) == ("aborted", {0: 0})


async def test_an_engine_whose_context_cannot_be_made_is_rebuilt_later(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await rig.load()
    expected = await rig.generate(engine, PROMPT, 4)
    break_making(engine, monkeypatch)
    with pytest.raises(ModelLoadError, match="no memory"):
        await rebuild(rig, engine)
    monkeypatch.undo()
    await rebuild(rig, engine)
    assert await rig.generate(engine, PROMPT, 4) == expected


async def test_without_a_context_every_step_fails_and_nothing_breaks(
    llama_rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await llama_rig.load()
    frame = engine.frame(0, 10)
    break_making(engine, monkeypatch)
    with pytest.raises(ModelLoadError):
        await rebuild(llama_rig, engine)
    outcome = await llama_rig.step(
        engine, begin=(Begin(0, GREEDY),), prefill=slice_of(PROMPT), draws=(Draw(0, 0),)
    )
    assert (outcome.status, outcome.positions) == ("failed", {0: 0})
    assert "rebuild" in outcome.detail
    with pytest.raises(DecodeFailed, match="rebuild"):
        await llama_rig.on_lane(lambda: engine.restore(0, frame))
    assert engine.tokenize("a", add_special=False, parse_special=False)


async def test_a_closed_engine_is_not_rebuilt(rig: Rig) -> None:
    engine = await rig.load()
    await rig.on_lane(engine.close)
    with pytest.raises(DecodeFailed, match="closed"):
        await rebuild(rig, engine)
