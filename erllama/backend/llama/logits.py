"""Views of the logits that a decode call left behind."""

from __future__ import annotations

import ctypes
import functools
import math
from typing import Any, TypeAlias

import numpy as np

from erllama.backend.llama.library import address, llama

Logits: TypeAlias = "np.ndarray[Any, np.dtype[np.float32]]"

_MOST_VIEWS = 1_024


class LogitRows:
    """The logits of the rows of the latest batch.

    llama.cpp keeps its buffer from call to call, so a view that was made for an address serves
    whenever a row lies there again. It is looked at only after llama.cpp named the address.
    """

    def __init__(self, n_vocab: int) -> None:
        self._get = _get_logits()
        self._n_vocab = n_vocab
        self._views: dict[int, Logits] = {}

    def row(self, context: Any, row: int) -> Logits | None:
        """The logits of a batch row, valid until the next step; None if it has none."""
        at = self._get(context, row)
        if not at:
            return None
        view = self._views.get(at)
        return self._make(at) if view is None else view

    def _make(self, at: int) -> Logits:
        if len(self._views) >= _MOST_VIEWS:
            self._views.clear()
        cells = memoryview((ctypes.c_float * self._n_vocab).from_address(at))
        view = self._views[at] = np.frombuffer(cells, np.float32)
        return view


@functools.cache
def _get_logits() -> Any:
    """`llama_get_logits_ith`, which gives the address as a number: an object for it is slower."""
    bound = llama().llama_get_logits_ith
    prototype = ctypes.CFUNCTYPE(ctypes.c_void_p, *bound.argtypes)
    return prototype(address(bound))


def are_finite(logits: Logits | None) -> bool:
    """Whether a likeliest token exists; from NaN samplers draw whatever they please."""
    # argmax stops at the first one that is not a number; max() goes through Python first
    return logits is not None and math.isfinite(logits.item(logits.argmax()))
