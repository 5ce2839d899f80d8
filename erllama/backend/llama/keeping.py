"""How the states of a loaded model can be kept, and what their numbers depend on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from erllama.backend.base import LayerRows, StateCapabilities
from erllama.backend.llama.devices import offload
from erllama.backend.llama.gguf_file import GgufHeader
from erllama.backend.llama.library import llama
from erllama.backend.llama.self_test import EXPERT_ROWS, ROWS
from erllama.backend.llama.states import States, WholeStates
from erllama.config import ModelConfig

# names of tensors: llama-arch.cpp; numbers of types: ggml.h
_LONG_FACTORS, _EXPERTS = "rope_factors_long", "_exps."
_OUTPUT, _EMBEDDING = "output.weight", "token_embd.weight"
_VECTORS = ("norm.weight", ".bias", "rope_freqs.weight", "_long.weight", "_short.weight")
_ROWS_APART = {2, 8}  # Q4_0, Q8_0

RopeFactors = Literal["", "long", "short"]


class Kept(NamedTuple):
    """How states are kept; `exact`: pure rows continue bit for bit as a cold run."""

    states: States | WholeStates
    exact: bool


SWITCHES = ("GGML_CPU_TILED_MM", "GGML_CPU_REPACK", "GGML_CPU_ALL_VARIANTS", "ERLLAMA_AMX")


def switches() -> tuple[tuple[str, str], ...]:
    """The environment variables that are set and choose kernels."""
    return tuple((name, os.environ[name]) for name in SWITCHES if name in os.environ)


def state_capabilities(
    kept: Kept, *, model: Any, context: Any, config: ModelConfig, factors: RopeFactors
) -> StateCapabilities:
    """What an engine says of its states."""
    states, devices = kept.states, offload(config)
    if isinstance(states, WholeStates):
        return StateCapabilities(
            layers=(),
            snapshot=True,
            snapshot_bytes=states.size_at_most,
            exact=kept.exact,
            form=f"whole, of {llama().llama_n_seq_max(context)} sequences",
            devices=devices,
            rope_factors=factors,
            switches=switches(),
        )
    layers = states.shape.full.layers if states.shape.full else ()
    return StateCapabilities(
        layers=tuple(
            LayerRows(layer.k_type, layer.k_bytes, layer.v_type, layer.v_bytes) for layer in layers
        ),
        snapshot=states.shape.has_snapshot,
        snapshot_bytes=states.shape.snapshot_bytes(llama().llama_model_n_swa(model)),
        exact=kept.exact,
        devices=devices,
        rope_factors=factors,
        switches=switches(),
    )


def rope_factors(headers: Sequence[GgufHeader], model: Any, context: Any) -> RopeFactors:
    """Which rotary factors llama.cpp chose by the length of the context (LongRoPE).

    As `llama_model::get_rope_factors` (src/llama-model.cpp): the long ones above the context that
    the model had before it was stretched.

    Args:
        headers: of all parts of the model, the first one first.
    """
    original = original_context(headers, model)
    if original is None:
        return ""
    return "long" if llama().llama_n_ctx_seq(context) > original else "short"


def original_context(headers: Sequence[GgufHeader], model: Any) -> int | None:
    """The longest context, in tokens, that has the short rotary factors; None: there is no choice.

    Args:
        headers: of all parts of the model, the first one first.
    """
    metadata = headers[0].metadata if headers else {}
    arch = metadata.get("general.architecture", "")
    if metadata.get(f"{arch}.rope.scaling.type") != "longrope" and not _has(headers, _LONG_FACTORS):
        return None
    original = metadata.get(f"{arch}.rope.scaling.original_context_length")
    return original if isinstance(original, int) else int(llama().llama_model_n_ctx_train(model))


def rows_to_test(headers: Sequence[GgufHeader]) -> int:
    """How many rows a self-test compares with slices of 64."""
    return EXPERT_ROWS if _has(headers, _EXPERTS) else ROWS


def slices_keep_apart(headers: Sequence[GgufHeader], config: ModelConfig) -> bool:
    """Whether slices of several prompts in one call are each what they would be alone, bit for bit.

    So it is, as measured, on CPUs where all matrices are Q8_0 or Q4_0. Kernels of other types go by
    how many rows have logits, those of experts by how many rows each expert gets
    (docs/exact-slicing.md).

    Args:
        headers: of all parts of the model.
    """
    tensors = [tensor for header in headers for tensor in header.tensors]
    untied = any(tensor.name == _OUTPUT for tensor in tensors)
    matrices = [
        tensor.type
        for tensor in tensors
        if not tensor.name.endswith(_VECTORS) and not (untied and tensor.name == _EMBEDDING)
    ]
    return (
        not offload(config)
        and not _has(headers, _EXPERTS)
        and bool(matrices)
        and all(kind in _ROWS_APART for kind in matrices)
    )


def _has(headers: Sequence[GgufHeader], part: str) -> bool:
    return any(part in tensor.name for header in headers for tensor in header.tensors)
