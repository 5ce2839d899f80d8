"""The command line: `erllama run`, `erllama info`.

Exit codes: 0; 1, it failed, and standard error says why; 2, it was called wrongly; 130, Ctrl-C;
and as a shell would count them, 141 when nobody reads standard output any more, 143 for SIGTERM.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command that `arguments` (those of the process by default) give, and exit."""
    try:
        from erllama.cli.app import app

        app(args=arguments, prog_name="erllama")
    except KeyboardInterrupt:  # before anything had begun
        sys.exit(130)
    raise AssertionError("a command line application ends with SystemExit")
