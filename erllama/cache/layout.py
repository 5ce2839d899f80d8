"""What the bytes of a row mean, and where each part of a payload lies. Pure.

A block's payload is, for each layer, its K rows, then, for each layer, its V rows, one row per
token. Rows are canonical: free of the number of streams, of `n_ctx` and of V transposition.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta

Name = Annotated[str, Meta(max_length=4_096)]
RowBytes = Annotated[int, Meta(ge=0, le=1 << 28)]


class LayerKv(msgspec.Struct, frozen=True):
    """The rows of one layer: how numbers are stored, and how many bytes one token takes.

    Attributes:
        layer: the layer's number in the model; layers without attention have no entry.
        k_type, v_type: number formats, by ggml's names ("f16", "q8_0").
        k_bytes, v_bytes: bytes of one token's K row and V row.
    """

    layer: Annotated[int, Meta(ge=0, le=100_000)]
    k_type: Name
    k_bytes: RowBytes
    v_type: Name
    v_bytes: RowBytes


class Rope(msgspec.Struct, frozen=True, kw_only=True):
    """The rotary embedding in force, as llama.cpp applies it.

    Attributes:
        scaling: "none", "linear", "yarn" or "longrope".
        freq_base, freq_scale, ext_factor, attn_factor, beta_fast, beta_slow: its parameters.
        n_ctx_orig: the context that YaRN scales from, in tokens.
        factors: the set of per-dimension factors in use ("", "long", "short"): LongRoPE models
            choose it by the length of the context.
    """

    scaling: Name = "none"
    freq_base: float = 0.0
    freq_scale: float = 1.0
    ext_factor: float = 0.0
    attn_factor: float = 1.0
    beta_fast: float = 0.0
    beta_slow: float = 0.0
    n_ctx_orig: int = 0
    factors: Name = ""


class Part(NamedTuple):
    """A stretch of a payload: the K or V rows of one layer.

    Attributes:
        layer: index into `KvLayout.layers`.
        kind: "k" or "v".
        offset: of its first byte in the payload.
        row_bytes: bytes of one token.
        size: bytes of all of them.
    """

    layer: int
    kind: Literal["k", "v"]
    offset: int
    row_bytes: int
    size: int


class KvLayout(msgspec.Struct, frozen=True, kw_only=True):
    """Everything beside the model's bytes that changes the numbers of a row or their meaning.

    Not here, because rows do not depend on them: `n_ctx`, `n_batch`, `n_seq_max`, and, for most
    rows, the number of threads (see `erllama.cache.row.RowMeta.threads`).

    Attributes:
        layers: one entry per layer with attention, in order.
        family: "plain", "sliding_window", "recurrent" or "hybrid".
        n_head, n_head_kv, n_embd: the model's geometry, as a check against a wrong fingerprint.
        flash_attn: whether flash attention computes.
        unified: whether all sequences share one KV buffer.
        n_swa, swa_full: the sliding window in tokens (0: none), and whether all of it is kept.
        rope: the rotary embedding.
        build: the llama.cpp build, with the bindings' version.
        system: CPU features, as `llama_print_system_info` tells them.
        devices: what computes, with the layers it was given.
        switches: environment switches that choose kernels (repacking, tiling), by name.
        form: of states that are kept as llama.cpp writes them, the shape of their context.
    """

    layers: tuple[LayerKv, ...]
    family: Name
    n_head: int
    n_head_kv: int
    n_embd: int
    flash_attn: bool
    unified: bool
    n_swa: int = 0
    swa_full: bool = True
    rope: Rope = Rope()
    build: Name
    system: Name
    devices: tuple[Name, ...] = ()
    switches: tuple[tuple[Name, Name], ...] = ()
    form: Name = ""

    def canonical(self) -> bytes:
        """The same bytes for equal layouts, other bytes for all others.

        MessagePack with the fields by name in the order of declaration; 1 and 1.0 are one number;
        switches in the order of their names.

        Raises:
            msgspec.ValidationError: a field of a wrong type or out of its limits.
        """
        plain = msgspec.to_builtins(self)
        plain["switches"] = sorted(plain["switches"])
        return msgspec.msgpack.encode(msgspec.convert(plain, KvLayout))

    @property
    def token_bytes(self) -> int:
        """Bytes of the rows of one token, all layers together."""
        return sum(layer.k_bytes + layer.v_bytes for layer in self.layers)

    def payload_bytes(self, n_tokens: int) -> int:
        """Bytes of the rows of `n_tokens` tokens."""
        return n_tokens * self.token_bytes

    def parts(self, n_tokens: int) -> Iterator[Part]:
        """Where each layer's rows lie in the payload of `n_tokens` tokens, without gaps."""
        offset = 0
        for index, layer in enumerate(self.layers):
            size = n_tokens * layer.k_bytes
            yield Part(index, "k", offset, layer.k_bytes, size)
            offset += size
        for index, layer in enumerate(self.layers):
            size = n_tokens * layer.v_bytes
            yield Part(index, "v", offset, layer.v_bytes, size)
            offset += size
