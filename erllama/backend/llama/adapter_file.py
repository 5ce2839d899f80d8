"""Whether the file of a LoRA adapter fits a model.

llama.cpp refuses most of what is wrong, but ends the process over metadata of another type, and
at the first computation over matrices that cannot be multiplied (`ggml_can_mul_mat`). So the whole
table is compared with the model's here. Format: convert_lora_to_gguf.py of llama.cpp; for each
matrix `X` of the model, `[n_in, n_out, ...]`, the adapter has `X.lora_a`, `[n_in, rank, ...]`, and
`X.lora_b`, `[rank, n_out, ...]`; of the token embeddings a is `[rank, n_vocab]`, b `[rank, n_in]`.
"""

from __future__ import annotations

import pathlib
import struct

from erllama.backend.llama.gguf_file import GgufHeader, read_header, shards
from erllama.errors import ModelLoadError, NotSupported

_TYPES = {0: "F32", 1: "F16", 8: "Q8_0", 30: "BF16"}  # ggml_type (ggml.h)
_F32_VALUE, _STRING, _ARRAY = 6, 8, 9  # gguf_type (gguf.h)
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_INVOCATION = "adapter.alora.invocation_tokens"

_NVFP4 = 40  # llama.cpp ends the process over adapters of these (llm_graph_context::build_ffn)

Shape = tuple[int, ...]


def check_adapter(path: pathlib.Path, model: pathlib.Path) -> None:
    """Refuse what would not load, or end the process later.

    Raises:
        ModelLoadError: says what is wrong with the file.
        NotSupported: a kind of adapter that erllama does not know.
    """
    header = read_header(path)
    value_types, shapes = _table(path, header)
    parts = [read_header(part) for part in shards(model)]
    _check_metadata(path, header, value_types, parts[0])
    own: dict[str, Shape] = {}
    for part, read in zip(shards(model), parts, strict=True):
        own |= _table(part, read)[1]
    for tensor in (tensor for read in parts for tensor in read.tensors):
        if tensor.type == _NVFP4 and f"{tensor.name}.lora_a" in shapes:
            raise NotSupported(f"{path}: llama.cpp adapts no matrix in NVFP4, as {tensor.name} is")
    _check_matrices(path, header, shapes, own)


def _check_metadata(
    path: pathlib.Path, header: GgufHeader, value_types: dict[str, int], model: GgufHeader
) -> None:
    said = header.metadata
    arch = model.metadata.get("general.architecture")
    expected = (
        ("general.type", "adapter"),
        ("adapter.type", "lora"),
        ("general.architecture", arch),
    )
    for key, value in expected:
        if said.get(key) != value:
            raise ModelLoadError(
                f"{path}: its {key} is {said.get(key)!r}, not {value!r}; give a LoRA adapter in "
                "GGUF that was made for this model"
            )
    if value_types.get("adapter.lora.alpha", _F32_VALUE) != _F32_VALUE:
        raise ModelLoadError(f"{path}: its adapter.lora.alpha is no F32; convert it again")
    if _INVOCATION in value_types:
        raise NotSupported(f"{path}: adapters with invocation tokens (aLoRA) are not supported")


def _check_matrices(
    path: pathlib.Path, header: GgufHeader, shapes: dict[str, Shape], model: dict[str, Shape]
) -> None:
    types = {tensor.name: tensor.type for tensor in header.tensors}
    names = {_base(path, name) for name in shapes if not name.endswith("_norm.weight")}
    if not names:
        raise ModelLoadError(f"{path}: has no matrices; convert the adapter again")
    for name in sorted(names):
        a, b = shapes.get(f"{name}.lora_a"), shapes.get(f"{name}.lora_b")
        if a is None or b is None:
            raise ModelLoadError(f"{path}: of {name} it has one half; convert the adapter again")
        if name not in model:
            raise ModelLoadError(f"{path}: the model has no {name}; give it an adapter of its own")
        if not _fits(name, a, b, model[name]):
            raise ModelLoadError(
                f"{path}: {name} is {_text(model[name])}, the adapter's halves {_text(a)} and "
                f"{_text(b)} do not fit; give the model an adapter of its own"
            )
        for half in (f"{name}.lora_a", f"{name}.lora_b"):
            if types[half] not in _TYPES:
                raise ModelLoadError(
                    f"{path}: {half} is of ggml type {types[half]}; convert it to one of "
                    f"{', '.join(_TYPES.values())}"
                )


def _base(path: pathlib.Path, name: str) -> str:
    for suffix in (".lora_a", ".lora_b"):
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    raise ModelLoadError(f"{path}: has a tensor {name!r}, which no LoRA adapter has")


def _fits(name: str, a: Shape, b: Shape, base: Shape) -> bool:
    a, b, base = (_trim(shape) for shape in (a, b, base))
    if min(len(a), len(b), len(base)) < 2 or 0 in (*a, *b):
        return False
    if name == "token_embd.weight":
        return a[0] == b[0] and base == (b[1], a[1]) and len(a) == len(b) == 2
    return base[:2] == (a[0], b[1]) and a[1] == b[0] and a[2:] == b[2:] == base[2:]


def _trim(shape: Shape) -> Shape:
    """Without the ones at the end, but of two dimensions at least."""
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return (*shape, 1) if len(shape) == 1 else shape


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape))


def _table(path: pathlib.Path, header: GgufHeader) -> tuple[dict[str, int], dict[str, Shape]]:
    """The types of the values, and the shapes of the tensors.

    llama.cpp's reader, which has found the header good, does not tell either.
    """
    with path.open("rb") as file:
        reader = _Reader(file.read(header.data_offset))
    n_tensors, n_values = reader.unpack("<8xQQ")
    types = {}
    for _ in range(n_values):
        key = reader.text()
        types[key] = reader.skip_value()
    shapes = {}
    for _ in range(n_tensors):
        name = reader.text()
        (n_dims,) = reader.unpack("<I")
        shapes[name] = reader.unpack(f"<{n_dims}Q")
        reader.unpack("<IQ")
    return types, shapes


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def unpack(self, layout: str) -> tuple[int, ...]:
        values = struct.unpack_from(layout, self._data, self._at)
        self._at += struct.calcsize(layout)
        return values

    def text(self) -> str:
        (size,) = self.unpack("<Q")
        self._at += size
        return self._data[self._at - size : self._at].decode("utf-8", "replace")

    def skip_value(self) -> int:
        """Go over a value; returns its type."""
        (kind,) = self.unpack("<I")
        item, count = kind, 1
        if kind == _ARRAY:
            item, count = self.unpack("<IQ")
        if item != _STRING:
            self._at += _SIZES[item] * count
            return kind
        for _ in range(count):
            (size,) = self.unpack("<Q")
            self._at += size
        return kind
