"""The memory that `info` names is the memory that llama.cpp takes."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import pytest

from erllama.backend.llama import loader
from erllama.backend.llama.library import LogLines, capture_log
from erllama.errors import ConfigError
from tests.contracts.rig import Rig, on_thread

OPTIONS: list[dict[str, Any]] = [
    {},
    {"n_ctx": 1_000, "swa_full": False},
    {"kv_unified": True, "n_seq_max": 3},
    {"n_ctx": 1_000, "kv_unified": True, "swa_full": False},
]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[LogLines]:
    """What llama.cpp says while the loader listens."""
    heard: list[LogLines] = []

    @contextlib.contextmanager
    def listen() -> Iterator[LogLines]:
        with capture_log() as lines:
            heard.append(lines)
            yield lines

    monkeypatch.setattr(loader, "capture_log", listen)
    return heard


@pytest.mark.parametrize("options", OPTIONS, ids=str)
async def test_states_take_the_memory_that_info_names(
    llama_rig: Rig, said: list[LogLines], options: dict[str, Any]
) -> None:
    engine = await llama_rig.load(**options)
    text = "\n".join(line for lines in said for _, line in lines.lines)
    sizes = [float(size) for size in re.findall(r"(?:KV|RS) buffer size = +([0-9.]+) MiB", text)]
    assert sizes, text
    assert engine.info.kv_bytes is not None
    assert engine.info.kv_bytes / 2**20 == pytest.approx(sum(sizes), abs=0.011 * len(sizes))


async def test_info_and_capabilities_say_how_much_one_request_has(llama_rig: Rig) -> None:
    streams = await llama_rig.load(n_ctx=300, n_seq_max=3)
    shared = await llama_rig.load(n_ctx=300, n_seq_max=3, kv_unified=True)
    assert streams.capabilities.n_ctx == shared.capabilities.n_ctx == 512
    assert (streams.info.n_seq_allocated, streams.info.n_ctx_allocated) == (3, 512)
    assert (shared.info.n_seq_allocated, shared.info.n_ctx_allocated) == (3, 1_536)


async def test_more_sequences_than_rows_are_refused_before_llama_cpp_aborts(
    llama_rig: Rig,
) -> None:
    await on_thread(llama_rig.kind.path)
    loading = llama_rig.opening(n_seq_max=65, n_batch=64)
    with pytest.raises(ConfigError, match="raise n_batch"):
        await on_thread(lambda: loading.load(lambda _: True))
    await llama_rig.on_lane(loading.discard)
