"""A model's use of the KV cache: what to look for, what to restore, what to keep.

Made when the model is loaded, used by its actor only.
"""

from __future__ import annotations

import array
from collections.abc import Sequence
from typing import Any

from erllama.backend.base import Buffer, Engine, SavedState
from erllama.cache import (
    CachePolicy,
    Hit,
    KvLayout,
    LayerKv,
    Lineage,
    Named,
    Query,
    Rope,
    RowMeta,
    block_key,
    chain,
    chain_key,
    namespace,
    token_bytes,
    worth_restoring,
)
from erllama.cache.actor_refs import CacheActors
from erllama.cache.key import TOKEN_BYTES, AdapterId
from erllama.cache.messages import NewRow, Offer
from erllama.cache.policy import Cost, Reason, Span
from erllama.cache.reader import Reader
from erllama.cache.row import Form
from erllama.cache.shared_view import CacheView
from erllama.config import ContextConfig
from erllama.errors import Busy, ErllamaError
from erllama.model.scope import Scope


def kv_layout(engine: Engine, context: ContextConfig) -> KvLayout:
    """Everything beside the model's bytes that changes what rows mean, from what an engine says."""
    info, capabilities = engine.info, engine.capabilities
    state = capabilities.state
    layers = state.layers if state is not None else ()
    return KvLayout(
        layers=tuple(
            LayerKv(i, str(layer.k_type), layer.k_bytes, str(layer.v_type), layer.v_bytes)
            for i, layer in enumerate(layers)
        ),
        family=capabilities.family,
        n_head=info.n_head,
        n_head_kv=info.n_head_kv,
        n_embd=info.n_embd,
        flash_attn=bool(info.flash_attn),
        unified=context.kv_unified,
        swa_full=context.swa_full,
        rope=Rope(
            scaling=context.rope_scaling or "model",
            freq_base=context.rope_freq_base or 0.0,
            freq_scale=context.rope_freq_scale or 0.0,
            factors=state.rope_factors if state is not None else "",
        ),
        build=info.backend,
        system=info.devices,
        form=state.form if state is not None else "",
        devices=state.devices if state is not None else (),
        switches=state.switches if state is not None else (),
    )


class ModelCache:
    """The cache as one loaded model sees it."""

    def __init__(
        self,
        view: CacheView,
        actors: CacheActors,
        policy: CachePolicy,
        *,
        engine: Engine,
        context: ContextConfig,
        fingerprint: str,
    ) -> None:
        self._view = view
        self._actors = actors
        self.policy = policy
        self._fingerprint = fingerprint
        self._layout = kv_layout(engine, context)
        self._name = engine.info.name[:64]
        self._threads = engine.info.n_threads
        self._n_vocab = engine.info.n_vocab
        state = engine.capabilities.state
        self.enabled = policy.enabled and state is not None
        self.snapshots = state is not None and state.snapshot
        self.exact = state is not None and state.exact
        self._token_bytes = state.token_bytes if state is not None else 0
        self._granule = engine.capabilities.granule
        self._namespaces: dict[Scope, bytes] = {}
        self.namespace(Scope(""))  # made now: the first request after a start may be a restore

    def namespace(self, scope: Scope) -> bytes:
        """The root of all keys for requests of this scope."""
        known = self._namespaces.get(scope)
        if known is None:
            if len(self._namespaces) > 1_000:
                self._namespaces.clear()
            known = self._namespaces[scope] = namespace(
                fingerprint=self._fingerprint,
                layout=self._layout,
                adapters=[AdapterId(use.sha256, use.scale) for use in scope.adapters],
                salt=scope.salt,
            )
        return known

    # Reading

    def find(
        self,
        tokens: array.array[int],
        *,
        scope: Scope,
        exact: bool,
        resume: Named | None,
        sampled: bool = False,
    ) -> Hit | None:
        """The rows that a prompt can begin with.

        Where pure rows equal those of a cold run, a request gets no others, unless it goes on
        behind a reply: what the cache holds must change no answer.

        Args:
            exact: take pure rows only, even behind a reply.
            resume, sampled: see `Query`.
        """
        if not self.enabled:
            return None
        query = Query(
            namespace=self.namespace(scope),
            tokens=token_bytes(tokens),
            threads=self._threads,
            exact=exact or self.exact,
            snapshots=self.snapshots,
            resume=None if exact else resume,
            sampled=sampled,
            block_tokens=self.policy.block_tokens,
            granule=self._granule,
        )
        return self._view.index.lookup(query)

    def worth(self, hit: Hit, prefill_rate: float) -> bool:
        """The cost gate: whether reading the rows takes less time than computing them."""
        costs: dict[float, int] = {}
        for row in hit.all_rows:
            rate = self._view.bytes_per_s[row.tiers[0]] if row.tiers else 0.0
            costs[rate] = costs.get(rate, 0) + row.size
        worth = worth_restoring(
            self.policy,
            hit.tokens,
            [Cost(size, rate) for rate, size in costs.items()],
            prefill_tokens_per_s=prefill_rate,
        )
        if not worth:
            for tier in {row.tiers[0] for row in hit.all_rows if row.tiers}:
                self._view.note_not_read(tier)
        return worth

    def take(self, hit: Hit, now: float) -> Reader:
        """Pin and touch the rows of a hit; what reads them."""
        index = self._view.index
        index.pin(hit.all_rows)
        index.touch(hit.all_rows, now)
        return Reader(self._view, hit, n_vocab=self._n_vocab)

    def count(self, name: str, n: int = 1) -> None:
        """Raise a counter of `CacheCounters`."""
        self._view.counts.add(name, n)

    # Writing

    def rows(
        self,
        tokens: Sequence[int],
        spans: Sequence[Span],
        saved: SavedState,
        *,
        scope: Scope,
        lineage: Lineage,
        logits: Buffer | None,
    ) -> tuple[NewRow, ...]:
        """What was taken out of a sequence, as rows.

        Args:
            tokens: those that the sequence held.
            spans: the rows that `saved.rows` are, in order.
            lineage: of the sequence.
            logits: of the last token, if they are known.
        """
        self.count("save_total_ns", saved.elapsed_ns)
        chunk = _Chain(self.namespace(scope), tokens, self.policy.block_tokens)
        made = []
        for span, rows in zip(spans, saved.rows, strict=False):
            is_tail = span.form == "tail" and logits is not None
            meta = self._meta(
                chunk,
                span.start,
                span.end,
                form="tail" if is_tail else "block",
                lineage=lineage,
                token_bytes=self._token_bytes,
                n_logits=self._n_vocab if is_tail else 0,
            )
            made.append(NewRow(meta, (rows, logits) if is_tail else (rows,)))
        if saved.snapshot is not None:
            end = len(tokens)
            block = self.policy.block_tokens
            meta = self._meta(
                chunk,
                (end - 1) // block * block,
                end,
                form="snapshot",
                lineage=lineage,
                token_bytes=0,
                n_logits=0 if logits is None else self._n_vocab,
                whole=self._token_bytes == 0,
            )
            parts = (saved.snapshot,) if logits is None else (saved.snapshot, logits)
            made.append(NewRow(meta, parts))
        return tuple(made)

    async def offer(self, rows: tuple[NewRow, ...], reason: Reason) -> None:
        """Hand rows to the arbiter; they are dropped if it is down or its mailbox is full."""
        arbiter = self._actors.arbiter
        try:
            if arbiter is None:
                raise Busy("the arbiter is down")
            await arbiter.call(Offer(rows, reason, self.policy.tiers, self.policy.write_through))
        except ErllamaError:
            self.count("saves_dropped", len(rows))

    def key(self, tokens: Sequence[int], scope: Scope) -> bytes:
        """The key that stands for `tokens`."""
        return chain_key(self.namespace(scope), tokens, self.policy.block_tokens)

    def name(self, tokens: Sequence[int], scope: Scope, lineage: Lineage) -> Named:
        """What names the rows of `tokens` that were made so."""
        end, block = len(tokens), self.policy.block_tokens
        made = lineage.at((end - 1) // block * block, block)
        return Named(self.key(tokens, scope), end, made.tag(end))

    def _meta(
        self, chunk: _Chain, start: int, end: int, *, form: Form, lineage: Lineage, **fields: Any
    ) -> RowMeta:
        # mixed rows, and a tail of one row, are computed by kernels that split by threads
        made = lineage.at(start, self.policy.block_tokens)
        pure_end = min(made.pure_end, end)
        by_threads = pure_end != end or end % self._granule == 1
        parent, own, key = chunk.link(start, end)
        return RowMeta(
            namespace=chunk.root,
            parent=parent,
            key=key,
            form=form,
            start=start,
            tokens=own,
            pure_end=pure_end,
            origin=made.origin,
            cuts=b"" if pure_end == end else made.packed(end),
            threads=self._threads if by_threads else 0,
            model=self._name,
            **fields,
        )


class _Chain:
    """The keys of a context's blocks."""

    def __init__(self, root: bytes, tokens: Sequence[int], block_tokens: int) -> None:
        self.root = root
        self._flat = token_bytes(array.array("i", tokens))
        self._block_tokens = block_tokens
        self._links = list(chain(root, self._flat, block_tokens))

    def link(self, start: int, end: int) -> tuple[bytes, bytes, bytes]:
        """Parent key, tokens and key of a row from `start`, where a block begins, to `end`."""
        parent, own, key = self._links[start // self._block_tokens]
        if len(own) == TOKEN_BYTES * (end - start):
            return parent, own, key
        own = self._flat[TOKEN_BYTES * start : TOKEN_BYTES * end]
        return parent, own, block_key(parent, own)
