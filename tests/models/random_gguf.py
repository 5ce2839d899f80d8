"""Model files of random weights, for tests and benchmarks without a download.

The same shape, seed and tensor type give the same bytes, whatever the numpy release (tensors.py
says how).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import gguf
import numpy as np

from .shapes import HParam, Shape
from .tensors import FloatArray, Tensor
from .vocabulary import Vocabulary

Quant: TypeAlias = Literal["F32", "F16", "BF16", "Q8_0", "Q4_0"]

_FILE_TYPES: dict[Quant, gguf.LlamaFileType] = {
    "F32": gguf.LlamaFileType.ALL_F32,
    "F16": gguf.LlamaFileType.MOSTLY_F16,
    "BF16": gguf.LlamaFileType.MOSTLY_BF16,
    "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "Q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
}


def write_random_model(
    path: Path | str,
    shape: Shape,
    *,
    seed: int = 0,
    quant: Quant = "F16",
    chat_template: str | Sequence[Mapping[str, str]] | None = None,
) -> Path:
    """Write a model of random weights, all at once: readers see the whole file or none.

    Args:
        path: the file to write; an existing one is replaced.
        shape: architecture and sizes.
        seed: chooses the weights.
        quant: type of the matrices; norms, biases and convolutions are always F32.
        chat_template: Jinja source stored as `tokenizer.chat_template`, or several, each with its
            `name` and `template`; None stores none.

    Returns:
        `path`.

    Raises:
        ValueError: an unknown `quant`, sizes that do not divide each other, a row length that the
            quant's blocks do not divide, or a vocabulary too small.
    """
    path = Path(path)
    if quant not in _FILE_TYPES:
        raise ValueError(f"unknown quant {quant!r}: choose from {', '.join(_FILE_TYPES)}")
    writer = gguf.GGUFWriter(None, shape.arch)
    _add_metadata(writer, shape, quant)
    _add_vocabulary(writer, shape.make_vocabulary())
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    for tensor in shape.tensors():
        _add_tensor(writer, tensor, seed, quant)
    with replacing(path) as temporary:
        writer.write_header_to_file(temporary)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` that takes its place at the end, or is removed on an error."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _add_metadata(writer: Any, shape: Shape, quant: Quant) -> None:
    writer.add_name(f"random-{shape.arch}-{shape.n_embd}x{shape.n_layer}")
    writer.add_file_type(_FILE_TYPES[quant])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for key, value in shape.hparams().items():
        _add_hparam(writer, f"{shape.arch}.{key}", value)


def _add_hparam(writer: Any, key: str, value: HParam) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case list():
            writer.add_array(key, value)


def _add_vocabulary(writer: Any, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model(vocabulary.model)
    if vocabulary.pre is not None:
        writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.scores:
        writer.add_token_scores(vocabulary.scores)
    if vocabulary.model == "gpt2":
        writer.add_array("tokenizer.ggml.merges", [" ".join(pair) for pair in vocabulary.merges])
    if vocabulary.model == "bert":
        writer.add_token_type_count(2)
    for name, token in vocabulary.special.items():
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", token)
    for name, flag in vocabulary.flags.items():
        writer.add_bool(f"tokenizer.ggml.{name}", flag)


def _add_tensor(writer: Any, tensor: Tensor, seed: int, quant: Quant) -> None:
    values = tensor.values(seed)
    # F64 would be written without complaint, load, and crash the process at the first decode.
    if values.dtype != np.float32:
        raise TypeError(f"{tensor.name} is {values.dtype}, not float32")
    quant_type = gguf.GGMLQuantizationType[quant if tensor.quantized else "F32"]
    writer.add_tensor(tensor.name, _quantize(tensor, values, quant_type), raw_dtype=quant_type)


def _quantize(tensor: Tensor, values: FloatArray, quant_type: Any) -> Any:
    block_size, _ = gguf.GGML_QUANT_SIZES[quant_type]
    if tensor.dims[0] % block_size:
        raise ValueError(
            f"{tensor.name} has rows of {tensor.dims[0]}, which {quant_type.name} cannot store: "
            f"choose sizes that are multiples of {block_size}"
        )
    return gguf.quants.quantize(values, quant_type)
