"""K-quants, which gguf cannot write: llama.cpp's own quantizer, in a process of its own."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from .child import run_child
from .random_gguf import replacing

KQuant: TypeAlias = Literal["Q4_K_M", "Q6_K"]


def quantize_model(
    source: Path | str, destination: Path | str, quant: KQuant, *, timeout: float = 300.0
) -> Path:
    """Write `source`, an F32, F16 or BF16 model, as `destination` with K-quants.

    Rows that are no multiple of 256 get another type from llama.cpp (Q5_0 for Q4_K, Q8_0 for
    Q6_K), so models narrower than `shapes.WIDE` do not exercise K-quants.

    Args:
        source: the model to read.
        destination: the file to write, all at once; an existing one is replaced.
        quant: the type, as llama-quantize names it.
        timeout: seconds that the child process may take.

    Returns:
        `destination`.

    Raises:
        ValueError: an unknown `quant`.
        ChildFailed: llama.cpp refused, or crashed; the end of its log is in the message.
    """
    destination = Path(destination)
    if quant not in get_args(KQuant):
        raise ValueError(f"unknown quant {quant!r}: choose from {', '.join(get_args(KQuant))}")
    with replacing(destination) as temporary:
        run_child(_quantize, str(source), str(temporary), quant, timeout=timeout).check()
    return destination


def _quantize(source: str, destination: str, quant: KQuant) -> None:
    from llama_cpp import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{quant}")
    status = llama_cpp.llama_model_quantize(
        source.encode(), destination.encode(), ctypes.byref(params)
    )
    if status:
        raise RuntimeError(f"llama_model_quantize returned {status} for {source}")
