"""Leaving only some tokens of a vocabulary. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np

from erllama.sampling.running import Floats

_SIGN = np.int32(-(2**31))
_INFINITY = np.int32(0x7F800000)  # the bits of a float


def leave(logits: Floats, allowed: np.ndarray[Any, np.dtype[np.bool_]]) -> None:
    """Ban what is not allowed, in place.

    The minimum with infinity or minus infinity, made of bits: writing only where a mask says so
    takes up to fifteen times longer, by the processor's wrong guesses about the next one.
    """
    bits = np.subtract(allowed.view(np.int8), 1, dtype=np.int8)  # none where allowed, else all
    most = bits.astype(np.int32)
    most &= _SIGN
    most |= _INFINITY
    np.minimum(logits, most.view(np.float32), out=logits)
