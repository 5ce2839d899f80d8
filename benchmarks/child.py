"""The child's end of a benchmark: one order a line on stdin, one answer a line on stdout.

Imports nothing that is measured: a child has loaded what its own function loads, no more.

    python -m benchmarks.child MODULE:FUNCTION CONFIG

calls the function with the orders and the configuration (JSON). What anything else prints to
stdout goes to stderr.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import random
import statistics
import sys
from collections.abc import Iterator
from typing import Any, TextIO

Config = dict[str, Any]
Order = dict[str, Any]
Answer = dict[str, Any]


class Orders:
    """What the parent asks, in turn; each must be answered before the next is read."""

    def __init__(self, source: TextIO, sink: TextIO) -> None:
        self._source = source
        self._sink = sink

    def __iter__(self) -> Iterator[Order]:
        while (order := self.next()) is not None:
            yield order

    def next(self) -> Order | None:
        """The next order; None once there are no more. Blocks."""
        line = self._source.readline()
        return json.loads(line) if line else None

    def answer(self, answer: Answer) -> None:
        """Answer the latest order; before the first one: tell that all is ready."""
        self._sink.write(json.dumps(answer) + "\n")
        self._sink.flush()


class Rate:
    """Tokens per second, over as many texts as it takes: a model may end one early."""

    def __init__(self) -> None:
        self.tokens = 0
        self._seconds = 0.0
        self._intervals: list[float] = []
        self._texts: list[list[int]] = []

    def seed(self, order: Order) -> int:
        """The seed of the next prompt."""
        return int(order["seed"]) + 1_000_003 * len(self._texts)

    def add(self, text: list[int], tokens: int, times: list[float]) -> None:
        """A text: its tokens after the first of `times`, at which its pieces came."""
        self._texts.append(text)
        if len(times) < 2:
            return
        self.tokens += tokens
        self._seconds += times[-1] - times[0]
        self._intervals += (after - before for before, after in itertools.pairwise(times))

    def answer(self) -> Answer:
        return {
            "rate": self.tokens / self._seconds,
            "interval": statistics.median(self._intervals),
            "texts": self._texts,
        }


def random_prompt(length: int, seed: int, n_vocab: int) -> list[int]:
    """Token ids from the middle of the vocabulary, where no special tokens are."""
    source = random.Random(seed)
    return [source.randrange(n_vocab // 8, n_vocab * 7 // 8) for _ in range(length)]


def stream_prompts(order: Order, n_vocab: int) -> list[list[int]]:
    """`n` prompts that have nothing in common."""
    seeds = range(order["seed"], order["seed"] + order["n"])
    return [random_prompt(order["prompt"], seed, n_vocab) for seed in seeds]


def agent_prompts(order: Order, n_vocab: int) -> list[list[int]]:
    """`n` prompts that begin with the same `prefix` tokens and have `tail` of their own."""
    prefix = random_prompt(order["prefix"], order["seed"], n_vocab)
    seeds = range(order["seed"] + 1, order["seed"] + 1 + order["n"])
    return [prefix + random_prompt(order["tail"], seed, n_vocab) for seed in seeds]


def longest_gap(times: list[float], start: float, end: float) -> float:
    """The longest time between two neighbours of `times` that overlaps start to end, in seconds."""
    pairs = itertools.pairwise(times)
    return max((b - a for a, b in pairs if b > start and a < end), default=end - start)


def main() -> None:
    module, _, function = sys.argv[1].partition(":")
    config: Config = json.loads(sys.argv[2])
    sink = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    orders = Orders(sys.stdin, sink)
    getattr(importlib.import_module(module), function)(orders, config)


if __name__ == "__main__":
    main()
