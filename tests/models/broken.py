"""Model files that are broken, each made from a good one in its own way.

What llama.cpp does with them differs: most are refused at load, `KILLED_AT_LOAD` end the process
while it loads, `KILLED_AT_DECODE` load and end it at the first decode, `LOADED` load
and decode although something is wrong. What is not refused a caller must find by itself.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np

from .gguf_layout import F16, F64, Layout, float32_value, string, string_value, uint32_value

Breaker: TypeAlias = Callable[[Layout], bytes]

_BREAKERS: dict[str, Breaker] = {}

KILLED_AT_LOAD = frozenset(
    {"duplicate_token", "no_layers", "too_many_layers", "experts_without_use"}
)
KILLED_AT_DECODE = frozenset({"f64_matrix", "f64_norm", "f16_norm", "negative_epsilon"})
LOADED = frozenset({"nan_weights", "special_token_out_of_range"})


def break_model(source: Path, destination: Path, how: str) -> Path:
    """Write `source` to `destination`, broken.

    Args:
        source: a good model file, as of `shapes.TINY` in F16.
        destination: the file to write.
        how: one of `BROKEN`.

    Raises:
        ValueError: an unknown `how`.
    """
    if how not in _BREAKERS:
        raise ValueError(f"unknown way to break a model {how!r}: choose from {', '.join(BROKEN)}")
    destination.write_bytes(_BREAKERS[how](Layout.read(source)))
    return destination


def _breaker(function: Breaker) -> Breaker:
    _BREAKERS[function.__name__] = function
    return function


@_breaker
def empty(layout: Layout) -> bytes:
    """No bytes at all."""
    del layout
    return b""


@_breaker
def truncated_in_header(layout: Layout) -> bytes:
    """Ends within the counts."""
    return layout.to_bytes()[:13]


@_breaker
def truncated_in_metadata(layout: Layout) -> bytes:
    """Ends halfway through the metadata."""
    return layout.to_bytes()[: len(layout.head()) // 2]


@_breaker
def truncated_in_tensor_table(layout: Layout) -> bytes:
    """Ends halfway through the tensor table."""
    return layout.to_bytes()[: len(layout.head()) + len(layout.table()) // 2]


@_breaker
def truncated_in_data(layout: Layout) -> bytes:
    """Ends halfway through the weights, as a download cut short."""
    whole = layout.to_bytes()
    n_before = len(layout.head()) + len(layout.table())
    return whole[: (n_before + len(whole)) // 2]


@_breaker
def wrong_magic(layout: Layout) -> bytes:
    """Begins as the format before GGUF did."""
    layout.magic = b"ggml"
    return layout.to_bytes()


@_breaker
def old_version(layout: Layout) -> bytes:
    """GGUF version 1."""
    layout.version = 1
    return layout.to_bytes()


@_breaker
def future_version(layout: Layout) -> bytes:
    """A GGUF version that does not exist."""
    layout.version = 99
    return layout.to_bytes()


@_breaker
def unknown_architecture(layout: Layout) -> bytes:
    """An architecture that does not exist."""
    layout.metadata["general.architecture"] = string_value("perceptron")
    return layout.to_bytes()


@_breaker
def missing_hparam(layout: Layout) -> bytes:
    """No number of layers."""
    del layout.metadata["llama.block_count"]
    return layout.to_bytes()


@_breaker
def wrong_hparam_type(layout: Layout) -> bytes:
    """The context length is a string."""
    layout.metadata["llama.context_length"] = string_value("8192")
    return layout.to_bytes()


@_breaker
def no_layers(layout: Layout) -> bytes:
    """Zero layers, which llama.cpp asserts against."""
    layout.metadata["llama.block_count"] = uint32_value(0)
    return layout.to_bytes()


@_breaker
def too_many_layers(layout: Layout) -> bytes:
    """More layers than LLAMA_MAX_LAYERS, which llama.cpp asserts against."""
    layout.metadata["llama.block_count"] = uint32_value(1_000_000)
    return layout.to_bytes()


@_breaker
def experts_without_use(layout: Layout) -> bytes:
    """Four experts of which a token visits none, which llama.cpp asserts against."""
    layout.metadata["llama.expert_count"] = uint32_value(4)
    return layout.to_bytes()


@_breaker
def negative_epsilon(layout: Layout) -> bytes:
    """The norms' epsilon is below zero, which ggml asserts against when it computes."""
    layout.metadata["llama.attention.layer_norm_rms_epsilon"] = float32_value(-1.0)
    return layout.to_bytes()


@_breaker
def special_token_out_of_range(layout: Layout) -> bytes:
    """The end of sequence is no token of the vocabulary; llama.cpp takes another one."""
    layout.metadata["tokenizer.ggml.eos_token_id"] = uint32_value(1_000_000)
    return layout.to_bytes()


@_breaker
def missing_tokenizer(layout: Layout) -> bytes:
    """No vocabulary."""
    layout.metadata = {
        key: value for key, value in layout.metadata.items() if not key.startswith("tokenizer.")
    }
    return layout.to_bytes()


@_breaker
def duplicate_token(layout: Layout) -> bytes:
    """Two tokens are spelled alike."""
    tokens = layout.metadata["tokenizer.ggml.tokens"]
    layout.metadata["tokenizer.ggml.tokens"] = tokens.replace(string("!"), string('"'), 1)
    return layout.to_bytes()


@_breaker
def missing_tensor(layout: Layout) -> bytes:
    """The last layer has no feed-forward norm."""
    norms = [tensor for tensor in layout.tensors if tensor.name.endswith(".ffn_norm.weight")]
    layout.tensors.remove(norms[-1])
    return layout.to_bytes()


@_breaker
def wrong_tensor_shape(layout: Layout) -> bytes:
    """A norm of half the width."""
    tensor = layout.tensor("output_norm.weight")
    tensor.dims[0] //= 2
    tensor.data = tensor.data[: len(tensor.data) // 2]
    return layout.to_bytes()


@_breaker
def f64_matrix(layout: Layout) -> bytes:
    """A matrix in double precision, as numpy 2 makes of `float32 * float64`: SIGSEGV."""
    tensor = layout.tensor("blk.0.ffn_up.weight")
    tensor.data = np.frombuffer(tensor.data, dtype="<f2").astype("<f8").tobytes()
    tensor.type = F64
    return layout.to_bytes()


@_breaker
def f64_norm(layout: Layout) -> bytes:
    """A norm in double precision: SIGABRT."""
    tensor = layout.tensor("output_norm.weight")
    tensor.data = np.frombuffer(tensor.data, dtype="<f4").astype("<f8").tobytes()
    tensor.type = F64
    return layout.to_bytes()


@_breaker
def f16_norm(layout: Layout) -> bytes:
    """A norm in half precision, where ggml multiplies by F32 only: SIGABRT."""
    tensor = layout.tensor("output_norm.weight")
    tensor.data = np.frombuffer(tensor.data, dtype="<f4").astype("<f2").tobytes()
    tensor.type = F16
    return layout.to_bytes()


@_breaker
def nan_weights(layout: Layout) -> bytes:
    """A norm that is not a number throughout."""
    tensor = layout.tensor("output_norm.weight")
    tensor.data = np.full(tensor.dims, np.nan, dtype="<f4").tobytes()
    return layout.to_bytes()


@_breaker
def unknown_tensor_type(layout: Layout) -> bytes:
    """A tensor of a type that does not exist."""
    layout.tensors[-1].type = 1_000
    return layout.to_bytes()


@_breaker
def absurd_tensor_offset(layout: Layout) -> bytes:
    """A tensor that begins far behind the end of the file."""
    layout.tensors[-1].offset = 1 << 62
    return layout.to_bytes()


@_breaker
def absurd_tensor_dims(layout: Layout) -> bytes:
    """A tensor of more elements than 64 bits can count."""
    layout.tensors[-1].dims = [1 << 62, 1 << 62]
    return layout.to_bytes()


@_breaker
def absurd_number_of_dims(layout: Layout) -> bytes:
    """A tensor of more dimensions than ggml has."""
    layout.tensors[-1].dims = [1] * 1_000
    return layout.to_bytes()


@_breaker
def absurd_metadata_count(layout: Layout) -> bytes:
    """2**63 metadata entries."""
    layout.n_kv = 1 << 63
    return layout.to_bytes()


@_breaker
def absurd_tensor_count(layout: Layout) -> bytes:
    """2**63 tensors."""
    layout.n_tensors = 1 << 63
    return layout.to_bytes()


@_breaker
def absurd_string_length(layout: Layout) -> bytes:
    """A first key of 2**63 bytes."""
    whole = bytearray(layout.to_bytes())
    struct.pack_into("<Q", whole, struct.calcsize("<4sIQQ"), 1 << 63)
    return bytes(whole)


BROKEN = tuple(_BREAKERS)
"""The names of the ways to break a model."""
