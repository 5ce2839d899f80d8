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
