"""The native library: loaded once, with its log under control.

llama.cpp has one log callback for the whole process and calls it on whatever thread has
something to say. `capture_log` collects what the calling thread is told, so that an error can
carry llama.cpp's own words; everything else goes to the logger `erllama.llama`.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import logging
import pathlib
import threading
from collections.abc import Iterator
from typing import Any

from erllama.backend.llama.amx import leave_out_amx
from erllama.backend.llama.release import untested

log = logging.getLogger("erllama.llama")

_WARN, _ERROR = 3, 4  # ggml_log_level (ggml.h)
# Python 3.12 puts some hundred objects aside as it starts; `gc.freeze` of a program, over 4,000.
_FROZEN_BY_PYTHON = 2_000
_thread = threading.local()
_keep: list[object] = []  # ctypes callbacks that native code holds on to


class LogLines:
    """What llama.cpp said on one thread."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, str]] = []

    def problems(self, limit: int = 3) -> str:
        """The last errors, or failing that warnings, in one line."""
        for level in (_ERROR, _WARN):
            said = [text for at, text in self.lines if at == level and text]
            if said:
                return "; ".join(dict.fromkeys(said[-limit:]))
        return "llama.cpp gave no reason"


class capture_log:  # noqa: N801 (used as a function; a class, for it stands in every step)
    """Collect llama.cpp's log lines of this thread."""

    __slots__ = ("_lines", "_outer")

    def __enter__(self) -> LogLines:
        self._outer = getattr(_thread, "lines", None)
        self._lines = _thread.lines = LogLines()
        return self._lines

    def __exit__(self, *_: object) -> None:
        _thread.lines = self._outer


@functools.cache
def llama() -> Any:
    """The low-level bindings, `llama_cpp.llama_cpp`, with the backend initialised.

    Takes about half a second the first time: call it on a worker before it is needed elsewhere.
    """
    with _collector_at_rest():
        from llama_cpp import __version__, llama_cpp  # the package loads the shared library

    warning = untested(__version__)
    if warning is not None:
        log.warning("%s", warning)
    callback = llama_cpp.llama_log_callback(_on_log)
    _keep.append(callback)
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    leave_out_amx(library("ggml"), library("ggml-base"))
    return llama_cpp


def address(native: Any) -> int:
    """Where a pointer points to, or a bound function is."""
    return int(ctypes.cast(native, ctypes.c_void_p).value or 0)


def brief(function: Any) -> Any:
    """A bound function as one that is called with the interpreter lock held.

    For what takes less time than to give the lock up and take it back, and never waits.
    """
    prototype = ctypes.PYFUNCTYPE(function.restype, *function.argtypes)
    return prototype(address(function))


@contextlib.contextmanager
def _collector_at_rest() -> Iterator[None]:
    """Spare the event loop Python's full collections of all that was imported.

    Each holds the interpreter lock for 20 to 40 ms, for tens of thousands of objects that stay. So
    there is none during the import, and what there is then is put aside (`gc.freeze`), unless the
    program does so itself. `gc.unfreeze()` takes it back.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            if gc.get_freeze_count() < _FROZEN_BY_PYTHON:
                gc.freeze()
            gc.enable()


@functools.cache
def ggml() -> ctypes.CDLL:
    """libggml-base, for the `gguf_*` functions that `llama.h` does not repeat."""
    llama()  # loads what libggml-base needs
    return library("ggml-base")


def library(name: str) -> ctypes.CDLL:
    """One of the libraries that llama-cpp-python has loaded."""
    import llama_cpp

    folder = pathlib.Path(llama_cpp.__file__).parent / "lib"
    found = sorted(folder.glob(f"*{name}.*"), key=lambda path: len(path.name))
    return ctypes.CDLL(str(found[0]))


def _on_log(level: int, text: bytes, _data: object) -> None:
    lines = getattr(_thread, "lines", None)
    if lines is None and level not in (_WARN, _ERROR):
        return
    words = text.decode("utf-8", "replace").strip()
    if lines is not None:
        lines.lines.append((level, words))
    elif words:
        log.debug("%s", words)
