"""What a row is called: the namespace, and the chain of keys over the tokens. Pure.

    namespace  = sha256(format version, fingerprint, KV layout, adapters with scales, salt)
    key(block) = sha256(key(parent) || tokens as little-endian u32)

The first block's parent is the namespace. So a key stands for all tokens from the start of the
context to the end of its block, on one model as it computes here: same tokens on the same model,
same key; anything else, another key.
"""

from __future__ import annotations

import array
import hashlib
import math
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from erllama.cache.layout import KvLayout

BLOCK_TOKENS = 256
"""Tokens of a full block unless a policy says otherwise."""

KEY_BYTES = 32
"""Bytes of a namespace and of a key."""

TOKEN_BYTES = 4
"""Bytes of a token id in a key's input and in a row's metadata."""

FORMAT = 2
"""Version of what rows mean. Another one makes every older row a miss."""


class AdapterId(NamedTuple):
    """A LoRA adapter as the numbers see it: SHA-256 of its file in hex, and its scale."""

    sha256: str
    scale: float


def namespace(
    *,
    fingerprint: str,
    layout: KvLayout,
    adapters: Iterable[AdapterId] = (),
    salt: str = "",
    version: int = FORMAT,
) -> bytes:
    """The root of all chains whose rows may be used by this model, in this shape, for this caller.

    Each part goes into the hash behind its length, so that no two different inputs give the same
    bytes. The order of the adapters does not count: llama.cpp adds them up in an order of its own.

    Args:
        fingerprint: identifies the bytes of the model.
        layout: what changes the numbers or their meaning.
        adapters: those in force.
        salt: the caller's `cache_salt`; keeps tenants apart.
        version: of the row format.

    Returns:
        32 bytes.

    Raises:
        ValueError: a scale that is not finite.
    """
    digest = hashlib.sha256()
    chosen = sorted(AdapterId(sha256, float(scale)) for sha256, scale in adapters)
    parts = [
        b"erllama kv rows",
        struct.pack("<I", version),
        fingerprint.encode(),
        layout.canonical(),
        salt.encode(),
        struct.pack("<I", len(chosen)),
    ]
    for adapter in chosen:
        if not math.isfinite(adapter.scale):
            raise ValueError(f"adapters: the scale {adapter.scale} is not a finite number")
        parts += [adapter.sha256.encode(), struct.pack("<d", adapter.scale + 0.0)]
    for part in parts:
        digest.update(struct.pack("<Q", len(part)))
        digest.update(part)
    return digest.digest()


def token_bytes(tokens: array.array[int]) -> bytes:
    """Token ids as little-endian u32, as keys and rows hold them.

    The ids are not negative, so their i32 bytes are the u32 bytes. No work per token in Python.

    Args:
        tokens: an array of 32-bit integers.

    Raises:
        ValueError: the array's items are not 32-bit integers.
    """
    if tokens.itemsize != TOKEN_BYTES or tokens.typecode not in "iIlL":
        raise ValueError(f"tokens: expected 32-bit integers, got typecode {tokens.typecode!r}")
    if sys.byteorder == "little":
        return tokens.tobytes()
    swapped = tokens[:]
    swapped.byteswap()
    return swapped.tobytes()


def token_ids(data: bytes) -> array.array[int]:
    """The inverse of `token_bytes`.

    Raises:
        ValueError: not a multiple of four bytes.
    """
    tokens = array.array("i")
    tokens.frombytes(data)
    if sys.byteorder != "little":
        tokens.byteswap()
    return tokens


def block_key(parent: bytes, tokens: bytes) -> bytes:
    """The key of a block, tail or snapshot.

    Args:
        parent: key of the block before it; of the first one, the namespace.
        tokens: its own tokens, as from `token_bytes`.
    """
    return hashlib.sha256(parent + tokens).digest()


def chain(
    root: bytes, tokens: bytes, block_tokens: int = BLOCK_TOKENS
) -> Iterator[tuple[bytes, bytes, bytes]]:
    """The blocks of a context in order, the last one shorter unless it fills its block.

    Lazy: a key is computed when it is asked for.

    Yields:
        parent key, tokens and key of each block.
    """
    step = block_tokens * TOKEN_BYTES
    parent = root
    for start in range(0, len(tokens), step):
        own = tokens[start : start + step]
        key = block_key(parent, own)
        yield parent, own, key
        parent = key


def chain_key(root: bytes, tokens: Sequence[int], block_tokens: int = BLOCK_TOKENS) -> bytes:
    """The key that stands for all of `tokens`; the root for none.

    Raises:
        OverflowError, TypeError: an id that does not fit 32 bits, or is no integer.
    """
    flat = tokens if isinstance(tokens, array.array) else array.array("i", tokens)
    key = root
    for _, _, following in chain(root, token_bytes(flat), block_tokens):
        key = following
    return key
