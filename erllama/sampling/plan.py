"""The plan of a sampler chain: which stages, in which order.

A plan is plain data, so that it can travel to an engine in another process. The engine builds
the chain; the seed of each draw comes with the step that draws.
"""

from __future__ import annotations

import msgspec

from erllama.sampling.params import SamplingParams

COLDEST = 1e-30
"""Below this temperature the logits overflow; a draw there would be greedy anyway."""


class TopK(msgspec.Struct, frozen=True, tag=True):
    """Keep the `k` likeliest tokens."""

    k: int


class TopP(msgspec.Struct, frozen=True, tag=True):
    """Keep the smallest set of tokens whose probabilities sum to `p` (Holtzman et al. 2020)."""

    p: float


class MinP(msgspec.Struct, frozen=True, tag=True):
    """Drop tokens less probable than `p` times the likeliest one (Nguyen et al. 2024)."""

    p: float


class Temperature(msgspec.Struct, frozen=True, tag=True):
    """Divide the logits by `t` (> 0)."""

    t: float


class Greedy(msgspec.Struct, frozen=True, tag=True):
    """Take the likeliest token; ends a chain and needs no draw."""


Stage = TopK | TopP | MinP | Temperature | Greedy


class SamplerPlan(msgspec.Struct, frozen=True):
    """The stages of a chain, first to last; one that does not end in `Greedy` ends in a draw."""

    stages: tuple[Stage, ...]

    @property
    def draws(self) -> bool:
        """Whether choosing a token takes a random number."""
        return not (self.stages and isinstance(self.stages[-1], Greedy))


def plan_sampler(params: SamplingParams) -> SamplerPlan:
    """The chain for `params`; stages that would change nothing are left out."""
    if params.temperature < COLDEST:
        return SamplerPlan((Greedy(),))
    stages: list[Stage] = []
    if params.top_k > 0:
        stages.append(TopK(params.top_k))
    if params.top_p < 1:
        stages.append(TopP(params.top_p))
    if params.min_p > 0:
        stages.append(MinP(params.min_p))
    if params.temperature != 1:
        stages.append(Temperature(params.temperature))
    return SamplerPlan(tuple(stages))
