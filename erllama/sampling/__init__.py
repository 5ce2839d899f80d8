"""How the next token is chosen: parameters, the plan of a chain, position-keyed draws. Pure.

What computes with logits (`chain` and below) needs numpy and is imported by its user, not here.
"""

from erllama.sampling.params import SamplingParams
from erllama.sampling.plan import (
    Dry,
    Grammar,
    Greedy,
    IgnoreEnd,
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
    check_biases,
    plan_sampler,
)
from erllama.sampling.seeds import draw_seed, fresh_seed

__all__ = [
    "Dry",
    "Grammar",
    "Greedy",
    "IgnoreEnd",
    "LogitBias",
    "MinP",
    "Mirostat",
    "Penalties",
    "SamplerPlan",
    "SamplingParams",
    "Stage",
    "Temperature",
    "TopK",
    "TopP",
    "Typical",
    "Xtc",
    "check_biases",
    "draw_seed",
    "fresh_seed",
    "plan_sampler",
]
