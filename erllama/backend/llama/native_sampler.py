"""llama.cpp's own sampler chain, for the plans that it carries out as well and faster.

That is a chain which keeps a few candidates first (top_k) and has nothing that looks back: one
native call in place of a dozen of numpy. The tokens are the same (tests/backend/test_chain.py).
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import numpy as np

from erllama.backend.llama.library import brief, llama
from erllama.errors import DecodeFailed
from erllama.sampling import MinP, SamplerPlan, Stage, Temperature, TopK, TopP
from erllama.sampling.running import Floats
from erllama.types import TokenLogprobs

_MIN_KEEP = 1
_REARMING = (
    "llama_sampler_chain_remove",
    "llama_sampler_free",
    "llama_sampler_init_dist",
    "llama_sampler_chain_add",
)
_TOKEN_DATA = np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])  # llama_token_data, llama.h
_NATIVE = (TopK, TopP, MinP, Temperature)


@functools.cache
def _rearming() -> list[Any]:
    """What puts another draw at the end of a chain."""
    return [brief(getattr(llama(), name)) for name in _REARMING]


def is_native(plan: SamplerPlan) -> bool:
    """Whether a chain of llama.cpp does for a plan."""
    stages = plan.stages
    return (
        plan.logprobs is None
        and bool(stages)
        and isinstance(stages[0], TopK)
        and all(isinstance(stage, _NATIVE) for stage in stages)
    )


class NativeSampler:
    """See `erllama.backend.llama.sampler.Sampler`. Dropped on the lane, with its native chain.

    The last stage, the draw, is replaced for every token by one with that token's seed (4 µs), so
    that the random number depends on nothing else.
    """

    mu = None

    def __init__(self, plan: SamplerPlan) -> None:
        self._llama = llama()
        self._remove, self._free, self._seeded, self._add = _rearming()
        self._armed = False
        parameters = self._llama.llama_sampler_chain_default_params()
        parameters.no_perf = True
        self._chain = self._llama.llama_sampler_chain_init(parameters)
        self._stages = len(plan.stages)
        for stage in plan.stages:
            self._llama.llama_sampler_chain_add(self._chain, self._native(stage))

    def sample_row(self, context: Any, row: int, seed: int) -> int:
        """Draw a token from the logits of a batch row, which must have some."""
        self._arm(seed)
        return int(self._llama.llama_sampler_sample(self._chain, context, row))

    def sample(self, logits: Floats, seed: int) -> tuple[int, TokenLogprobs | None]:
        """Draw a token from `logits`, one for each token of the vocabulary.

        What `llama_sampler_sample` does with the logits of a context (src/llama-sampler.cpp).
        """
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
        return int(array.data[array.selected].id), None

    def __del__(self) -> None:
        self._llama.llama_sampler_free(self._chain)

    def _arm(self, seed: int) -> None:
        if self._armed:
            self._free(self._remove(self._chain, self._stages))
        self._add(self._chain, self._seeded(seed))
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
        raise ValueError(f"llama.cpp has no such stage as {stage}")
