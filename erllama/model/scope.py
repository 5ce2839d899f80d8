"""What a request's rows have in common with those of other requests. Pure."""

from __future__ import annotations

from typing import NamedTuple

from erllama.backend.base import AdapterUse


class Scope(NamedTuple):
    """Requests may share rows only within one.

    Attributes:
        salt: the caller's `cache_salt`.
        adapters: those that were in force when the request was taken.
    """

    salt: str
    adapters: tuple[AdapterUse, ...] = ()
