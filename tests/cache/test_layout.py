from __future__ import annotations

from typing import Any

import msgspec
import pytest

from erllama.cache.layout import KvLayout, LayerKv, Rope

from .support import LAYOUT

CHANGES: list[dict[str, Any]] = [
    {"layers": LAYOUT.layers[:1]},
    {"layers": (msgspec.structs.replace(LAYOUT.layers[0], k_type="q8_0"), LAYOUT.layers[1])},
    {"layers": (msgspec.structs.replace(LAYOUT.layers[0], v_bytes=35), LAYOUT.layers[1])},
    {"layers": (msgspec.structs.replace(LAYOUT.layers[0], layer=1), LAYOUT.layers[1])},
    {"family": "hybrid"},
    {"n_head": 8},
    {"n_head_kv": 4},
    {"n_embd": 128},
    {"flash_attn": False},
    {"unified": True},
    {"n_swa": 512},
    {"swa_full": False},
    {"rope": Rope(factors="long")},
    {"rope": Rope(freq_base=10_000.0)},
    {"build": "b2"},
    {"system": "AVX512"},
    {"devices": ("CUDA0",)},
    {"switches": (("GGML_CPU_TILED_MM", "0"),)},
    {"form": "whole, of 4 sequences"},
]


def test_no_field_can_change_without_changing_the_bytes() -> None:
    changed = {msgspec.structs.replace(LAYOUT, **change).canonical() for change in CHANGES}
    assert len(changed) == len(CHANGES)
    assert LAYOUT.canonical() not in changed
    assert {name for change in CHANGES for name in change} == set(KvLayout.__struct_fields__)


def test_equal_layouts_have_equal_bytes_however_they_were_written_down() -> None:
    one = msgspec.structs.replace(
        LAYOUT, rope=Rope(freq_base=10_000), switches=(("A", "1"), ("B", "2"))
    )
    two = msgspec.structs.replace(
        LAYOUT, rope=Rope(freq_base=10_000.0), switches=(("B", "2"), ("A", "1"))
    )
    assert one.canonical() == two.canonical()


def test_a_field_of_a_wrong_type_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.structs.replace(LAYOUT, n_head="4").canonical()


def test_parts_follow_each_other_all_k_before_all_v_and_fill_the_payload() -> None:
    parts = list(LAYOUT.parts(3))
    assert [(p.layer, p.kind, p.offset, p.row_bytes, p.size) for p in parts] == [
        (0, "k", 0, 16, 48),
        (1, "k", 48, 8, 24),
        (0, "v", 72, 34, 102),
        (1, "v", 174, 34, 102),
    ]
    assert parts[-1].offset + parts[-1].size == LAYOUT.payload_bytes(3) == 3 * 92


def test_layers_of_other_sizes_are_added_up() -> None:
    one = LayerKv(layer=0, k_type="f32", k_bytes=4, v_type="f32", v_bytes=0)
    assert msgspec.structs.replace(LAYOUT, layers=(one,)).token_bytes == 4
