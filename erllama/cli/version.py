"""`erllama --version`."""

from __future__ import annotations

import asyncio
import platform

import erllama
from erllama.cli.output import Output


async def show_version() -> int:
    """Print what of erllama and below it is in use; returns the exit code.

    Raises:
        OutputClosed: nobody reads the output.
    """
    lines = await asyncio.to_thread(version_lines)
    await Output().write("".join(f"{line}\n" for line in lines))
    return 0


def version_lines() -> list[str]:
    """erllama, Python, the bindings, llama.cpp, and what it uses of the processor."""
    lines = [f"erllama {erllama.__version__}", f"Python {platform.python_version()}"]
    try:
        return lines + _native_lines()
    except Exception as wrong:  # who reports that it does not load has to say the rest too
        return [*lines, f"llama-cpp-python cannot be loaded: {wrong}"]


def _native_lines() -> list[str]:
    from erllama.backend.llama.build import bindings, features_in_force, llama_cpp_build
    from erllama.backend.llama.release import is_tested

    release = bindings()
    remark = "" if is_tested(release) else " (not tested with this erllama)"
    return [
        f"llama-cpp-python {release}{remark}",
        llama_cpp_build(),
        *(f"{name}: {', '.join(found)}" for name, found in features_in_force().items()),
    ]
