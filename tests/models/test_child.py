"""A child process reports what it returned, or how it ended."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from .child import ChildFailed, run_child


def _double(number: int) -> dict[str, int]:
    print("noise without a line end", end="")
    return {"twice": 2 * number, "pid": os.getpid()}


def _raise() -> None:
    raise LookupError("nothing here")


def test_a_function_runs_in_another_process() -> None:
    value = run_child(_double, 21).value
    assert value["twice"] == 42
    assert value["pid"] != os.getpid()


def test_a_script_gets_its_arguments_and_environment() -> None:
    code = "import json, os, sys; print(json.dumps([sys.argv[1:], os.environ['COLOUR']]))"
    assert run_child(code, 1, "b", env={"COLOUR": "red"}).value == [["1", "b"], "red"]


def test_an_exception_is_in_the_tail_of_stderr() -> None:
    done = run_child(_raise)
    assert done.signal is None
    with pytest.raises(ChildFailed, match=r"exit status 1(.|\n)*nothing here"):
        done.check()


def test_a_signal_is_reported_with_the_stack() -> None:
    done = run_child("import ctypes; ctypes.string_at(0)")
    assert done.signal is signal.SIGSEGV
    with pytest.raises(ChildFailed, match=r"SIGSEGV(.|\n)*string_at"):
        _ = done.value


def test_a_child_that_hangs_is_killed() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        run_child("import time; time.sleep(60)", timeout=0.3)
