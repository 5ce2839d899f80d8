"""The longest gap in a running stream while a prompt of 3,000 tokens arrives.

The running stream has had its first tokens when the prompt comes; the gap is the longest between
two of its tokens until the prompt's own first token. No side can do better than the finest exact
slice allows: the plain loop computes the same prompt by granules of 64, with a step of the stream
after each, and what the last granules and their steps take is the bound, unless
`decode_stall_ms` is more. What the prompt pays for it: its first token, against the same alone.

What is left of a prompt behind its last granule is computed by itself, as the exact-slicing rule
has it. The longest gap is also set against the longest of both.
"""

from __future__ import annotations

from typing import Any

from benchmarks.harness import Figure, Options, Target, middle
from benchmarks.models import BenchModel
from benchmarks.peers import Answers, ask_all, long_enough, over

NAME = "stall"
PROMPT = 3_000
SHORT = 64
COUNT = 1_000
"""Tokens that the running stream may have: it should not end before the prompt's first token."""

BEFORE = 16
DECODE_STALL_S = 0.1
"""The default of `decode_stall_ms`."""

DEEP = 5
"""So many granules at the end of the prompt give the bound."""


def run(options: Options) -> list[Figure]:
    return [figure for model in long_enough(options) for figure in _measure(options, model)]


def _measure(options: Options, model: BenchModel) -> list[Figure]:
    order = {
        "task": "stall",
        "prompt": options.times(PROMPT, 400),
        "short": SHORT,
        "count": COUNT,
        "before": BEFORE,
    }
    answers = list(ask_all(options, model, 3, 3, order))
    for turn in answers:
        turn["plain"]["bound"] = max(DECODE_STALL_S, middle(turn["plain"]["steps"][-DEEP:]))
        turn["plain"]["longest"] = max(turn["plain"]["bound"], turn["plain"]["tail"])
        turn["erllama"]["slower"] = turn["erllama"]["first"] / turn["erllama"]["alone"]
    figures = [_gap(model, answers), _by_rule(model, answers), _first(model, answers)]
    if "server" in answers[0]:
        figures.append(_against_server(model, answers))
    return figures


def _gap(model: BenchModel, answers: list[Answers]) -> Figure:
    ratios = [turn["erllama"]["gap"] / turn["plain"]["bound"] for turn in answers]
    gaps = [turn["erllama"]["gap"] * 1e3 for turn in answers]
    detail: dict[str, Any] = {
        "erllama_ms": middle(gaps),
        "worst_ms": max(gaps),
        "bound_ms": middle([turn["plain"]["bound"] * 1e3 for turn in answers]),
        "granule_and_step_at_0_ms": middle([turn["plain"]["steps"][0] * 1e3 for turn in answers]),
        "ended_early": sum(turn["erllama"]["over"] for turn in answers),
        **_spread(ratios),
    }
    return _figure(model, "longest gap, erllama/bound", ratios, Target("below", 1.25), detail)


def _by_rule(model: BenchModel, answers: list[Answers]) -> Figure:
    ratios = [turn["erllama"]["gap"] / turn["plain"]["longest"] for turn in answers]
    detail: dict[str, Any] = {
        "tail_and_step_ms": middle([turn["plain"]["tail"] * 1e3 for turn in answers]),
        **_spread(ratios),
    }
    name = "longest gap, erllama/longest slice of the rule and a step"
    return _figure(model, name, ratios, Target("below", 1.25), detail)


def _first(model: BenchModel, answers: list[Answers]) -> Figure:
    ratios = [turn["erllama"]["slower"] for turn in answers]
    detail: dict[str, Any] = {
        "beside_a_stream_s": middle([turn["erllama"]["first"] for turn in answers]),
        "alone_s": middle([turn["erllama"]["alone"] for turn in answers]),
        "plain_alone_s": middle([turn["plain"]["alone"] for turn in answers]),
        "plain_by_granules_s": middle([sum(turn["plain"]["steps"]) for turn in answers]),
        **_spread(ratios),
    }
    name = "the prompt's first token, beside a stream/alone"
    return _figure(model, name, ratios, Target("below", 1.35), detail)


def _against_server(model: BenchModel, answers: list[Answers]) -> Figure:
    ratios = over(answers, "server", "erllama", "gap")
    detail: dict[str, Any] = {
        "server_ms": middle([turn["server"]["gap"] * 1e3 for turn in answers]),
        "server_first_s": middle([turn["server"]["first"] for turn in answers]),
        "server_alone_s": middle([turn["server"]["alone"] for turn in answers]),
        **_spread(ratios),
    }
    return _figure(model, "longest gap, llama-server/erllama", ratios, None, detail)


def _spread(ratios: list[float]) -> dict[str, Any]:
    return {"turns": len(ratios), "spread": [min(ratios), max(ratios)]}


def _figure(
    model: BenchModel,
    name: str,
    ratios: list[float],
    target: Target | None,
    detail: dict[str, Any],
) -> Figure:
    return Figure(
        NAME,
        f"{model.name}: {name}",
        middle(ratios),
        "times",
        target if model.name == "m125" else None,
        detail,
    )
