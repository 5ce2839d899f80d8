"""How the next token is chosen: parameters, the plan of a chain, position-keyed draws. Pure."""

from erllama.sampling.params import SamplingParams
from erllama.sampling.plan import (
    Greedy,
    MinP,
    SamplerPlan,
    Stage,
    Temperature,
    TopK,
    TopP,
    plan_sampler,
)
from erllama.sampling.seeds import draw_seed, fresh_seed

__all__ = [
    "Greedy",
    "MinP",
    "SamplerPlan",
    "SamplingParams",
    "Stage",
    "Temperature",
    "TopK",
    "TopP",
    "draw_seed",
    "fresh_seed",
    "plan_sampler",
]
