"""Number formats of the KV cache."""

from __future__ import annotations

from typing import NamedTuple

from erllama.config import KvType


class KvFormat(NamedTuple):
    """How numbers of a row are stored.

    Attributes:
        number: `ggml_type` (ggml.h).
        block: values that share a scale; 1: each stands alone.
        block_bytes: bytes of a block.
    """

    number: int
    block: int
    block_bytes: int

    @property
    def value_bytes(self) -> float:
        """Bytes of one value."""
        return self.block_bytes / self.block


KV_TYPES: dict[KvType, KvFormat] = {
    "f32": KvFormat(0, 1, 4),
    "f16": KvFormat(1, 1, 2),
    "bf16": KvFormat(30, 1, 2),
    "q8_0": KvFormat(8, 32, 34),
    "q5_1": KvFormat(7, 32, 24),
    "q5_0": KvFormat(6, 32, 22),
    "q4_1": KvFormat(3, 32, 20),
    "q4_0": KvFormat(2, 32, 18),
}
