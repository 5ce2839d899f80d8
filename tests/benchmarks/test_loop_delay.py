"""The ticker beside the loop: it has ticked at the end of each phase, however busy the machine."""

from __future__ import annotations

import pathlib

import pytest

from benchmarks.loop_delay import Ticker, ticked
from erllama import Runtime
from erllama.backend.stub import StubBackend
from tests.models import TINY, cached_model


@pytest.mark.parametrize("phase", ["load", "prefill", "decode"])
async def test_a_phase_without_any_time_lasts_until_the_first_tick(
    phase: str, tmp_path: pathlib.Path
) -> None:
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(cached_model(TINY).read_bytes())
    config = {"n_ctx": 512, "prompt": 16, "seconds": 0.0}
    async with Runtime(backend=StubBackend) as runtime:
        await runtime.load_model("stub.gguf", model_id="m", n_ctx=512)
        ticker = Ticker()
        await ticked(phase, runtime, ticker, config, copy)
    assert ticker.late
