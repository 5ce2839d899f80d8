"""The small model that ships with erllama, so that everything runs with no download.

`examples/train_tiny_model` says how it was made, what it can do and what it cannot.
"""

from __future__ import annotations

import pathlib


def bundled_model() -> pathlib.Path:
    """The path of the bundled GGUF."""
    return pathlib.Path(__file__).with_name("erllama-tiny.gguf")
