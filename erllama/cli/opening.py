"""Loading a model for a command."""

from __future__ import annotations

import asyncio
import os
import pathlib
from typing import Unpack

from erllama.cli.progress import Report
from erllama.config import ContextConfig
from erllama.model.handle import Model
from erllama.option_types import LoadOptions
from erllama.runtime import Runtime

_POLL_S = 0.1


def cache_folder() -> str | None:
    """Where the hashes of model files are remembered; None where there is no home."""
    chosen = os.environ.get("XDG_CACHE_HOME")
    try:
        folder = pathlib.Path(chosen) if chosen else pathlib.Path.home() / ".cache"
    except RuntimeError:
        return None
    return str(folder / "erllama")


async def open_model(
    runtime: Runtime,
    path: pathlib.Path,
    report: Report,
    *,
    context: ContextConfig | None = None,
    **overrides: Unpack[LoadOptions],
) -> Model:
    """Load a model and show how far it is. Cancelling gives up.

    Raises:
        ModelLoadError, ConfigError: see `Runtime.load_model`.
    """
    loading = asyncio.ensure_future(runtime.load_model(path, context=context, **overrides))
    try:
        while not loading.done():
            report.show(f"loading {path.name}", _progress(runtime))
            await asyncio.wait({loading}, timeout=_POLL_S)
    finally:
        report.clear()
        if not loading.done():
            loading.cancel()
            await asyncio.wait({loading})
    return loading.result()


def _progress(runtime: Runtime) -> float:
    return max((model.load_progress for model in runtime.status().models), default=0.0)
