"""What is looked for in the cache, and what is found. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from erllama.cache.key import BLOCK_TOKENS, TOKEN_BYTES
from erllama.cache.lineage import Lineage
from erllama.cache.trie import Row
from erllama.config import GRANULE


class Named(msgspec.Struct, frozen=True):
    """The reply that a request goes on behind.

    Attributes:
        key: of the tokens whose rows it left.
        end: how many those are; 0: not known, then the key's own rows are looked for.
        tag: of their lineage; empty: they are pure. None: not known.
    """

    key: bytes
    end: int = 0
    tag: bytes | None = None


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """What is looked for.

    Attributes:
        namespace: 32 bytes.
        tokens: the prompt, as from `token_bytes`.
        threads: those that would compute; rows that depend on another number are left alone.
        exact: take pure rows only.
        snapshots: the model's state cannot be cut: a prompt begins at a snapshot or at 0.
        resume: the reply to go on behind, if `tokens` begin with its own.
        sampled: of that reply nothing was computed, so its rows are the pure ones of its prompt;
            the token behind them is to be computed by itself, as it would have been.
        block_tokens, granule: of the chain and of the exact-slicing rule.
    """

    namespace: bytes
    tokens: bytes
    threads: int = 0
    exact: bool = False
    snapshots: bool = False
    resume: Named | None = None
    sampled: bool = False
    block_tokens: int = BLOCK_TOKENS
    granule: int = GRANULE

    @property
    def n_tokens(self) -> int:
        """Length of the prompt."""
        return len(self.tokens) // TOKEN_BYTES


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """Rows that a prompt can begin with.

    Attributes:
        tokens: how many of the prompt's tokens they cover.
        rows: blocks and tails in order, from position 0 without gaps. All are used whole, but
            for the last, of which `last_tokens` tokens are used. Empty beside a whole snapshot.
        last_tokens: tokens used of the last of `rows`.
        snapshot: the state to set besides, at position `tokens`.
        pure: what is computed from here on equals a cold run bit for bit.
        exact: they cover the prompt, and the last row has the logits: sample at once.
        lineage: what made them, if they are those of the reply that `Query.resume` names.
    """

    tokens: int
    rows: tuple[Row, ...]
    last_tokens: int
    snapshot: Row | None = None
    pure: bool
    exact: bool
    lineage: Lineage | None = None

    @property
    def resumed(self) -> bool:
        """Whether they are those of the reply that `Query.resume` names."""
        return self.lineage is not None

    @property
    def all_rows(self) -> tuple[Row, ...]:
        """Everything to pin, to read and to touch."""
        return self.rows if self.snapshot is None else (*self.rows, self.snapshot)

    @property
    def logits(self) -> Row | None:
        """The row whose logits to sample from; None if the hit is not exact."""
        if not self.exact:
            return None
        return self.snapshot if self.snapshot is not None else self.rows[-1]

    def parts(self) -> Iterator[tuple[Row, int, int]]:
        """Each block or tail, the position of its first token, and how many of its tokens count."""
        for row in self.rows[:-1]:
            yield row, row.start, row.n_tokens
        if self.rows:
            yield self.rows[-1], self.rows[-1].start, self.last_tokens
