"""llama.cpp's own sampler chain for a plan: what erllama's is compared with.

Samplers start no parallel region, so tests may call them on any thread.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from erllama.backend.llama.library import llama
from erllama.sampling import (
    Dry,
    Grammar,
    Greedy,
    LogitBias,
    MinP,
    Mirostat,
    Penalties,
    SamplerPlan,
    Stage,
    Temperature,
    TopK,
    TopP,
    Typical,
    Xtc,
)
from erllama.sampling.seeds import xtc_seed

CANDIDATE = np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])  # llama_token_data


def candidates(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    made = np.zeros(len(logits), CANDIDATE)
    made["id"] = np.arange(len(logits))
    made["logit"] = logits
    return made


def apply(sampler: Any, table: np.ndarray[Any, Any]) -> Any:
    """The candidates as the sampler leaves them, in `table`'s memory."""
    lib = llama()
    data = ctypes.cast(table.ctypes.data, ctypes.POINTER(lib.llama_token_data))
    array = lib.llama_token_data_array(data=data, size=len(table), selected=-1, sorted=False)
    lib.llama_sampler_apply(sampler, ctypes.byref(array))
    return array


def native_draw(
    plan: SamplerPlan,
    logits: np.ndarray[Any, Any],
    seed: int,
    history: Sequence[int] = (),
    vocab: Any = None,
) -> int:
    """What llama.cpp's chain draws, with the candidates ranked before the draw."""
    lib = llama()
    n = len(logits)
    chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
    for stage in plan.stages:
        lib.llama_sampler_chain_add(chain, _native(stage, n, seed, len(history), vocab))
    for token in history:
        lib.llama_sampler_accept(chain, token)
    if not plan.stages or not isinstance(plan.stages[-1], Greedy | Mirostat):
        lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_top_k(n))
        lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_dist(seed))
    table = candidates(logits)
    array = apply(chain, table)
    token = int(array.data[array.selected].id)
    lib.llama_sampler_free(chain)
    return token


def native_chooser(
    plan: SamplerPlan, n: int, history: Sequence[int]
) -> Callable[[np.ndarray[Any, Any], int], int]:
    """llama.cpp's chain as a program would use it: made once, seeded once, never freed."""
    lib = llama()
    chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
    for stage in plan.stages:
        lib.llama_sampler_chain_add(chain, _native(stage, n, 1, len(history), None))
    if not plan.stages or not isinstance(plan.stages[-1], Greedy | Mirostat):
        lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_dist(1))
    for token in history:
        lib.llama_sampler_accept(chain, token)

    def choose(logits: np.ndarray[Any, Any], _: int) -> int:
        table = candidates(logits)
        array = apply(chain, table)
        token = int(array.data[array.selected].id)
        lib.llama_sampler_accept(chain, token)
        return token

    return choose


def native_logits(stage: Stage, vocab: Any, n: int, history: Sequence[int]) -> np.ndarray[Any, Any]:
    """Logits of zero, as one stage of llama.cpp's leaves them."""
    lib = llama()
    sampler = _native(stage, n, 0, len(history), vocab)
    for token in history:
        lib.llama_sampler_accept(sampler, token)
    table = candidates(np.zeros(n))
    apply(sampler, table)
    lib.llama_sampler_free(sampler)
    found: np.ndarray[Any, Any] = table["logit"]
    return found


def _native(stage: Stage, n: int, seed: int, n_history: int, vocab: Any) -> Any:
    lib = llama()
    match stage:
        case LogitBias(tokens, values, banned):
            pairs = [*zip(tokens, values, strict=True), *((token, -math.inf) for token in banned)]
            array = (lib.llama_logit_bias * len(pairs))(*pairs)
            return lib.llama_sampler_init_logit_bias(n, len(pairs), array)
        case Grammar(text):
            return lib.llama_sampler_init_grammar(vocab, text.encode(), b"root")
        case Penalties(last_n, repeat, frequency, presence):
            window = n_history if last_n < 0 else last_n
            return lib.llama_sampler_init_penalties(n, window, repeat, frequency, presence)
        case Dry(multiplier, base, allowed, last_n, breakers):
            window = n_history if last_n < 0 else last_n
            texts = (ctypes.c_char_p * len(breakers))(*(text.encode() for text in breakers))
            return lib.llama_sampler_init_dry(
                vocab, multiplier, base, allowed, window, texts, len(breakers)
            )
        case TopK(k):
            return lib.llama_sampler_init_top_k(k)
        case Typical(p):
            return lib.llama_sampler_init_typical(p, 1)
        case TopP(p):
            return lib.llama_sampler_init_top_p(p, 1)
        case MinP(p):
            return lib.llama_sampler_init_min_p(p, 1)
        case Xtc(probability, threshold):
            return lib.llama_sampler_init_xtc(probability, threshold, 1, xtc_seed(seed))
        case Temperature(t):
            return lib.llama_sampler_init_temp(t)
        case Mirostat(1, tau, eta):
            return lib.llama_sampler_init_mirostat(n, seed, tau, eta, 100)
        case Mirostat(_, tau, eta):
            return lib.llama_sampler_init_mirostat_v2(seed, tau, eta)
        case Greedy():
            return lib.llama_sampler_init_greedy()
    raise NotImplementedError(stage)
