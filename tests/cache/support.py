"""Rows for tests: metadata that is right, of any tokens, form and kind."""

from __future__ import annotations

import array
import hashlib
from collections.abc import Sequence
from typing import Any

from erllama.cache import (
    CacheIndex,
    Hit,
    KvLayout,
    LayerKv,
    Lineage,
    Named,
    Query,
    Row,
    RowMeta,
    Tier,
)
from erllama.cache.key import block_key, chain_key, token_bytes
from erllama.cache.row import Form

ROOT = hashlib.sha256(b"a namespace").digest()
BLOCK = 128
"""Tokens of a block in tests: two granules."""

LAYOUT = KvLayout(
    layers=(
        LayerKv(layer=0, k_type="f16", k_bytes=16, v_type="q8_0", v_bytes=34),
        LayerKv(layer=2, k_type="f16", k_bytes=8, v_type="q8_0", v_bytes=34),
    ),
    family="plain",
    n_head=4,
    n_head_kv=2,
    n_embd=64,
    flash_attn=True,
    unified=False,
    build="b1",
    system="AVX2",
)


def packed(tokens: Sequence[int]) -> bytes:
    """Tokens as rows hold them."""
    return token_bytes(array.array("i", tokens))


def run(*segments: tuple[int, int]) -> list[int]:
    """Tokens from (token, how often) pairs."""
    return [token for token, count in segments for _ in range(count)]


def row_meta(
    context: Sequence[int],
    *,
    form: Form = "block",
    pure_end: int | None = None,
    cuts: tuple[int, ...] = (),
    root: bytes = ROOT,
    block: int = BLOCK,
    **fields: Any,
) -> RowMeta:
    """The row of the last block of `context`; pure unless `pure_end` says otherwise.

    Args:
        cuts: of its lineage, as positions in the context.
    """
    end = len(context)
    start = (end - 1) // block * block
    made = Lineage(pure_end=end if pure_end is None else pure_end, cuts=cuts).at(start, block)
    parent = chain_key(root, context[:start], block)
    own = packed(context[start:])
    defaults: dict[str, Any] = {
        "token_bytes": 0 if form == "snapshot" else LAYOUT.token_bytes,
        "n_logits": 50 if form == "tail" else 0,
    }
    return RowMeta(
        namespace=root,
        parent=parent,
        key=block_key(parent, own),
        form=form,
        start=start,
        tokens=own,
        pure_end=min(made.pure_end, end),
        origin=made.origin,
        cuts=made.packed(end),
        **(defaults | fields),
    )


def store(
    index: CacheIndex,
    context: Sequence[int],
    *,
    tier: Tier = "ram",
    now: float = 0.0,
    size: int = 100,
    hits: int = 0,
    age_s: float = 0.0,
    **fields: Any,
) -> Row:
    """Insert the row of the last block of `context`."""
    meta = row_meta(context, **fields)
    return index.insert(meta, size, tier, now=now, hits=hits, age_s=age_s)


def store_chain(index: CacheIndex, context: Sequence[int], **options: Any) -> list[Row]:
    """Insert all blocks of `context`, and what is left as a tail."""
    ends = [*range(BLOCK, len(context), BLOCK), len(context)]
    return [
        store(index, context[:end], form="tail" if end % BLOCK else "block", **options)
        for end in ends
    ]


def reply(
    context: Sequence[int], *, pure_end: int, cuts: tuple[int, ...] = (), block: int = BLOCK
) -> Named:
    """What names the rows of a context that a reply has left."""
    end = len(context)
    made = Lineage(pure_end=pure_end, cuts=cuts).at((end - 1) // block * block, block)
    return Named(chain_key(ROOT, context, block), end, made.tag(end))


def query(tokens: Sequence[int], **options: Any) -> Query:
    """A query over blocks of the tests' size."""
    fields: dict[str, Any] = {"namespace": ROOT, "block_tokens": BLOCK}
    return Query(tokens=packed(tokens), **(fields | options))


def look(index: CacheIndex, tokens: Sequence[int], **options: Any) -> Hit | None:
    """Look a prompt up."""
    return index.lookup(query(tokens, **options))


def found(index: CacheIndex, tokens: Sequence[int], **options: Any) -> tuple[int, bool, bool]:
    """How many tokens a lookup covers, whether purely, whether exactly."""
    hit = look(index, tokens, **options)
    return (0, True, False) if hit is None else (hit.tokens, hit.pure, hit.exact)
