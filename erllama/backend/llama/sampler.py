"""Sampler chains.

A chain is built once per request from its plan. The last stage, the draw, is replaced for every
token by one with that token's seed (4 µs), so that the random number depends on nothing else.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from erllama.backend.llama.library import llama
from erllama.errors import DecodeFailed
from erllama.sampling import Greedy, MinP, SamplerPlan, Stage, Temperature, TopK, TopP

_MIN_KEEP = 1
_TOKEN_DATA = np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])  # llama_token_data, llama.h


class SamplerChain:
    """Owns one native chain until `free`."""

    def __init__(self, plan: SamplerPlan) -> None:
        self._llama = llama()
        self._draws = plan.draws
        self._armed = False
        parameters = self._llama.llama_sampler_chain_default_params()
        parameters.no_perf = True
        self._chain = self._llama.llama_sampler_chain_init(parameters)
        self._stages = len(plan.stages)
        for stage in plan.stages:
            self._llama.llama_sampler_chain_add(self._chain, self._native(stage))

    def sample(self, context: Any, row: int, seed: int) -> int:
        """Draw a token from the logits of batch row `row`, which must have some."""
        if self._draws:
            self._arm(seed)
        return int(self._llama.llama_sampler_sample(self._chain, context, row))

    def sample_from(self, logits: np.ndarray[Any, np.dtype[np.float32]], seed: int) -> int:
        """Draw a token from `logits`, one for each token of the vocabulary.

        What `llama_sampler_sample` does with the logits of a context (src/llama-sampler.cpp).
        """
        if self._draws:
            self._arm(seed)
        candidates = np.empty(len(logits), _TOKEN_DATA)
        candidates["id"] = np.arange(len(logits), dtype=np.int32)
        candidates["logit"] = logits
        candidates["p"] = 0
        lib = self._llama
        data = ctypes.cast(candidates.ctypes.data, ctypes.POINTER(lib.llama_token_data))
        array = lib.llama_token_data_array(data=data, size=len(logits), selected=-1, sorted=False)
        lib.llama_sampler_apply(self._chain, ctypes.byref(array))
        if not 0 <= array.selected < array.size:
            raise DecodeFailed("the sampler chose no token")
        token = int(array.data[array.selected].id)
        lib.llama_sampler_accept(self._chain, token)
        return token

    def free(self) -> None:
        if self._chain is not None:
            self._llama.llama_sampler_free(self._chain)
            self._chain = None

    def _arm(self, seed: int) -> None:
        if self._armed:
            old = self._llama.llama_sampler_chain_remove(self._chain, self._stages)
            self._llama.llama_sampler_free(old)
        self._llama.llama_sampler_chain_add(self._chain, self._llama.llama_sampler_init_dist(seed))
        self._armed = True

    def _native(self, stage: Stage) -> Any:
        match stage:
            case TopK(k):
                return self._llama.llama_sampler_init_top_k(k)
            case TopP(p):
                return self._llama.llama_sampler_init_top_p(p, _MIN_KEEP)
            case MinP(p):
                return self._llama.llama_sampler_init_min_p(p, _MIN_KEEP)
            case Temperature(t):
                return self._llama.llama_sampler_init_temp(t)
            case Greedy():
                return self._llama.llama_sampler_init_greedy()
