"""`erllama --version`."""

from __future__ import annotations

import platform
import re
import sys
from typing import Any

import erllama
from tests.cli.child import run_erllama
from tests.models.child import run_child


def test_versions_and_what_is_used_of_the_processor() -> None:
    child = run_erllama("--version", ERLLAMA_AMX="0")
    assert (child.process.returncode, child.seen("stderr")) == (0, "")
    first, python, bindings, native, *backends = child.seen("stdout").splitlines()
    assert first == f"erllama {erllama.__version__}"
    assert python == f"Python {platform.python_version()}"
    assert re.fullmatch(r"llama-cpp-python \d+\.\d+\.\d+", bindings)
    assert re.fullmatch(r"llama\.cpp \S+ \([0-9a-f]{7,}(-dirty)?\)", native)
    (cpu,) = (line for line in backends if line.startswith("CPU: "))
    assert not [feature for feature in cpu.removeprefix("CPU: ").split(", ") if "=" in feature]
    assert "AMX" not in cpu, "its kernels are left out, whether or not the processor has it"


def without_a_model(version: str) -> tuple[list[str], bool]:
    """The lines where loading a model would raise; and whether a compute thread runs."""
    import threading

    import llama_cpp.llama_cpp as lib

    from erllama.cli.version import version_lines

    def refuse(*_: Any) -> Any:
        raise AssertionError("a model is loaded")

    lib.llama_model_load_from_file = lib.llama_init_from_model = refuse
    llama_cpp = sys.modules["llama_cpp"]
    llama_cpp.__version__ = version  # type: ignore[attr-defined]
    lines = version_lines()
    return lines, any("lane" in thread.name for thread in threading.enumerate())


def test_no_model_is_loaded_and_an_untested_release_is_named() -> None:
    lines, computes = run_child(without_a_model, "0.3.99").value
    assert "llama-cpp-python 0.3.99 (not tested with this erllama)" in lines
    assert lines[-1].startswith("CPU: ")
    assert not computes


def broken_library() -> list[str]:
    from erllama.cli.version import version_lines

    sys.modules["llama_cpp"] = None  # type: ignore[assignment]
    return version_lines()


def test_where_the_library_does_not_load_the_rest_is_told() -> None:
    first, _, last = run_child(broken_library).value
    assert first == f"erllama {erllama.__version__}"
    assert last.startswith("llama-cpp-python cannot be loaded: ")
