"""erllama, the plain batch loop and llama-server, side by side on the same orders."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.child import Order
from benchmarks.harness import Options, Side, in_turns, sides
from benchmarks.llama_build import server_program
from benchmarks.models import BenchModel

N_SEQ = 8
N_CTX = 4_096
"""Longest context of one sequence, in tokens."""

TARGETS = {
    "plain": "benchmarks.plain_batch:side",
    "erllama": "benchmarks.erllama_batch:side",
    "server": "benchmarks.llama_server:side",
}

Answers = dict[str, dict[str, Any]]


def long_enough(options: Options) -> list[BenchModel]:
    """The models whose context suffices."""
    return [model for model in options.models if model.n_ctx >= N_CTX]


def ask_all(
    options: Options,
    model: BenchModel,
    rounds: int,
    turns: int,
    order: Order,
    plain_tasks: Sequence[str] = (),
) -> Iterator[Answers]:
    """The answers of all sides to an order, turn after turn, each with another `seed`.

    Args:
        plain_tasks: what the plain loop is asked besides; the answers bear these names.
    """
    for round_ in range(options.rounds_or(rounds)):
        with all_sides(options, model) as children:
            tasks = dict.fromkeys(children, order["task"]) | {task: task for task in plain_tasks}
            for turn, names in in_turns(tuple(tasks), options.times(turns, 2)):
                seed = 1_000_003 * (1_000 * round_ + turn)
                got = {
                    name: children.get(name, children["plain"]).ask(
                        **{**order, "task": tasks[name], "seed": seed}
                    )
                    for name in names
                }
                if turn > 0:  # caches, pages and branch predictors are warmer from here on
                    yield got


@contextlib.contextmanager
def all_sides(options: Options, model: BenchModel) -> Iterator[dict[str, Side]]:
    """A process of each side; llama-server only if it is wanted."""
    config: dict[str, Any] = {"path": str(model.path), "n_ctx": N_CTX, "n_seq": N_SEQ}
    targets = dict(TARGETS)
    if options.peers:
        config["server"] = str(server_program())
    else:
        del targets["server"]
        print("  llama-server: not built (--no-peers)", flush=True)
    with sides(targets, **config) as children:
        yield children


def over(answers: list[Answers], upper: str, lower: str, key: str) -> list[float]:
    """The quotient of a figure of two sides, turn by turn; empty without one of them."""
    return [
        turn[upper][key] / turn[lower][key] for turn in answers if upper in turn and lower in turn
    ]
