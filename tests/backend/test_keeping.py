"""What the file of a model says about its rotary factors and its experts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from erllama.backend.llama import keeping
from erllama.backend.llama.gguf_file import GgufHeader, TensorInfo
from erllama.backend.llama.keeping import rope_factors, rows_to_test
from erllama.backend.llama.self_test import EXPERT_ROWS, ROWS


def header(*tensors: str, **metadata: Any) -> GgufHeader:
    named = {f"x.{key.replace('__', '.')}": value for key, value in metadata.items()}
    return GgufHeader(
        metadata={"general.architecture": "x", **named},
        arrays=frozenset(),
        repeated_token=None,
        tensors=tuple(TensorInfo(name, 0, 0, 0) for name in tensors),
        data_offset=0,
    )


@pytest.fixture
def n_ctx(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the length of the context; the model was trained for 1,000 tokens."""

    def choose(length: int) -> None:
        lib = SimpleNamespace(
            llama_n_ctx_seq=lambda _: length, llama_model_n_ctx_train=lambda _: 1_000
        )
        monkeypatch.setattr(keeping, "llama", lambda: lib)

    return choose


SCALED: dict[str, Any] = {
    "rope__scaling__type": "longrope",
    "rope__scaling__original_context_length": 512,
}


@pytest.mark.parametrize(
    ("parts", "short", "long"),
    [
        ([header("blk.0.attn_q.weight", **SCALED)], 512, 513),
        ([header("rope_factors_long.weight")], 1_000, 1_001),
        ([header(), header("blk.3.rope_factors_long.weight")], 1_000, 1_001),
    ],
    ids=["by its metadata", "by its tensors", "in a later part"],
)
def test_the_length_of_the_context_chooses_the_factors(
    parts: list[GgufHeader], short: int, long: int, n_ctx: Any
) -> None:
    n_ctx(short)
    assert rope_factors(parts, None, None) == "short"
    n_ctx(long)
    assert rope_factors(parts, None, None) == "long"


@pytest.mark.parametrize("scaling", ["none", "linear", "yarn"])
def test_other_models_have_no_choice(scaling: str, n_ctx: Any) -> None:
    n_ctx(100_000)
    assert rope_factors([header("output.weight", rope__scaling__type=scaling)], None, None) == ""
    assert rope_factors([], None, None) == ""


def test_experts_are_tested_with_longer_slices() -> None:
    assert rows_to_test([header("blk.0.ffn_up.weight")]) == ROWS
    assert rows_to_test([header(), header("blk.0.ffn_up_exps.weight")]) == EXPERT_ROWS
