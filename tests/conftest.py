"""What every test gets: a guard against callbacks that block the loop, and the --long switch."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from erllama.actor.testing import forbid_blocked_loop


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run crash, soak and fuzz tests at length")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long"):
        return
    skip = pytest.mark.skip(reason="a long run: give --long")
    for item in items:
        if "long" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def loop_never_blocked() -> Iterator[None]:
    """Fail a test in which one callback burns more than 50 ms of the loop thread's CPU time."""
    with forbid_blocked_loop():
        yield
