"""Metadata that llama.cpp would end the process over. Pure.

Most of what is wrong with a file llama.cpp refuses with a message. These checks stand for its
asserts (`llama_model_base::load_hparams`, `llama_vocab::impl::load`, ggml's norms and RoPE), which
no caller can catch. Not all of them: values that are arrays, one number per layer, are taken at
their word.
"""

from __future__ import annotations

from collections.abc import Mapping

_MAX_LAYERS, _MAX_EXPERTS = 512, 1_024  # llama-hparams.h
_ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")  # LLAMA_ROPE_SCALING_TYPES
_DENSE = ("hunyuan-dense", "hunyuan_vl")  # llama.cpp ignores what these say about experts
_EPSILONS = ("layer_norm_epsilon", "layer_norm_rms_epsilon", "group_norm_epsilon")

Metadata = Mapping[str, int | float | bool | str]


def find_fault(
    metadata: Metadata, arrays: frozenset[str], repeated_token: str | None
) -> str | None:
    """What is wrong, in words that follow "its"; None if nothing is.

    Args:
        metadata: the scalars of a header.
        arrays: the keys of its arrays.
        repeated_token: a token that its vocabulary has twice.
    """
    if repeated_token is not None:
        return f"vocabulary has the token {repeated_token!r} twice"
    arch = str(metadata.get("general.architecture", ""))
    own = {
        key.removeprefix(f"{arch}."): value
        for key, value in metadata.items()
        if key.startswith(f"{arch}.")
    }
    return (
        _layers(own)
        or (_experts(own, f"{arch}.expert_used_count" in arrays) if arch not in _DENSE else None)
        or _rope(own)
        or _epsilons(own)
    )


def _int(own: Metadata, key: str, default: int = 0) -> int:
    value = own.get(key, default)
    return value if isinstance(value, int) else default


def _layers(own: Metadata) -> str | None:
    n_layer = _int(own, "block_count", 1)
    if not 0 < n_layer <= _MAX_LAYERS:
        return f"block_count is {n_layer:,}; 1 to {_MAX_LAYERS} layers are possible"
    if _int(own, "nextn_predict_layers") > n_layer:
        return f"nextn_predict_layers exceeds its block_count of {n_layer}"
    return None


def _experts(own: Metadata, used_is_array: bool) -> str | None:
    n, groups = _int(own, "expert_count"), _int(own, "expert_group_count")
    used, used_groups = _int(own, "expert_used_count"), _int(own, "expert_group_used_count")
    if n > _MAX_EXPERTS:
        return f"expert_count is {n:,}; at most {_MAX_EXPERTS} experts are possible"
    if not used_is_array and not (0 < used <= n or used == n == 0):
        return f"expert_used_count is {used:,} of {n} experts"
    if groups and not (
        groups < n and (groups == 1 or (n % groups == 0 and 0 < used_groups < groups))
    ):
        return f"{n} experts cannot be in {groups:,} groups of which {used_groups:,} are used"
    return None


def _rope(own: Metadata) -> str | None:
    scaling = own.get("rope.scaling.type", "linear")
    if isinstance(scaling, str) and scaling not in _ROPE_SCALINGS:
        return f"rope.scaling.type is {scaling!r}, none of {', '.join(_ROPE_SCALINGS)}"
    n_head = _int(own, "attention.head_count")
    if not n_head:
        return None
    width = _int(own, "attention.key_length", _int(own, "embedding_length") // n_head)
    rotated = _int(own, "rope.dimension_count", width)
    return f"rope.dimension_count is {rotated:,} of {width:,}" if rotated > width else None


def _epsilons(own: Metadata) -> str | None:
    for name in _EPSILONS:
        epsilon = own.get(f"attention.{name}", 0.0)
        if isinstance(epsilon, float) and not epsilon >= 0:
            return f"attention.{name} is {epsilon}, below 0"
    return None
