"""Loading the native library, and what that does to the process."""

from __future__ import annotations

import gc

from tests.models.child import run_child


def load(disable: bool, freeze: bool) -> tuple[bool, int, int]:
    """Load the library; whether the collector runs then, and what was put aside before and then."""
    from erllama.backend.llama.library import llama

    if disable:
        gc.disable()
    if freeze:
        gc.freeze()
    before = gc.get_freeze_count()
    llama()
    return gc.isenabled(), before, gc.get_freeze_count()


def loaded(*, disable: bool = False, freeze: bool = False) -> tuple[bool, int, int]:
    enabled, before, after = run_child(load, disable, freeze).value
    return enabled, before, after


def test_what_was_imported_is_put_aside_from_collections() -> None:
    enabled, before, after = loaded()
    assert enabled
    assert before < 1_000, "Python itself has frozen few"
    assert after > 10_000


def test_a_program_that_switched_the_collector_off_is_left_as_it_is() -> None:
    enabled, before, after = loaded(disable=True)
    assert not enabled
    assert after <= before < 1_000


def test_a_program_that_put_objects_aside_itself_is_left_as_it_is() -> None:
    enabled, before, after = loaded(freeze=True)
    assert enabled
    assert 2_000 < after <= before  # fewer, where some were freed
