"""The KV cache: what was computed once is read back, to the token and, where possible, the bit.

Here are its decisions, in pure modules: they know no event loop, no file and no clock.

- `key`: what a row is called.
- `layout`: what its bytes mean and where each part lies.
- `row`: the format of its file.
- `lineage`: how mixed rows came to be.
- `index` (with `trie`, `lookup`, `reply_rows`, `eviction`): which rows there are, and what a prompt
  can use; `query` is what is asked and answered.
- `reservation`: who is writing which row.
- `policy`: what to save and what to restore.
"""

from __future__ import annotations

from erllama.cache.index import CacheIndex
from erllama.cache.key import AdapterId, block_key, chain, chain_key, namespace, token_bytes
from erllama.cache.layout import KvLayout, LayerKv, Rope
from erllama.cache.lineage import Lineage
from erllama.cache.policy import CachePolicy, what_to_save, worth_restoring
from erllama.cache.query import Hit, Named, Query
from erllama.cache.reservation import Reservations
from erllama.cache.row import (
    BadRow,
    RowHead,
    RowId,
    RowMeta,
    check_payload,
    check_row,
    encode_head,
    parse_head,
    payload_crc,
)
from erllama.cache.trie import TIERS, Row, Tier

__all__ = [
    "TIERS",
    "AdapterId",
    "BadRow",
    "CacheIndex",
    "CachePolicy",
    "Hit",
    "KvLayout",
    "LayerKv",
    "Lineage",
    "Named",
    "Query",
    "Reservations",
    "Rope",
    "Row",
    "RowHead",
    "RowId",
    "RowMeta",
    "Tier",
    "block_key",
    "chain",
    "chain_key",
    "check_payload",
    "check_row",
    "encode_head",
    "namespace",
    "parse_head",
    "payload_crc",
    "token_bytes",
    "what_to_save",
    "worth_restoring",
]
