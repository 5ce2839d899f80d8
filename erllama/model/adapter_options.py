"""What a caller gives to load and scale an adapter."""

from __future__ import annotations

import os
import pathlib

from erllama.checked import shown
from erllama.errors import RequestError
from erllama.types import Adapter

_MOST_SCALE = 1e6


def check_scale(scale: object) -> float:
    """A finite number.

    Raises:
        RequestError: it is none, or beyond a million.
    """
    number = isinstance(scale, int | float) and not isinstance(scale, bool)
    if number and abs(scale) <= _MOST_SCALE:  # type: ignore[arg-type]  # nan is not
        return float(scale)  # type: ignore[arg-type]
    raise RequestError(f"scale: expected a number from -1e6 to 1e6, got {shown(scale)}")


def check_adapter(adapter: object) -> Adapter:
    """What `load_adapter` gave.

    Raises:
        RequestError: it is something else.
    """
    if isinstance(adapter, Adapter):
        return adapter
    raise RequestError(f"adapter: expected what load_adapter gave, got {type(adapter).__name__}")


def file_path(path: object) -> pathlib.Path:
    """The file that a caller names.

    Raises:
        RequestError: what cannot be the path of a file.
    """
    if not isinstance(path, str | os.PathLike):
        raise RequestError(f"path: expected the path of a GGUF file, got {type(path).__name__}")
    name = os.fspath(path)
    if not isinstance(name, str) or not name or "\0" in name:
        raise RequestError(f"path: {name!r} names no file; give the path of a GGUF file")
    return pathlib.Path(name).expanduser().absolute()
