"""The list of the CPU's extra buffer types, with and without AMX in it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, cast

import pytest

from erllama.backend.llama.amx import SWITCH, leave_out_amx, uses_amx
from erllama.backend.llama.library import ggml, llama

NAMES = {1: b"AMX", 2: b"CPU_REPACK", 3: b"KLEIDIAI"}


class Native:
    """Functions of a library that can be given argument types."""

    def __init__(self, **functions: Callable[..., Any]) -> None:
        for name, function in functions.items():
            setattr(self, name, _bindable(function))


def _bindable(function: Callable[..., Any]) -> Callable[..., Any]:
    def bound(*args: Any) -> Any:
        return function(*args)

    return bound


def left(*kinds: int) -> tuple[bool, list[int]]:
    """Whether AMX was taken out of a list, and what is left of it."""
    listed = (ctypes.c_void_p * (len(kinds) + 1))(*kinds)
    types = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(lambda _: ctypes.addressof(listed))
    base = Native(
        ggml_backend_reg_get_proc_address=lambda _reg, _name: (
            ctypes.cast(types, ctypes.c_void_p).value
        ),
        ggml_backend_reg_dev_get=lambda _reg, _index: 8,
        ggml_backend_buft_name=lambda kind: NAMES[kind],
    )
    found = Native(ggml_backend_reg_by_name=lambda _name: 4)
    libraries = cast(ctypes.CDLL, found), cast(ctypes.CDLL, base)
    assert uses_amx(*libraries) is (1 in kinds)
    done = leave_out_amx(*libraries)
    assert listed[len(kinds)] is None
    assert uses_amx(*libraries) is (1 in kinds and not done)
    return done, [kind for kind in listed if kind]


def test_amx_is_taken_out_and_the_others_stay_in_order() -> None:
    assert left(1, 2, 3) == (True, [2, 3])
    assert left(2, 1, 3) == (True, [2, 3])
    assert left(1) == (True, [])
    assert left(2, 3) == (False, [2, 3])
    assert left() == (False, [])


def test_whoever_knows_the_build_can_keep_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "1")
    assert left(1, 2) == (False, [1, 2])


def test_a_build_without_such_a_list_is_left_as_it_is() -> None:
    found = Native(ggml_backend_reg_by_name=lambda _name: None)
    base = Native(
        ggml_backend_reg_get_proc_address=lambda *_: None,
        ggml_backend_reg_dev_get=lambda *_: None,
    )
    assert not leave_out_amx(cast(ctypes.CDLL, found), cast(ctypes.CDLL, base))
    assert not uses_amx(cast(ctypes.CDLL, found), cast(ctypes.CDLL, base))


def test_the_library_in_use_has_no_amx_in_its_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SWITCH, raising=False)
    llama()
    libggml = ctypes.CDLL(ggml()._name.replace("ggml-base", "ggml"))
    assert not leave_out_amx(libggml, ggml())
