"""`--quiet`: what else is on standard error."""

from __future__ import annotations

import logging

import pytest

from erllama.cli.app import _hush


@pytest.mark.parametrize("quiet", [True, False])
def test_a_quiet_command_shows_errors_and_no_warnings(
    caplog: pytest.LogCaptureFixture, quiet: bool
) -> None:
    caplog.set_level(logging.WARNING, "erllama")  # put back after the test
    assert _hush(quiet) is quiet
    assert logging.getLogger("erllama.model").isEnabledFor(logging.ERROR)
    assert logging.getLogger("erllama.model").isEnabledFor(logging.WARNING) is not quiet
