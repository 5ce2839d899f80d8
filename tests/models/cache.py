"""Random models kept between test runs."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from .quantize import KQuant, quantize_model
from .random_gguf import Quant, write_random_model
from .shapes import Shape

AnyQuant: TypeAlias = Quant | KQuant

GENERATOR_VERSION = 1
"""Raise it whenever the same arguments come to mean other bytes."""

FOLDER_VARIABLE = "ERLLAMA_TEST_MODELS"


def cache_folder() -> Path:
    """The folder of the cache: $ERLLAMA_TEST_MODELS, or one of this user's in the temporary one.

    Raises:
        PermissionError: the folder in the temporary one belongs to somebody else.
    """
    if chosen := os.environ.get(FOLDER_VARIABLE):
        folder = Path(chosen)
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    folder = Path(tempfile.gettempdir()) / f"erllama-test-models-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user: set {FOLDER_VARIABLE}")
    return folder


def cached_model(
    shape: Shape, quant: AnyQuant = "F16", seed: int = 0, *, chat_template: str | None = None
) -> Path:
    """The random model of these arguments, written now unless an earlier call did.

    Processes that ask for the same model at once wait for the one that writes it. The file is
    shared: copy it before changing it.

    Args:
        shape: architecture and sizes.
        quant: type of the matrices; a K-quant is made from the F16 model, cached as well.
        seed: chooses the weights.
        chat_template: Jinja source to store in the file.
    """
    path = cache_folder() / _file_name(shape, quant, seed, chat_template)
    if path.exists():
        return path
    with _locked(path):
        if not path.exists():
            _write(path, shape, quant, seed, chat_template)
    return path


def _write(path: Path, shape: Shape, quant: AnyQuant, seed: int, chat_template: str | None) -> None:
    match quant:
        case "Q4_K_M" | "Q6_K":
            source = cached_model(shape, "F16", seed, chat_template=chat_template)
            quantize_model(source, path, quant)
        case _:
            write_random_model(path, shape, seed=seed, quant=quant, chat_template=chat_template)


def _file_name(shape: Shape, quant: AnyQuant, seed: int, chat_template: str | None) -> str:
    key = repr((GENERATOR_VERSION, shape, chat_template))
    digest = hashlib.sha256(key.encode()).hexdigest()[:12]
    return f"{shape.arch}-{shape.n_embd}x{shape.n_layer}-{digest}-{quant}-{seed}.gguf"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    # The lock file stays: removing it would let two processes hold locks on different files.
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
