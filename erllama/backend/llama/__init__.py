"""llama.cpp behind the Engine protocol: the only place that speaks ctypes.

The native library is loaded when the first model is opened, never by an import.
"""

from erllama.backend.llama.loader import LlamaBackend

__all__ = ["LlamaBackend"]
