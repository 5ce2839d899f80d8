import math

import pytest

from erllama.actor import Actor, ChildSpec
from erllama.errors import ConfigError


def test_the_defaults_suit_most_children() -> None:
    spec = ChildSpec("id", Actor)
    assert (spec.restart, spec.shutdown, spec.mailbox_capacity, spec.name) == (
        "permanent",
        5.0,
        256,
        None,
    )


@pytest.mark.parametrize("shutdown", [0.0, math.inf])
def test_a_child_may_get_no_time_or_all_the_time_to_end(shutdown: float) -> None:
    assert ChildSpec("id", Actor, shutdown=shutdown).shutdown == shutdown


def test_a_child_needs_an_id() -> None:
    with pytest.raises(ConfigError, match="id that is not empty"):
        ChildSpec("", Actor)


def test_an_unknown_restart_type_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="one of permanent, transient, temporary, not 'always'"):
        ChildSpec("id", Actor, restart="always")  # type: ignore[arg-type]


@pytest.mark.parametrize("shutdown", [-0.1, math.nan])
def test_a_shutdown_that_is_no_duration_is_refused(shutdown: float) -> None:
    with pytest.raises(ConfigError, match="'id': shutdown must be 0 seconds or more"):
        ChildSpec("id", Actor, shutdown=shutdown)


def test_a_mailbox_without_a_place_is_refused() -> None:
    with pytest.raises(ConfigError, match="'id': mailbox_capacity must be at least 1"):
        ChildSpec("id", Actor, mailbox_capacity=0)
