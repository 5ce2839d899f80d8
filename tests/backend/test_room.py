"""What is allocated for what was asked for."""

from __future__ import annotations

from typing import Any

import pytest

from erllama.backend.llama.room import Room, check_room, padded_rows, plan_room
from erllama.config import ContextConfig
from erllama.errors import ConfigError


def room(n_ctx: int, n_seq_max: int, **options: Any) -> Room:
    return plan_room(ContextConfig(n_seq_max=n_seq_max, **options), n_ctx)


@pytest.mark.parametrize("unified", [True, False])
def test_each_request_has_the_context_that_was_asked_for(unified: bool) -> None:
    assert room(4_096, 3, kv_unified=unified) == Room(n_ctx=4_096, n_seq=3, cells=4_096)
    assert room(300, 3, kv_unified=unified) == Room(n_ctx=512, n_seq=3, cells=512)
    assert room(300, 3, kv_unified=unified).total == 1_536


@pytest.mark.parametrize(
    ("n_seq_max", "allocated"), [(1, 8), (8, 8), (9, 12), (12, 12), (253, 256), (256, 256)]
)
def test_a_deterministic_context_has_sequences_to_pad_with(n_seq_max: int, allocated: int) -> None:
    assert room(256, n_seq_max, deterministic=True).n_seq == allocated == padded_rows(n_seq_max)


@pytest.mark.parametrize(
    ("asked", "n_ctx", "cells"), [(256, 256, 512), (255, 255, 256), (300, 511, 512)]
)
def test_a_deterministic_context_keeps_a_cell_behind_a_full_sequence(
    asked: int, n_ctx: int, cells: int
) -> None:
    found = room(asked, 8, deterministic=True)
    assert (found.n_ctx, found.cells) == (n_ctx, cells)


@pytest.mark.parametrize(
    ("asked", "n_ctx", "cells"),
    [(512, 511, 512), (500, 511, 512), (513, 767, 768), (256, 256, 512)],
)
def test_the_cell_behind_a_full_sequence_does_not_take_it_over_the_original_context(
    asked: int, n_ctx: int, cells: int
) -> None:
    config = ContextConfig(n_seq_max=8, deterministic=True)
    found = plan_room(config, asked, original=512)
    assert (found.n_ctx, found.cells) == (n_ctx, cells)


def test_more_sequences_than_llama_cpp_can_have_are_refused_by_name() -> None:
    config = ContextConfig(n_seq_max=200)
    check_room(config, plan_room(config, 256), 200)
    with pytest.raises(ConfigError, match=r"ContextConfig\.n_seq_max: 200 .* than the 199"):
        check_room(config, plan_room(config, 256), 199)
    with pytest.raises(ConfigError, match=r"n_seq_max.*256"):
        ContextConfig(n_seq_max=257)


@pytest.mark.parametrize("field", ["n_batch", "n_ubatch"])
def test_more_sequences_than_rows_in_a_call_are_refused_by_name(field: str) -> None:
    rows: dict[str, Any] = {field: 64}
    config = ContextConfig(n_seq_max=65, **rows)
    with pytest.raises(ConfigError, match=f"raise {field}"):
        check_room(config, plan_room(config, 256), 256)
