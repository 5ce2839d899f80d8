"""Vectors as llama.cpp gives them, and pooled by numpy; for a child process, as it computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from erllama.backend.llama.library import llama

llama_cpp = llama()  # without AMX, which may end the process (backend/llama/amx.py)

N_CTX = 512


def embed_alone(path: str, inputs: Sequence[Sequence[int]], pooling: int) -> list[list[float]]:
    """llama.cpp's own vector of each input: its pooling, one call for one input.

    Args:
        pooling: by llama.cpp's number; 0 gives the vectors of all tokens one after the other.
    """
    model = llama_cpp.llama_model_load_from_file(
        path.encode(), llama_cpp.llama_model_default_params()
    )
    width = llama_cpp.llama_model_n_embd_out(model)
    if pooling == llama_cpp.LLAMA_POOLING_TYPE_RANK:
        width = llama_cpp.llama_model_n_cls_out(model)
    return [_embed(model, tokens, pooling, width) for tokens in inputs]


def pooled_by_numpy(path: str, inputs: Sequence[Sequence[int]], pooling: str) -> list[list[float]]:
    """Mean, first or last of the vectors of each input's tokens."""
    found = []
    for flat, tokens in zip(embed_alone(path, inputs, 0), inputs, strict=True):
        rows = np.array(flat, np.float64).reshape(len(tokens), -1)
        pooled = {"mean": rows.mean(axis=0), "cls": rows[0], "last": rows[-1]}[pooling]
        found.append([float(value) for value in pooled])
    return found


def _embed(model: Any, tokens: Sequence[int], pooling: int, width: int) -> list[float]:
    context = _new_context(model, pooling)
    batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for i, token in enumerate(tokens):
        batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, i, 1
        batch.seq_id[i][0] = 0
        batch.logits[i] = True
    status = llama_cpp.llama_decode(context, batch)
    if status:
        raise RuntimeError(f"llama_decode returned {status}")
    if pooling == 0:
        values = llama_cpp.llama_get_embeddings(context)[: width * len(tokens)]
    else:
        values = llama_cpp.llama_get_embeddings_seq(context, 0)[:width]
    llama_cpp.llama_batch_free(batch)
    llama_cpp.llama_free(context)
    return [float(value) for value in values]


def _new_context(model: Any, pooling: int) -> Any:
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = N_CTX
    params.n_threads = params.n_threads_batch = 1
    params.embeddings = True
    params.pooling_type = pooling
    return llama_cpp.llama_init_from_model(model, params)
