"""Eight agents at once on the same long prefix that nobody has seen before.

The time from the first request to the last token of the last. The plain loop computes the prefix
once, copies it, computes the tails one by one and goes on in steps of eight rows. `staggered` is
the same loop with a step after each tail, as a bound on the pause of a running stream asks for.
"""

from __future__ import annotations

from typing import Any

from benchmarks.harness import Figure, Options, Target, middle
from benchmarks.models import BenchModel
from benchmarks.peers import N_SEQ, TARGETS, Answers, ask_all, long_enough, over

NAME = "shared_prefix"
PREFIX = 1_024
TAIL = 32
COUNT = 32


def run(options: Options) -> list[Figure]:
    return [figure for model in long_enough(options) for figure in _measure(options, model)]


def _measure(options: Options, model: BenchModel) -> list[Figure]:
    order = {
        "task": "agents",
        "n": N_SEQ,
        "prefix": options.times(PREFIX, 128),
        "tail": TAIL,
        "count": options.times(COUNT, 8),
    }
    answers = list(ask_all(options, model, 3, 4, order, ["agents_staggered"]))
    by_rule = over(answers, "erllama", "agents_staggered", "seconds")
    slower = over(answers, "erllama", "plain", "seconds")
    faster = over(answers, "server", "erllama", "seconds")
    figures = [_figure(model, "time, erllama/plain loop", slower, Target("below", 1.1), answers)]
    figures.append(_figure(model, "time, erllama/staggered loop", by_rule, None, answers))
    if faster:
        target = Target("at least", 3.0)
        figures.append(_figure(model, "time, llama-server/erllama", faster, target, answers))
    return figures


def _figure(
    model: BenchModel,
    name: str,
    ratios: list[float],
    target: Target | None,
    answers: list[Answers],
) -> Figure:
    detail: dict[str, Any] = {
        f"{side}_s": middle([turn[side]["seconds"] for turn in answers])
        for side in TARGETS
        if side in answers[0]
    }
    detail |= {
        "plain_prefill_s": middle([turn["plain"]["prefill"] for turn in answers]),
        "turns": len(ratios),
        "spread": [min(ratios), max(ratios)],
    }
    return Figure(
        NAME,
        f"{model.name}: {N_SEQ} agents, {name}",
        middle(ratios),
        "times",
        target if model.name == "m125" else None,
        detail,
    )
