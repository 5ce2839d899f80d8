"""Whom an error of the engine concerns: the one place where that is decided.

A step that raises is lost with its requests, and the context is made anew for the others
(`ModelActor._lose`). What is done to one sequence beside the steps (its state saved, or put in
place) concerns the request on it alone, whatever was raised: a sequence is emptied before it is
used again. Only errors about the lane and the engine as a whole concern everybody.
"""

from __future__ import annotations

import logging

from erllama.errors import DecodeFailed, EngineCrashed, EngineError, ErllamaError

log = logging.getLogger("erllama.model")


def concerns_all(error: BaseException | None) -> bool:
    """Whether no request can go on: the lane is down or stuck, or the engine is gone."""
    return isinstance(error, EngineError) and not isinstance(error, DecodeFailed)


def told(error: BaseException) -> ErllamaError:
    """What the caller of the request is told that an error of the engine has ended."""
    if isinstance(error, ErllamaError):
        return error
    return EngineCrashed(f"the engine failed: {error!r}")


def note(what: str, error: BaseException) -> None:
    """Log an error that is not of the kinds that engines announce: somebody has to look at it."""
    if not isinstance(error, ErllamaError):
        log.error("%s: the engine failed: %r", what, error, exc_info=error)
