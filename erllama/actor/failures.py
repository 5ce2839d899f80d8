"""What can go wrong with actors, beyond the errors that all of erllama shares.

ErllamaError
├── NameTaken                  another live actor is registered under this name
├── ChildExists, ChildNotFound of a supervisor's dynamic children
├── RestartIntensityExceeded   the exit reason of a supervisor that gave up
└── StuckActor                 the exit reason of an actor that obeyed neither stop nor cancel
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from erllama.errors import ErllamaError


class NameTaken(ErllamaError):
    """Another live actor is registered under this name."""


class ChildExists(ErllamaError):
    """The supervisor has a child of this id already."""


class ChildNotFound(ErllamaError):
    """The supervisor has no child of this id."""


class RestartIntensityExceeded(ErllamaError):
    """Children crashed more often than their supervisor allows; it fails upward."""


class StuckActor(ErllamaError):
    """An actor ignored its stop message and its cancellation; its task was left behind."""


def unwrap(error: BaseException) -> BaseException:
    """The one error that says most about an exception group; any other error as it is.

    Groups never leave the kernel: callers write `except EngineCrashed`, not `except*`. The first
    error that is no mere cancellation stands for the rest, which it names in a note.
    """
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = list(_leaves(error))
    telling = [leaf for leaf in leaves if not isinstance(leaf, asyncio.CancelledError)]
    first = (telling or leaves)[0]
    others = [leaf for leaf in telling if leaf is not first]
    if others:
        first.add_note("raised together with: " + "; ".join(repr(other) for other in others))
    return first


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
