"""Tokens per second of 1, 4 and 8 streams at once.

All prompts come at the same moment; the time runs until the last token of the last stream, so the
prompts count. Greedily the plain loop must produce the same tokens as erllama where no other
company changes the last bits: with one stream.

The plain loop reads all prompts before anybody generates. `staggered` is the same loop with a step
after each prompt, as a bound on the pause of a running stream asks for: so some steps have few
rows, and what that costs has nothing to do with erllama.
"""

from __future__ import annotations

from typing import Any

from benchmarks.harness import Figure, Options, Target, middle
from benchmarks.models import BenchModel
from benchmarks.peers import Answers, ask_all, long_enough, over

NAME = "many_streams"
AGAINST = {
    "plain": Target("at least", 0.97),
    "staggered": None,
    "server": Target("at least", 1.0),
}
STREAMS = (1, 4, 8)
PROMPT = 64
COUNT = 64


def run(options: Options) -> list[Figure]:
    return [
        figure
        for model in long_enough(options)
        for streams in STREAMS
        for figure in _measure(options, model, streams)
    ]


def _measure(options: Options, model: BenchModel, streams: int) -> list[Figure]:
    count = options.times(COUNT, 8)
    order = {"task": "streams", "n": streams, "prompt": PROMPT, "count": count}
    others = ["staggered"] if streams > 1 else []
    answers = list(ask_all(options, model, 3, 6, order, others))
    return [
        _figure(answers, model, streams, against, target, streams * count)
        for against, target in AGAINST.items()
        if against in answers[0]
    ]


def _figure(
    answers: list[Answers],
    model: BenchModel,
    streams: int,
    against: str,
    target: Target | None,
    tokens: int,
) -> Figure:
    ratios = over(answers, against, "erllama", "seconds")
    detail: dict[str, Any] = {
        name: tokens / middle([turn[name]["seconds"] for turn in answers]) for name in answers[0]
    }
    detail |= {"turns": len(ratios), "spread": [min(ratios), max(ratios)]}
    if against == "plain":
        same = [turn["plain"]["texts"] == turn["erllama"]["texts"] for turn in answers]
        detail["same_tokens"] = f"{sum(same)} of {len(same)}"
    return Figure(
        NAME,
        f"{model.name}: {streams} streams, erllama/{_called(against)}",
        middle(ratios),
        "of rate",
        target if model.name == "m125" else None,
        detail,
    )


def _called(side: str) -> str:
    return {"plain": "plain loop", "staggered": "staggered loop", "server": "llama-server"}[side]
