"""Tiny LoRA adapters of random numbers for the random models."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from .random_gguf import replacing
from .shapes import Shape

TARGETS = ("attn_q.weight", "attn_v.weight", "ffn_down.weight", "ssm_out.weight")
RANK = 4


def write_lora(
    path: Path,
    shape: Shape,
    *,
    seed: int = 0,
    gain: float = 1.0,
    targets: tuple[str, ...] = TARGETS,
    metadata: dict[str, Any] | None = None,
    tensors: dict[str, tuple[int, ...] | None] | None = None,
) -> Path:
    """Write an adapter for models of this shape.

    Args:
        seed: chooses the numbers.
        gain: size of the change, beside that of the matrices.
        targets: the matrices that it changes, by the ends of their names.
        metadata: values in place of the right ones; None leaves one out.
        tensors: tensors of other shapes (innermost dimension first), or left out if None.
    """
    values = {
        "general.type": "adapter",
        "general.architecture": shape.arch,
        "adapter.type": "lora",
        "adapter.lora.alpha": float(RANK),
    } | (metadata or {})
    writer = gguf.GGUFWriter(None, shape.arch)
    writer.kv_data[0].clear()  # the architecture, written below
    for key, value in values.items():
        if isinstance(value, np.float64 | list):
            _add_other(writer, key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
    for name, dims in (_dims(shape, targets) | (tensors or {})).items():
        if dims is not None:
            random = np.random.default_rng([seed, *name.encode()])
            std = gain / np.sqrt(dims[0])
            data = random.normal(0, std, tuple(reversed(dims))).astype(np.float32)
            writer.add_tensor(name, data)
    with replacing(path) as temporary:
        writer.write_header_to_file(temporary)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return path


def _add_other(writer: Any, key: str, value: object) -> None:
    if isinstance(value, list):
        writer.add_array(key, value)
    else:
        writer.add_float64(key, value)


def _dims(shape: Shape, targets: tuple[str, ...]) -> dict[str, tuple[int, ...] | None]:
    pairs = [
        (f"{tensor.name}.lora_{half}", dims)
        for tensor in shape.tensors()
        if tensor.name.endswith(targets)
        for half, dims in (("a", (tensor.dims[0], RANK)), ("b", (RANK, tensor.dims[1])))
    ]
    return dict(itertools.chain(pairs))
