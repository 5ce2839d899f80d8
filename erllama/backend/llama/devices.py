"""What computes beside the CPU, and which layers it was given."""

from __future__ import annotations

import ctypes
import functools
import pathlib
from typing import Any

from erllama.backend.llama.library import llama
from erllama.config import ModelConfig

_CPU, _ACCEL = 0, 3  # ggml_backend_dev_type (ggml-backend.h): the CPU, and what helps it


def offload(config: ModelConfig) -> tuple[str, ...]:
    """Names of the devices that layers may lie on, and how they were shared out.

    Rows that were computed otherwise are other numbers. Empty where the CPU computes alone.
    """
    if config.gpu_layers == 0 or not llama().llama_supports_gpu_offload():
        return ()
    names = device_names()
    if not names:
        return ()
    split = f"layers {config.gpu_layers}, split {config.split_mode}, main {config.main_gpu}"
    return (*names, f"{split}, shares {list(config.tensor_split)}")


def device_names() -> tuple[str, ...]:
    """The devices that llama.cpp sees beside the CPU, as they describe themselves."""
    lib = _registry()
    devices = [lib.ggml_backend_dev_get(i) for i in range(lib.ggml_backend_dev_count())]
    return tuple(
        lib.ggml_backend_dev_description(device).decode("utf-8", "replace")
        for device in devices
        if lib.ggml_backend_dev_type(device) not in (_CPU, _ACCEL)
    )


@functools.cache
def _registry() -> Any:
    """libggml, with the C types of what is used here (ggml-backend.h)."""
    llama()
    import llama_cpp

    folder = pathlib.Path(llama_cpp.__file__).parent / "lib"
    names = [*folder.glob("libggml.*"), *folder.glob("ggml.*")]
    lib = ctypes.CDLL(str(min(names, key=lambda path: len(path.name))))
    lib.ggml_backend_dev_count.restype = ctypes.c_size_t
    lib.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    lib.ggml_backend_dev_get.restype = ctypes.c_void_p
    lib.ggml_backend_dev_description.argtypes = [ctypes.c_void_p]
    lib.ggml_backend_dev_description.restype = ctypes.c_char_p
    lib.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    lib.ggml_backend_dev_type.restype = ctypes.c_int
    return lib
