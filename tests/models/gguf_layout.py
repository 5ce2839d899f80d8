"""A GGUF file taken apart and put together again, with nothing checked.

The gguf package refuses to write what a broken file must hold, hence this. Layout:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

MAGIC = b"GGUF"
ALIGNMENT = 32
F16, F64 = 1, 28
"""`ggml_type` in ggml.h."""

_UINT32, _FLOAT32, _STRING, _ARRAY = 4, 6, 8, 9
_SCALAR_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


@dataclass
class TensorInfo:
    """An entry of the tensor table, and the tensor's bytes.

    Args:
        name: the tensor's name.
        dims: its shape, innermost dimension first.
        type: its `ggml_type`.
        data: its bytes, without padding.
        offset: where the table says they begin; None for where they do.
    """

    name: str
    dims: list[int]
    type: int
    data: bytes = field(repr=False)
    offset: int | None = None


@dataclass
class Layout:
    """A whole file.

    Args:
        metadata: the values by key, each as its bytes with the value type before them.
        tensors: the tensors in the order of the table.
        magic, version: the first two fields of the header.
        n_kv, n_tensors: the counts that the header gives; None for the true ones.
    """

    metadata: dict[str, bytes]
    tensors: list[TensorInfo]
    magic: bytes = MAGIC
    version: int = 3
    n_kv: int | None = None
    n_tensors: int | None = None

    @classmethod
    def read(cls, path: Path) -> Self:
        """Take a good file apart."""
        reader = _Reader(path.read_bytes())
        magic = reader.take(len(MAGIC))
        version, n_tensors, n_kv = reader.unpack("<IQQ")
        metadata = {reader.string(): reader.value() for _ in range(n_kv)}
        tensors = [reader.tensor_info() for _ in range(n_tensors)]
        data_start = _padded(reader.at)
        ends = [*(tensor.offset for tensor in tensors[1:]), len(reader.data) - data_start]
        for tensor, end in zip(tensors, ends, strict=True):
            tensor.data = reader.data[data_start + (tensor.offset or 0) : data_start + (end or 0)]
            tensor.offset = None
        return cls(metadata, tensors, magic, version)

    def head(self) -> bytes:
        """The header and the metadata."""
        n_tensors = len(self.tensors) if self.n_tensors is None else self.n_tensors
        n_kv = len(self.metadata) if self.n_kv is None else self.n_kv
        header = struct.pack("<4sIQQ", self.magic, self.version, n_tensors, n_kv)
        return header + b"".join(string(key) + value for key, value in self.metadata.items())

    def table(self) -> bytes:
        """The tensor table."""
        entries, offset = [], 0
        for tensor in self.tensors:
            n_dims = len(tensor.dims)
            stated = offset if tensor.offset is None else tensor.offset
            rest = (n_dims, *tensor.dims, tensor.type, stated)
            entries.append(string(tensor.name) + struct.pack(f"<I{n_dims}QIQ", *rest))
            offset += _padded(len(tensor.data))
        return b"".join(entries)

    def to_bytes(self) -> bytes:
        """The whole file."""
        head = self.head() + self.table()
        parts = [head, *(tensor.data for tensor in self.tensors)]
        return b"".join(part.ljust(_padded(len(part)), b"\0") for part in parts)

    def tensor(self, name: str) -> TensorInfo:
        """The tensor of that name."""
        return next(tensor for tensor in self.tensors if tensor.name == name)


def string(text: str) -> bytes:
    """A string as GGUF stores it."""
    return struct.pack("<Q", len(text.encode())) + text.encode()


def string_value(text: str) -> bytes:
    """A metadata value that is a string."""
    return struct.pack("<I", _STRING) + string(text)


def uint32_value(number: int) -> bytes:
    """A metadata value that is a 32-bit integer."""
    return struct.pack("<II", _UINT32, number)


def float32_value(number: float) -> bytes:
    """A metadata value that is a 32-bit float."""
    return struct.pack("<If", _FLOAT32, number)


def _padded(size: int) -> int:
    return math.ceil(size / ALIGNMENT) * ALIGNMENT


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        self.at += size
        return self.data[self.at - size : self.at]

    def unpack(self, layout: str) -> tuple[int, ...]:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))

    def string(self) -> str:
        (size,) = self.unpack("<Q")
        return self.take(size).decode()

    def value(self) -> bytes:
        """A metadata value as its bytes, type first."""
        start = self.at
        (value_type,) = self.unpack("<I")
        count = 1
        if value_type == _ARRAY:
            value_type, count = self.unpack("<IQ")
        if value_type == _STRING:
            for _ in range(count):
                self.string()
        else:
            self.take(count * _SCALAR_SIZES[value_type])
        return self.data[start : self.at]

    def tensor_info(self) -> TensorInfo:
        name = self.string()
        (n_dims,) = self.unpack("<I")
        *dims, tensor_type, offset = self.unpack(f"<{n_dims}QIQ")
        return TensorInfo(name, dims, tensor_type, b"", offset)
