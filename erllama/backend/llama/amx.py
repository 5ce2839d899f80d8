"""AMX, the matrix unit of some Intel processors, is left alone unless `ERLLAMA_AMX=1` is set.

llama.cpp puts weights into a buffer type of its own where the processor and its build have AMX.
GCC 12 and 13 drop most of the tile configuration that those kernels write, because their intrinsic
for `ldtilecfg` declares that it reads 8 of the 64 bytes (`amxtileintrin.h`; `init_tile_config` in
ggml-cpu/amx/mmq.cpp): the first product of a quantized matrix ends the process with SIGILL. In
every build, `ggml_backend_amx_mul_mat` adds offsets in bytes to pointers to numbers where a product
has more than two dimensions, as those of recurrent and hybrid models have, and reads and writes
past its buffers. Nothing tells from outside which compiler built the library, and trying it out
would end this process. So the buffer type is taken out of the list that llama.cpp chooses from;
weights are then repacked for AVX-512 as on processors without AMX.
"""

from __future__ import annotations

import ctypes
import logging
import os

log = logging.getLogger("erllama.llama")

SWITCH = "ERLLAMA_AMX"


def leave_out_amx(ggml: ctypes.CDLL, ggml_base: ctypes.CDLL) -> bool:
    """Take AMX out of the CPU's extra buffer types, before any model is loaded.

    Args:
        ggml: the library with `ggml_backend_reg_by_name`.
        ggml_base: the one with `ggml_backend_buft_name`.

    Returns:
        Whether it was there.
    """
    if os.environ.get(SWITCH) == "1":
        return False
    types = _extra_types(ggml, ggml_base)
    if types is None:
        return False
    kept, left_out, n = [], False, 0
    while types[n]:
        if _name(ggml_base, types[n]) == b"AMX":
            left_out = True
        else:
            kept.append(types[n])
        n += 1
    for i, kind in enumerate([*kept, *[None] * (n - len(kept))]):
        types[i] = kind
    if left_out:
        log.debug("AMX is not used; set %s=1 if a compiler newer than GCC 13 built it", SWITCH)
    return left_out


def uses_amx(ggml: ctypes.CDLL, ggml_base: ctypes.CDLL) -> bool:
    """Whether AMX is among the CPU's extra buffer types: weights are put there then.

    Args:
        ggml, ggml_base: as of `leave_out_amx`.
    """
    types = _extra_types(ggml, ggml_base)
    n = 0
    while types is not None and types[n]:
        if _name(ggml_base, types[n]) == b"AMX":
            return True
        n += 1
    return False


def _extra_types(ggml: ctypes.CDLL, base: ctypes.CDLL) -> ctypes.Array[ctypes.c_void_p] | None:
    """The list itself, which ends with a null pointer; None: this build has none.

    `ggml_backend_cpu_device_get_extra_buffers_type` (ggml-cpu.cpp) hands out the storage of a
    static vector, and llama.cpp reads it at each load of a model.
    """
    pointer, by_name = ctypes.c_void_p, ggml.ggml_backend_reg_by_name
    by_name.argtypes, by_name.restype = [ctypes.c_char_p], pointer
    proc = base.ggml_backend_reg_get_proc_address
    proc.argtypes, proc.restype = [pointer, ctypes.c_char_p], pointer
    device_of = base.ggml_backend_reg_dev_get
    device_of.argtypes, device_of.restype = [pointer, ctypes.c_size_t], pointer
    cpu = by_name(b"CPU")
    found = proc(cpu, b"ggml_backend_dev_get_extra_bufts") if cpu else None
    if not found:
        return None
    kinds = ctypes.CFUNCTYPE(ctypes.POINTER(pointer), pointer)(found)
    listed: ctypes.Array[ctypes.c_void_p] = kinds(device_of(cpu, 0))
    return listed or None


def _name(base: ctypes.CDLL, kind: object) -> bytes:
    name = base.ggml_backend_buft_name
    name.argtypes, name.restype = [ctypes.c_void_p], ctypes.c_char_p
    return bytes(name(kind) or b"")
