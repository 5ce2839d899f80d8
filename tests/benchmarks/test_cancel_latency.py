"""Cancels come in mid-prefill, however fast the prompts become after the one that was timed."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks import cancel_latency
from benchmarks.harness import Options
from benchmarks.models import BenchModel


class Faster:
    """A side whose prompts take a hundredth of what the first one took."""

    def __init__(self) -> None:
        self.ready = {"prefill": 1.0, "own": 0.001}

    def ask(self, *, after: float, **_: Any) -> dict[str, Any]:
        return {"seconds": after, "done": after > 0.01}


def test_a_cancel_that_came_too_late_is_tried_again_earlier(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @contextlib.contextmanager
    def fake_sides(*_: Any, **__: Any) -> Iterator[dict[str, Faster]]:
        yield {"erllama": Faster()}

    monkeypatch.setattr(cancel_latency, "sides", fake_sides)
    model = BenchModel("tiny", pathlib.Path("tiny.gguf"), 512)
    idle, next_ = cancel_latency.run(Options([model], quick=True))
    detail: dict[str, Any] = dict(idle.detail)
    assert detail["cancels"] == next_.detail["cancels"] == 4
    assert detail["worst"] <= 10.0
    assert detail["came_too_late"] > 8
