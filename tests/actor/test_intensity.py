import pytest

from erllama.actor.intensity import Intensity
from erllama.errors import ConfigError


def test_as_many_restarts_as_the_limit_are_allowed_within_a_period() -> None:
    intensity = Intensity(3, 5.0)
    assert [intensity.allows(now) for now in (0.0, 1.0, 2.0, 3.0)] == [True, True, True, False]


def test_restarts_older_than_the_period_are_forgotten() -> None:
    intensity = Intensity(2, 5.0)
    assert intensity.allows(0.0)
    assert intensity.allows(4.0)
    assert not intensity.allows(5.0)
    assert intensity.allows(5.1)
    assert not intensity.allows(5.2)


def test_a_restart_exactly_one_period_ago_still_counts() -> None:
    intensity = Intensity(1, 5.0)
    assert intensity.allows(1.0)
    assert not intensity.allows(6.0)
    assert intensity.allows(6.5)


def test_a_limit_of_zero_allows_none() -> None:
    assert not Intensity(0, 5.0).allows(0.0)


@pytest.mark.parametrize(("limit", "period"), [(-1, 5.0), (3, 0.0), (3, -1.0), (3, float("nan"))])
def test_values_that_cannot_be_used_are_refused(limit: int, period: float) -> None:
    with pytest.raises(ConfigError, match="must be"):
        Intensity(limit, period)
