"""An abort that reaches llama.cpp in the middle of a decode."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import pytest

from erllama.backend.base import Begin, Draw
from erllama.backend.llama import loader
from erllama.backend.llama.library import llama
from tests.contracts.rig import GREEDY, Rig, slice_of

TOKENS = [3 + 11 * i % 241 for i in range(448)]


class CountingAbort:
    """An abort callback that does something at its n-th call, then answers as the flag says."""

    def __init__(self) -> None:
        self.calls = 0
        self.at = -1
        self.action: Callable[[], object] = lambda: None
        self.native: Any = None

    def __call__(self, data: int) -> bool:
        self.calls += 1
        if self.calls == self.at:
            self.action()
        return ctypes.string_at(data, 1) != b"\0"


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> CountingAbort:
    callback = CountingAbort()
    callback.native = llama().ggml_abort_callback(callback)
    monkeypatch.setattr(loader, "abort_function", lambda: callback.native)
    return callback


@pytest.mark.parametrize("share", [0.1, 0.4, 0.6, 0.9])
async def test_an_abort_in_flight_leaves_what_positions_say(
    llama_rig: Rig, counting: CountingAbort, share: float
) -> None:
    engine = await llama_rig.load(n_ctx=512, n_batch=512, n_seq_max=2)
    expected = await llama_rig.generate(engine, TOKENS, 5)
    counting.calls = 0
    await llama_rig.prefill(engine, TOKENS)
    asked = counting.calls
    assert asked > 20, "llama.cpp hardly asks whether to abort"

    counting.calls, counting.at = 0, int(asked * share)
    counting.action = lambda: engine.abort(500)
    aborted = await llama_rig.step(
        engine, number=500, begin=(Begin(0, GREEDY),), prefill=slice_of(TOKENS)
    )
    assert aborted.status == "aborted"
    assert aborted.sampled == ()
    assert counting.calls < asked
    held = aborted.positions[0]
    if llama_rig.kind.family in ("recurrent", "hybrid"):
        assert held == 0
    else:
        # whole micro-batches of 64 rows are kept
        assert held == 64 * int(7 * share)

    # what is left of the prompt continues it as if nothing had been
    numbers = iter(range(501, 600))
    llama_rig.numbers = numbers
    outcome = await llama_rig.step(
        engine, prefill=slice_of(TOKENS[held:], pos=held), draws=(Draw(0, 0),)
    )
    token = outcome.sampled[0].token
    assert [token, *await llama_rig.go_on(engine, token, 448, 4)] == expected


async def test_an_old_number_does_not_stop_a_decode_in_flight(
    llama_rig: Rig, counting: CountingAbort
) -> None:
    engine = await llama_rig.load(n_ctx=512, n_batch=512, n_seq_max=2)
    await llama_rig.step(engine, number=499, begin=(Begin(0, GREEDY),))
    counting.calls, counting.at = 0, 5
    counting.action = lambda: engine.abort(499)
    outcome = await llama_rig.step(engine, number=500, prefill=slice_of(TOKENS))
    assert (outcome.status, outcome.positions) == ("done", {0: 448})
    assert counting.calls > 5
