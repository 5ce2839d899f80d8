"""What llama.cpp computes with one adapter in force; for a child process."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from erllama.backend.llama.library import llama

llama_cpp = llama()  # without AMX, which may end the process (backend/llama/amx.py)


def logits_with_adapter(
    model_path: str, path: str, scale: float, tokens: Sequence[int]
) -> list[float]:
    """The logits behind a prompt, in a context that never had another adapter."""
    model = llama_cpp.llama_model_load_from_file(
        model_path.encode(), llama_cpp.llama_model_default_params()
    )
    adapter = llama_cpp.llama_adapter_lora_init(model, path.encode())
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = 256
    params.n_threads = params.n_threads_batch = 1
    context = llama_cpp.llama_init_from_model(model, params)
    kind = llama_cpp.llama_set_adapters_lora.argtypes[1]
    handles = (ctypes.c_void_p * 1)(ctypes.cast(adapter, ctypes.c_void_p).value)
    scales = (ctypes.c_float * 1)(scale)
    llama_cpp.llama_set_adapters_lora(context, ctypes.cast(handles, kind), 1, scales)
    ids = (ctypes.c_int32 * len(tokens))(*tokens)
    status = llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(ids, len(tokens)))
    if status:
        raise RuntimeError(f"llama_decode returned {status}")
    n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    row = llama_cpp.llama_get_logits_ith(context, -1)
    return [float(value) for value in row[:n_vocab]]
