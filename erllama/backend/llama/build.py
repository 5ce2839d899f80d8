"""What the native library says of itself: release, commit, and what it uses of the processor."""

from __future__ import annotations

import ctypes

from erllama.backend.llama.amx import uses_amx
from erllama.backend.llama.library import ggml, library, llama


def bindings() -> str:
    """The release of llama-cpp-python."""
    llama()
    import llama_cpp

    return str(llama_cpp.__version__)


def llama_cpp_build() -> str:
    """Version and commit of llama.cpp.

    The version alone stays the same for many commits; the commit ends in `-dirty` where the sources
    were not those of a checkout of llama.cpp itself.
    """
    lib, base = llama(), ggml()
    version = lib.llama_version().decode() if hasattr(lib, "llama_version") else "unknown"
    if not hasattr(base, "ggml_commit"):
        return f"llama.cpp {version}"
    base.ggml_commit.restype = ctypes.c_char_p
    return f"llama.cpp {version} ({base.ggml_commit().decode()})"


def build() -> str:
    """The build of llama.cpp with the release of the bindings, which no other pair shares."""
    return f"{llama_cpp_build()}, llama-cpp-python {bindings()}"


def features_in_force() -> dict[str, list[str]]:
    """What each backend of ggml was built with and found; of "CPU" its instruction sets."""
    amx = uses_amx(library("ggml"), ggml())
    return features(llama().llama_print_system_info().decode(), amx=amx)


def features(told: str, *, amx: bool) -> dict[str, list[str]]:
    """`llama_print_system_info` (llama.cpp) by backend; what is 0 there is left out.

    Args:
        told: such as `CPU : AVX2 = 1 | REPACK = 1 | CUDA : ARCHS = 890 | `.
        amx: whether AMX is used where the processor has it; see `amx`.

    >>> features("CPU : AVX2 = 1 | AMX_INT8 = 1 | CUDA : ARCHS = 890 | ", amx=False)
    {'CPU': ['AVX2'], 'CUDA': ['ARCHS = 890']}
    """
    found: dict[str, list[str]] = {}
    backend = ""
    for part in told.split("|"):
        name, _, setting = part.rpartition(" : ")
        backend = name.strip() or backend
        feature, _, value = setting.strip().partition(" = ")
        if value not in ("", "0") and (amx or not feature.startswith("AMX")):
            entry = feature if value == "1" else f"{feature} = {value}"
            found.setdefault(backend, []).append(entry)
    return found
