"""A flag that stops a native call from outside, with no Python in the call.

llama.cpp asks `bool abort(void *data)` between graph nodes, and `bool progress(float, void *data)`
between tensors while loading. libc's `strlen` fits both: given a buffer `"\\0"` it says 0, given
`"\\1\\0"` it says 1 - without the interpreter lock, which a Python callback would have to take
from inside every compute thread. One byte stored from any thread turns the answer.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

from erllama.backend.llama.library import llama


class AbortFlag:
    """A byte that native code reads as true or false."""

    def __init__(self) -> None:
        self._buffer = ctypes.create_string_buffer(2)

    @property
    def address(self) -> int:
        return ctypes.addressof(self._buffer)

    @property
    def is_set(self) -> bool:
        return self._buffer[0] != b"\0"

    def set(self) -> None:
        self._buffer[0] = b"\1"

    def clear(self) -> None:
        self._buffer[0] = b"\0"


@functools.cache
def abort_function() -> Any:
    """`strlen` as a `ggml_abort_callback`."""
    return ctypes.cast(ctypes.CDLL(None).strlen, llama().ggml_abort_callback)
