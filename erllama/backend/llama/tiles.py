"""Whether a CPU's matrix tiles (Intel AMX) can be used in this build of llama.cpp.

Some compilers (GCC 12.2 is one) take most of the 64 bytes that `_tile_loadconfig` reads for unused
and leave them out. Then the first multiplication of a quantized matrix by several rows is an
illegal instruction (`ggml_tile_config_init` in ggml-cpu/amx/mmq.cpp). Nothing tells such a build
from a good one but trying it out, in a process of its own.

In every build, what is computed with weights that were laid out for tiles has to have two
dimensions: of more, `ggml_backend_amx_mul_mat` adds offsets in bytes to pointers to numbers, reads
past the weights and writes past the result. Recurrent and hybrid models have a dimension for the
sequences. So only architectures that are known to have none get that layout.
"""

from __future__ import annotations

import functools
import json
import logging
import pathlib
import signal
import subprocess
import sys

from erllama.backend.llama.gguf_file import read_header
from erllama.backend.llama.library import llama
from erllama.bundled import bundled_model
from erllama.errors import ErllamaError

log = logging.getLogger("erllama.llama")

_TILED = {2, 3, 8, 12, 13, 14, 23}  # ggml_type: Q4_0, Q4_1, Q8_0, Q4_K, Q5_K, Q6_K, IQ4_XS
_FLAT = {
    *("llama", "mistral3", "qwen2", "qwen2moe", "qwen3", "qwen3moe", "gemma", "gemma2", "gemma3"),
    *("phi3", "command-r", "cohere2", "granite", "olmo2", "starcoder2", "stablelm", "gpt-oss"),
    *("glm4", "deepseek", "bert", "nomic-bert"),
}
"""Architectures that multiply matrices of two dimensions only by their weights (src/models)."""

_PATIENCE_S = 60
_TRIAL = """
import ctypes, json, sys
sys.path[:] = json.loads(sys.argv[1])
from llama_cpp import llama_cpp as lib
lib.llama_backend_init()
options = lib.llama_model_default_params()
options.n_gpu_layers = 0
model = lib.llama_model_load_from_file(sys.argv[2].encode(), options)
options = lib.llama_context_default_params()
options.n_ctx, options.n_threads, options.n_threads_batch = 256, 2, 2
context = lib.llama_init_from_model(model, options)
tokens = (ctypes.c_int32 * 64)(*range(5, 69))
sys.exit(lib.llama_decode(context, lib.llama_batch_get_one(tokens, 64)))
"""


def tiles_work(path: pathlib.Path) -> bool:
    """Whether a model's weights may lie as the CPU's tiles want them; True if the CPU has none.

    Where the matrices' types fit the tiles, it takes about a second, once a process: call it on a
    worker of normal priority, as the trial would inherit a low one.

    Args:
        path: the model's file, or the first of several.
    """
    if b"AMX_INT8 = 1" not in llama().llama_print_system_info():
        return True
    try:
        header = read_header(path)
    except ErllamaError:
        return False  # loading says what is wrong with it
    if header.metadata.get("general.architecture") not in _FLAT:
        return False
    return not (any(tensor.type in _TILED for tensor in header.tensors) and tiles_fault())


@functools.cache
def tiles_fault() -> str:
    """How a process that uses the tiles fails; empty if it does not. Tried once, and logged."""
    fault = try_out(_TRIAL)
    if fault:
        log.warning(
            "llama.cpp as it was built here cannot use this CPU's AMX tiles (%s): quantized models "
            "do without, and take longer. Build llama-cpp-python with a newer compiler, or with "
            "CFLAGS and CXXFLAGS set to -mno-amx-int8",
            fault,
        )
    return fault


def try_out(trial: str) -> str:
    """How a Python program fails that computes the bundled model; empty if it does not."""
    if getattr(sys, "frozen", False) or "python" not in pathlib.Path(sys.executable or "").name:
        return "there is no Python to try it with"
    try:
        done = subprocess.run(
            [sys.executable, "-c", trial, json.dumps(sys.path), str(bundled_model())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_PATIENCE_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"a trial could not be made: {error}"
    if done.returncode < 0:
        return f"a trial ended with {signal.Signals(-done.returncode).name}"
    return f"a trial returned {done.returncode}" if done.returncode else ""
