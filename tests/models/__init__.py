"""Random-weight GGUF models of every family, whole and broken, for tests and benchmarks.

Needs the `gguf` package (extras `dev` and `bench`).
"""

from .broken import BROKEN, KILLED_AT_DECODE, KILLED_AT_LOAD, LOADED, break_model
from .cache import AnyQuant, cached_model
from .child import ChildFailed, CompletedChild, run_child
from .quantize import KQuant, quantize_model
from .random_gguf import Quant, write_random_model
from .shapes import (
    M125,
    PRESETS,
    TINY,
    TINY_BERT,
    TINY_COHERE2,
    TINY_FALCON_H1,
    TINY_GEMMA3,
    TINY_LFM2,
    TINY_MAMBA2,
    TINY_MOE,
    TINY_RERANKER,
    TINY_SPM,
    WIDE,
    Bert,
    Cohere2,
    FalconH1,
    Gemma3,
    Lfm2,
    Llama,
    LlamaMoe,
    LongRope,
    Mamba2,
    Shape,
)
from .vocabulary import LLAMA3_CHAT_TEMPLATE

__all__ = [
    "BROKEN",
    "KILLED_AT_DECODE",
    "KILLED_AT_LOAD",
    "LLAMA3_CHAT_TEMPLATE",
    "LOADED",
    "M125",
    "PRESETS",
    "TINY",
    "TINY_BERT",
    "TINY_COHERE2",
    "TINY_FALCON_H1",
    "TINY_GEMMA3",
    "TINY_LFM2",
    "TINY_MAMBA2",
    "TINY_MOE",
    "TINY_RERANKER",
    "TINY_SPM",
    "WIDE",
    "AnyQuant",
    "Bert",
    "ChildFailed",
    "Cohere2",
    "CompletedChild",
    "FalconH1",
    "Gemma3",
    "KQuant",
    "Lfm2",
    "Llama",
    "LlamaMoe",
    "LongRope",
    "Mamba2",
    "Quant",
    "Shape",
    "break_model",
    "cached_model",
    "quantize_model",
    "run_child",
    "write_random_model",
]
