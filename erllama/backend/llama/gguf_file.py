"""What a GGUF file says of itself, read with llama.cpp's own reader.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Only the header is read, no
weights. Everything that would make llama.cpp crash later is refused here.
"""

from __future__ import annotations

import ctypes
import os
import pathlib
import re
import stat
from typing import Any

import msgspec

from erllama.backend.llama.library import LogLines, capture_log, ggml
from erllama.errors import ModelLoadError

_MAGIC = b"GGUF"
_SHARD = re.compile(r"^(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf$")
# Value types of the format, by number: how the reader hands them out.
_SCALARS: dict[int, tuple[str, type[Any]]] = {
    0: ("u8", ctypes.c_uint8),
    1: ("i8", ctypes.c_int8),
    2: ("u16", ctypes.c_uint16),
    3: ("i16", ctypes.c_int16),
    4: ("u32", ctypes.c_uint32),
    5: ("i32", ctypes.c_int32),
    6: ("f32", ctypes.c_float),
    7: ("bool", ctypes.c_bool),
    8: ("str", ctypes.c_char_p),
    10: ("u64", ctypes.c_uint64),
    11: ("i64", ctypes.c_int64),
    12: ("f64", ctypes.c_double),
}
_STRING, _ARRAY = 8, 9
# ggml_type (ggml.h) of tensors that load but have no CPU kernels: 24-27 are integers, and
# computing with 28, F64, ends in SIGSEGV.
_UNCOMPUTABLE = {24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64"}
# ggml aborts where these are of another type: norms, biases and the decay and skip of a state
# space meet F32 rows (binary-ops.cpp); convolutions read F32 (ops.cpp).
_F32_ONLY = (
    *("norm.weight", "_norm", ".bias", ".ssm_a", ".ssm_d"),
    *(".ssm_conv1d.weight", ".shortconv.conv.weight"),
)
_F32 = 0


class TensorInfo(msgspec.Struct, frozen=True):
    """A tensor: name, ggml_type number, absolute offset and size in bytes."""

    name: str
    type: int
    offset: int
    size: int


class GgufHeader(msgspec.Struct, frozen=True):
    """The header of one file.

    Attributes:
        metadata: the scalars.
        arrays: the keys whose values are arrays; these are left out.
        repeated_token: a token that the vocabulary has twice.
        data_offset: where the weights begin, in bytes.
    """

    metadata: dict[str, int | float | bool | str]
    arrays: frozenset[str]
    repeated_token: str | None
    tensors: tuple[TensorInfo, ...]
    data_offset: int


class _InitParams(ctypes.Structure):
    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


def shards(path: pathlib.Path) -> list[pathlib.Path]:
    """All files of the model that `path` belongs to, in order.

    A model may be split as `NAME-00001-of-00003.gguf`; it is loaded by its first file.

    Raises:
        ModelLoadError: a part is missing, or `path` is not the first.
    """
    split = _SHARD.match(path.name)
    if split is None:
        return [path]
    if int(split["number"]) != 1:
        raise ModelLoadError(f"{path}: is a later part of a split model; load the first part")
    count = int(split["count"])
    if count == 0:
        raise ModelLoadError(f"{path}: is part 1 of 0 by its name; give it its true name")
    parts = [
        path.with_name(f"{split['stem']}-{i:05d}-of-{count:05d}.gguf") for i in range(1, count + 1)
    ]
    for part in parts:
        if not part.is_file():
            raise ModelLoadError(
                f"{path}: part {part.name} of the split model is missing; "
                "put all parts into one folder"
            )
    return parts


def read_header(path: pathlib.Path) -> GgufHeader:
    """Read and check the header of `path`.

    Raises:
        ModelLoadError: no such file, a directory, empty, not GGUF, truncated, or with tensors
            that cannot be computed with.
    """
    _check_is_gguf(path)
    lib = ggml()
    _declare(lib)
    with capture_log() as said:
        handle = lib.gguf_init_from_file(os.fsencode(path), _InitParams(True, None))
    if not handle:
        raise ModelLoadError(f"{path}: {_broken_header(said)}")
    try:
        header = GgufHeader(
            metadata=_metadata(lib, handle),
            arrays=_arrays(lib, handle),
            repeated_token=_repeated_token(lib, handle),
            tensors=_tensors(lib, handle),
            data_offset=lib.gguf_get_data_offset(handle),
        )
    finally:
        lib.gguf_free(handle)
    _check_tensors(path, header)
    return header


def _check_is_gguf(path: pathlib.Path) -> None:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ModelLoadError(f"{path}: is a directory; give the path of a .gguf file in it")
        if not stat.S_ISREG(mode):  # opening a pipe would wait for a writer
            raise ModelLoadError(f"{path}: is no regular file; give the path of a .gguf file")
        with path.open("rb") as file:
            magic = file.read(len(_MAGIC))
    except FileNotFoundError:
        raise ModelLoadError(f"{path}: no such file; check the path") from None
    except OSError as wrong:
        raise ModelLoadError(
            f"{path}: cannot be read: {wrong.strerror}; check the path and its permissions"
        ) from None
    except ValueError:
        raise ModelLoadError(f"{str(path)!r}: is no path: it has a NUL character") from None
    if not magic:
        raise ModelLoadError(f"{path}: is empty; download or copy it again")
    if magic != _MAGIC:
        raise ModelLoadError(
            f"{path}: is not a GGUF file (it starts with {magic!r}); convert the model to GGUF"
        )


def _broken_header(said: LogLines) -> str:
    return (
        "its GGUF header is truncated, damaged or of an unsupported version; download or copy "
        f"it again (llama.cpp: {said.problems()})"
    )


def _check_tensors(path: pathlib.Path, header: GgufHeader) -> None:
    for tensor in header.tensors:
        if tensor.type in _UNCOMPUTABLE:
            raise ModelLoadError(
                f"{path}: tensor {tensor.name} has type {_UNCOMPUTABLE[tensor.type]}, which "
                "cannot be computed with; convert it to F32, F16 or a quantized type"
            )
        if tensor.name.endswith(_F32_ONLY) and tensor.type != _F32:
            raise ModelLoadError(
                f"{path}: tensor {tensor.name} is not of type F32, which llama.cpp needs it to be; "
                "convert the model again"
            )
    end = max((t.offset + t.size for t in header.tensors), default=0)
    size = path.stat().st_size
    if end > size:
        raise ModelLoadError(
            f"{path}: is truncated: {size:,} bytes, its tensors end at {end:,}; "
            "download or copy it again"
        )


def _metadata(lib: Any, handle: int) -> dict[str, int | float | bool | str]:
    values: dict[str, int | float | bool | str] = {}
    for i in range(lib.gguf_get_n_kv(handle)):
        scalar = _SCALARS.get(lib.gguf_get_kv_type(handle, i))
        if scalar is None:
            continue
        value = getattr(lib, f"gguf_get_val_{scalar[0]}")(handle, i)
        key = lib.gguf_get_key(handle, i).decode("utf-8", "replace")
        values[key] = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return values


def _arrays(lib: Any, handle: int) -> frozenset[str]:
    return frozenset(
        lib.gguf_get_key(handle, i).decode("utf-8", "replace")
        for i in range(lib.gguf_get_n_kv(handle))
        if lib.gguf_get_kv_type(handle, i) == _ARRAY
    )


def _repeated_token(lib: Any, handle: int) -> str | None:
    key = lib.gguf_find_key(handle, b"tokenizer.ggml.tokens")
    if key < 0 or lib.gguf_get_kv_type(handle, key) != _ARRAY:
        return None
    if lib.gguf_get_arr_type(handle, key) != _STRING:
        return None
    seen: set[bytes] = set()
    for i in range(lib.gguf_get_arr_n(handle, key)):
        # an empty token gets this name from llama.cpp (llama-vocab.cpp)
        token = lib.gguf_get_arr_str(handle, key, i) or b"[EMPTY_%d]" % i
        if token in seen:
            return str(token.decode("utf-8", "replace"))
        seen.add(token)
    return None


def _tensors(lib: Any, handle: int) -> tuple[TensorInfo, ...]:
    start = lib.gguf_get_data_offset(handle)
    return tuple(
        TensorInfo(
            name=lib.gguf_get_tensor_name(handle, i).decode("utf-8", "replace"),
            type=lib.gguf_get_tensor_type(handle, i),
            offset=start + lib.gguf_get_tensor_offset(handle, i),
            size=lib.gguf_get_tensor_size(handle, i),
        )
        for i in range(lib.gguf_get_n_tensors(handle))
    )


def _declare(lib: Any) -> None:
    """Give the functions used here their C types (gguf.h)."""
    pointer, text, i64, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int64, ctypes.c_size_t
    signatures: dict[str, tuple[list[Any], Any]] = {
        "gguf_init_from_file": ([text, _InitParams], pointer),
        "gguf_free": ([pointer], None),
        "gguf_get_data_offset": ([pointer], size),
        "gguf_get_n_kv": ([pointer], i64),
        "gguf_get_key": ([pointer, i64], text),
        "gguf_get_kv_type": ([pointer, i64], ctypes.c_int),
        "gguf_find_key": ([pointer, text], i64),
        "gguf_get_arr_type": ([pointer, i64], ctypes.c_int),
        "gguf_get_arr_n": ([pointer, i64], size),
        "gguf_get_arr_str": ([pointer, i64, size], text),
        "gguf_get_n_tensors": ([pointer], i64),
        "gguf_get_tensor_name": ([pointer, i64], text),
        "gguf_get_tensor_type": ([pointer, i64], ctypes.c_int),
        "gguf_get_tensor_offset": ([pointer, i64], size),
        "gguf_get_tensor_size": ([pointer, i64], size),
    }
    signatures |= {
        f"gguf_get_val_{name}": ([pointer, i64], result) for name, result in _SCALARS.values()
    }
    for name, (arguments, result) in signatures.items():
        function = getattr(lib, name)
        function.argtypes, function.restype = arguments, result
