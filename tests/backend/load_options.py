"""Combinations of load options: every option at its edges, and several options at random."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, TypeAlias

from tests.models import (
    TINY,
    TINY_BERT,
    TINY_COHERE2,
    TINY_FALCON_H1,
    TINY_GEMMA3,
    TINY_LFM2,
    TINY_MAMBA2,
    TINY_MOE,
    TINY_RERANKER,
    TINY_SPM,
    WIDE,
    AnyQuant,
    Bert,
    Llama,
    LongRope,
    Shape,
    cached_model,
)

Options: TypeAlias = dict[str, Any]

MODELS: dict[str, tuple[Shape, AnyQuant]] = {
    "plain": (TINY, "F16"),
    "plain F32": (TINY, "F32"),
    "plain BF16": (TINY, "BF16"),
    "plain Q8_0": (TINY, "Q8_0"),
    "plain Q4_0": (TINY, "Q4_0"),
    "plain Q4_K_M": (WIDE, "Q4_K_M"),
    "plain Q6_K": (WIDE, "Q6_K"),
    "SentencePiece": (TINY_SPM, "F16"),
    "LongRoPE": (LongRope(n_layer=2), "F16"),
    "heads of 16": (Llama(n_embd=64, n_layer=2), "F16"),
    "heads of 24": (Llama(n_embd=96, n_layer=2), "F16"),
    "heads of 80": (Llama(n_embd=160, n_layer=2, n_head=2, n_head_kv=1), "F16"),
    "one head": (Llama(n_embd=64, n_layer=1, n_head=1, n_head_kv=1), "F16"),
    "short context": (Llama(n_embd=64, n_layer=1, n_ctx_train=300), "F16"),
    "experts": (TINY_MOE, "F16"),
    "experts Q8_0": (TINY_MOE, "Q8_0"),
    "sliding window": (TINY_COHERE2, "F16"),
    "sliding window, SentencePiece": (TINY_GEMMA3, "Q8_0"),
    "recurrent": (TINY_MAMBA2, "F16"),
    "hybrid": (TINY_FALCON_H1, "F16"),
    "hybrid, convolutions": (TINY_LFM2, "F16"),
    "encoder, mean": (TINY_BERT, "F16"),
    "encoder, mean, Q8_0": (TINY_BERT, "Q8_0"),
    "encoder, cls": (Bert(pooling="cls"), "F16"),
    "encoder, none": (Bert(pooling="none"), "F16"),
    "encoder, short": (Bert(n_ctx_train=260), "F16"),
    "encoder, scores": (TINY_RERANKER, "F16"),
}
"""A model of each family and pooling, some quantizations, and heads of odd widths."""

_KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
_SWITCH = (False, True)

EDGES: dict[str, tuple[Any, ...]] = {
    "n_ctx": (None, 64, 65, 255, 256, 257, 512, 1_000, 8_191, 8_192, 8_193, 70_000, 16_777_216),
    "n_seq_max": (
        *range(1, 14),
        *(16, 24, 31, 32, 33, 48, 63, 64, 65, 96, 100, 127, 128, 129, 192, 250, 255, 256),
    ),
    "n_batch": (64, 65, 100, 127, 128, 192, 320, 511, 512, 513, 1_000, 2_048, 65_536),
    "n_ubatch": (64, 128, 192, 256, 320, 448, 512, 576, 1_024, 65_536),
    "n_threads": (None, 1, 2, 3, 16, 512),
    "n_threads_batch": (None, 1, 2, 3, 16, 512),
    "flash_attn": (None, False, True),
    "type_k": _KV_TYPES,
    "type_v": _KV_TYPES,
    "kv_unified": _SWITCH,
    "deterministic": _SWITCH,
    "embeddings": _SWITCH,
    "pooling": (None, "none", "mean", "cls", "last", "rank"),
    "swa_full": _SWITCH,
    "rope_scaling": (None, "none", "linear", "yarn", "longrope"),
    "rope_freq_base": (None, 1e-30, 1e-3, 1.0, 10_000.0, 1e12),
    "rope_freq_scale": (None, 1e-30, 1e-6, 0.25, 1.0, 2.0, 1e3),
    "gpu_layers": (-1, 0, 1, 3, 100_000),
    "split_mode": ("none", "layer", "row", "tensor"),
    "main_gpu": (0, 1, 1_000),
    "tensor_split": ((), (0.0,), (1.0,), (1.0, 1e6), (0.0,) * 16),
    "use_mmap": _SWITCH,
    "use_mlock": _SWITCH,
    "vocab_only": _SWITCH,
    "fingerprint_mode": ("safe", "gguf_chunked"),
}
"""Values of each option: its limits, the numbers around llama.cpp's own, and usual ones."""

SMALL: Options = {"n_ctx": 256, "n_batch": 128, "n_ubatch": 64, "n_threads": 1}
"""What is loaded where nothing else is chosen: quick, and one thread waits for no other."""


ROOMY: Options = {"n_batch": 512, "n_ubatch": 512}
"""Rows for as many sequences as there can be."""

BESIDE: dict[str, Options] = {"n_seq_max": ROOMY, "pooling": {"embeddings": True}}
"""What an option needs beside it to be of any effect."""


def edges() -> Iterator[tuple[str, Options]]:
    """Every model with every value of every option by itself."""
    for name in MODELS:
        for option, values in EDGES.items():
            for value in values:
                yield name, BESIDE.get(option, {}) | {option: value}


def mixed(seed: int) -> Iterator[tuple[str, Options]]:
    """Models in turn, each with two to seven options at random; without end."""
    numbers = random.Random(seed)
    while True:
        for name in MODELS:
            chosen = numbers.sample(sorted(EDGES), numbers.choice((2, 2, 3, 4, 7)))
            beside = numbers.choice((ROOMY, {}))
            yield name, beside | {option: numbers.choice(EDGES[option]) for option in chosen}


def path_of(name: str) -> str:
    """The file of a model, which is made if it is not there yet."""
    shape, quant = MODELS[name]
    return str(cached_model(shape, quant))
