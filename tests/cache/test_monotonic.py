from erllama.cache.monotonic import MonotonicElapsed


def test_time_passes_as_the_clock_goes_forward() -> None:
    elapsed = MonotonicElapsed()
    assert [elapsed.at(now) for now in (5.0, 6.5, 10.0)] == [0.0, 1.5, 5.0]


def test_a_clock_that_goes_back_stands_still_and_then_goes_on() -> None:
    elapsed = MonotonicElapsed()
    readings = [elapsed.at(now) for now in (100.0, 130.0, 10.0, 10.0, 15.0)]
    assert readings == [0.0, 30.0, 30.0, 30.0, 35.0]
