"""Which releases of llama-cpp-python erllama is tested with.

Each vendors a build of llama.cpp of its own. On these the self-tests at load pass, and so do
`pytest tests/backend tests/contracts tests/cache_exact`: the layouts of states, the exact-slicing
rule and what ends the process are as erllama takes them to be.
"""

from __future__ import annotations

TESTED = ("0.3.35", "0.3.36")
"""In rising order; pyproject.toml allows what lies between the first and the last."""


def is_tested(version: str) -> bool:
    """Whether a release, as `llama_cpp.__version__` names it, is one of them.

    A local part says how it was compiled, and is left aside.

    >>> is_tested("0.3.36+cu124")
    True
    """
    return version.partition("+")[0] in TESTED


def untested(version: str) -> str | None:
    """What is said of a release that is none of them; None: it is one."""
    if is_tested(version):
        return None
    return (
        f"llama-cpp-python {version} was not tested with this erllama; if anything goes wrong, "
        f"install one that was: {', '.join(TESTED)}"
    )
