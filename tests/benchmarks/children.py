"""Children for the tests of the harness. They import nothing of erllama by themselves."""

from __future__ import annotations

import sys

from benchmarks.child import Config, Orders


def echoing(orders: Orders, config: Config) -> None:
    """Answers what it is told."""
    print("what a library says on stdout is no answer")
    orders.answer({"config": config})
    for order in orders:
        orders.answer({"echo": order})


def failing(orders: Orders, _config: Config) -> None:
    """Fails on its first order."""
    orders.answer({})
    orders.next()
    raise RuntimeError("out of cheese")


def hanging(orders: Orders, _config: Config) -> None:
    """Never answers."""
    orders.answer({})
    while orders.next() is not None:
        pass


def looking_around(orders: Orders, _config: Config) -> None:
    """Tells whether the plain loop brought erllama with it."""
    import benchmarks.plain_loop  # noqa: F401

    orders.answer({"erllama": any(name.partition(".")[0] == "erllama" for name in sys.modules)})


def computing(orders: Orders, config: Config) -> None:
    """Tokens of one prompt by both plain loops, the second one in a stream of its own."""
    from benchmarks.plain_batch import PlainBatch
    from benchmarks.plain_loop import PlainLoop, exact_slices

    orders.answer({})
    for order in orders:
        prompt, count = order["prompt"], order["count"]
        alone = PlainLoop(config["path"], 512)
        alone.choose("greedy")
        text = alone.generate(alone.first_token(prompt, exact_slices(len(prompt))), count)
        batch = PlainBatch(config["path"], 512, 3)
        batch.clear()
        (same,) = batch.generate([batch.prefill(0, prompt)], [len(prompt)], count)
        cut = len(prompt) - len(prompt) % 64
        batch.copy(0, 2)
        batch.truncate(2, cut)
        copied = batch.prefill(2, prompt, cut)
        orders.answer({"plain": text, "batch": same, "copied": copied})
