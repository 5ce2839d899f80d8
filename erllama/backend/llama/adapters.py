"""LoRA adapters of one model: loaded, in force for a step, freed.

State:   the handles by number, and what is in force in each context, by its address.
Writer:  the lane thread; `check` reads files and may be called from any thread.
"""

from __future__ import annotations

import ctypes
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from erllama.backend.base import AdapterUse
from erllama.backend.llama.adapter_file import check_adapter
from erllama.backend.llama.library import address, capture_log, llama
from erllama.errors import DecodeFailed, ModelLoadError


class Adapters:
    """See the module. Freed with the model at the latest, which owns them.

    Args:
        path: the model's file.
    """

    def __init__(self, model: Any, path: pathlib.Path) -> None:
        self._llama = llama()
        self._model = model
        self._path = path
        self._handles: dict[int, Any] = {}
        self._in_force: dict[int, tuple[Any, tuple[AdapterUse, ...]]] = {}

    def __contains__(self, number: object) -> bool:
        return number in self._handles

    def check(self, path: str) -> None:
        """See `erllama.backend.base.Engine.check_adapter`."""
        check_adapter(pathlib.Path(path), self._path)

    def load(self, number: int, path: str) -> None:
        """See `erllama.backend.base.Engine.load_adapter`."""
        if number in self._handles:
            raise DecodeFailed(f"adapter {number} is loaded already")
        with capture_log() as said:
            handle = self._llama.llama_adapter_lora_init(self._model, os.fsencode(path))
        if not handle:
            raise ModelLoadError(
                f"{path}: llama.cpp cannot load it; convert the adapter again, for this model "
                f"({said.problems()})"
            )
        self._handles[number] = handle

    def put_in_force(self, context: Any, uses: Sequence[AdapterUse]) -> None:
        """Have these, and no others, change what a context computes from now on."""
        if not (uses or self._in_force):  # as in nearly every step
            return
        wanted, at = tuple(uses), address(context)
        _, before = self._in_force.get(at, (context, ()))
        if wanted == before:
            return
        n = len(wanted)
        handles = (ctypes.c_void_p * n)(*(address(self._handles[use.id]) for use in wanted))
        scales = (ctypes.c_float * n)(*(use.scale for use in wanted))
        self._llama.llama_set_adapters_lora(
            context, ctypes.cast(handles, _argument_type(self._llama)), n, scales
        )
        if wanted:
            self._in_force[at] = context, wanted
        else:
            self._in_force.pop(at, None)

    def free(self, number: int) -> None:
        """See `erllama.backend.base.Engine.free_adapter`."""
        handle = self._handles.pop(number, None)
        if handle is None:
            return
        for context, uses in list(self._in_force.values()):
            if any(use.id == number for use in uses):
                self.put_in_force(context, ())
        self._llama.llama_adapter_lora_free(handle)

    def context_is_over(self, context: Any) -> None:
        """It is about to be freed; a new one may have its address, and nothing in force."""
        self._in_force.pop(address(context), None)


def _argument_type(lib: Any) -> Any:
    return lib.llama_set_adapters_lora.argtypes[1]
