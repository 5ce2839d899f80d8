"""Which stored rows a prompt can begin with. Pure; reads the trie, changes nothing.

The chain of keys leads through the full blocks; of the block after them, the child that agrees
longest. Pure rows are cut down to a multiple of the granule, so that what is computed after them
equals a cold run bit for bit; mixed rows are cut at any token. The last token of a prompt must be
computed, to have logits to sample from, unless a row that ends there has stored them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from erllama.cache.key import BLOCK_TOKENS, TOKEN_BYTES, block_key
from erllama.cache.trie import (
    CUT_PURE,
    FORM_MASK,
    LOGITS,
    MIXED,
    PURE,
    SNAPSHOT,
    SNAPSHOTS,
    Node,
    Row,
    nearest,
    prefixes,
)
from erllama.config import GRANULE


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """What is looked for.

    Attributes:
        namespace: 32 bytes.
        tokens: the prompt, as from `token_bytes`.
        threads: those that would compute; rows that depend on another number are left alone.
        exact: take pure rows only.
        snapshots: the model's state cannot be cut: a prompt begins at a snapshot or at 0.
        resume: key of the row to go on from, if `tokens` begin with that row's; then rows are
            taken as the stream had them that made it.
        sampled: behind that row, which may be a pure one then, its stream sampled the next token,
            which is to be computed by itself as it would have been.
        block_tokens, granule: of the chain and of the exact-slicing rule.
    """

    namespace: bytes
    tokens: bytes
    threads: int = 0
    exact: bool = False
    snapshots: bool = False
    resume: bytes | None = None
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
        resumed: they are those of the row that `Query.resume` names.
    """

    tokens: int
    rows: tuple[Row, ...]
    last_tokens: int
    snapshot: Row | None = None
    pure: bool
    exact: bool
    resumed: bool = False

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


def find(nodes: Mapping[bytes, Node], query: Query) -> Hit | None:
    """The longest usable prefix; of equally long ones, a pure one. None: nothing is usable."""
    return _Search(nodes, query).best()


class _Search:
    """One lookup: the path of full blocks, and what can be made of it."""

    def __init__(self, nodes: Mapping[bytes, Node], query: Query) -> None:
        self._nodes = nodes
        self._query = query
        self._tokens = query.tokens
        self._total = query.n_tokens
        self._step = query.block_tokens
        # path[i] is the node at the end of block i - 1; path[0] the namespace
        self._keys: list[bytes] = [query.namespace]
        self._path: list[Node | None] = [nodes.get(query.namespace)]
        self._boundary: int | None = None
        self._walk()

    def best(self) -> Hit | None:
        if self._path[0] is None and not self._query.snapshots:
            return None
        reach = self._by_snapshot if self._query.snapshots else self._by_cut
        if self._query.resume is not None and not self._query.exact:
            resumed = self._resume(self._query.resume)
            if resumed is not None:
                return resumed
        pure = reach(True)
        if self._query.exact or (pure is not None and pure.exact):
            return pure
        mixed = reach(False)
        if mixed is None or (pure is not None and pure.tokens >= mixed.tokens):
            return pure
        return mixed

    def _walk(self) -> None:
        """The nodes at the ends of the full blocks; past a gap only where snapshots may lie."""
        size = self._step * TOKEN_BYTES
        nodes, tokens, keys, path = self._nodes, self._tokens, self._keys, self._path
        past_gaps = self._query.snapshots
        key = keys[0]
        for end in range(size, len(tokens) + 1, size):
            key = block_key(key, tokens[end - size : end])
            node = nodes.get(key)
            if node is None and not past_gaps:
                return
            keys.append(key)
            path.append(node)

    # Models whose rows can be cut

    def _by_cut(self, pure: bool) -> Hit | None:
        if self._ends_with_logits(pure):
            rows = self._rows_to(self._total, pure, logits=True)
            if rows is not None:
                return self._hit(rows, self._total, exact=True, pure=pure)
        rows, covered = self._rows_towards(self._total - 1, pure)
        if not rows:
            return None
        return self._hit(rows, covered, exact=False, pure=pure)

    def _hit(self, rows: list[Row], covered: int, *, exact: bool, pure: bool) -> Hit:
        return Hit(
            tokens=covered,
            rows=tuple(rows),
            last_tokens=covered - rows[-1].start,
            pure=pure,
            exact=exact,
            resumed=self._boundary is not None,
        )

    def _ends_with_logits(self, pure: bool) -> bool:
        """Whether it is worth looking for an exact hit."""
        end = self._node_at(self._total)
        return end is not None and self._pick(end, pure, logits=True) is not None

    # Models whose state cannot be cut

    def _by_snapshot(self, pure: bool) -> Hit | None:
        for node in self._snapshot_nodes():
            hit = self._at_snapshot(node, pure)
            if hit is not None:
                return hit
        return None

    def _snapshot_nodes(self) -> Iterator[Node]:
        """The nodes with snapshots that the prompt passes, the furthest first."""
        size = self._step * TOKEN_BYTES
        for block in range(len(self._path) - 1, -1, -1):
            parent = self._path[block]
            if parent is not None:
                yield from prefixes(
                    parent, SNAPSHOTS, self._tokens[block * size : (block + 1) * size]
                )

    def _at_snapshot(self, node: Node, pure: bool) -> Hit | None:
        position = node.end
        exact = position == self._total
        for row in sorted(node.rows(), key=self._rank, reverse=True):
            if (
                row.flags & FORM_MASK != SNAPSHOT
                or row.threads not in (0, self._query.threads)
                or (exact and not row.flags & LOGITS)
                or (pure and not self._continues_pure(row, exact))
            ):
                continue
            rows = [] if row.whole else self._rows_to(position, pure, logits=False)
            if rows is not None:
                return Hit(
                    tokens=position,
                    rows=tuple(rows),
                    last_tokens=position - rows[-1].start if rows else 0,
                    snapshot=row,
                    pure=pure,
                    exact=exact,
                    resumed=self._boundary is not None,
                )
        return None

    def _continues_pure(self, row: Row, exact: bool) -> bool:
        return bool(row.flags & PURE) and (exact or row.node.end % self._query.granule == 0)

    # Going on from a row that the caller names

    def _resume(self, key: bytes) -> Hit | None:
        """The rows of the stream that ended with the row of this key.

        Its mixed rows are taken first, those of the same stream before others; before the place
        where its prompt ended, pure ones. A key that is not this prompt's is not heeded; nor is
        one whose row is pure, unless a token was sampled behind it: otherwise the longest prefix
        is what there is to go on from.
        """
        node = self._nodes.get(key)
        if node is None or node.end >= self._total or self._key_at(node.end) != key:
            return None
        ends = [
            row
            for row in node.rows()
            if bool(row.flags & PURE) == self._query.sampled
            and (row.flags & FORM_MASK == SNAPSHOT) == self._query.snapshots
            and row.threads in (0, self._query.threads)
        ]
        if not ends:
            return None
        self._boundary = ends[0].pure_end
        if self._query.snapshots:
            hit = self._at_snapshot(node, False)
        else:
            rows = self._rows_to(node.end, False, logits=False)
            hit = self._hit(rows, node.end, exact=False, pure=False) if rows else None
        self._boundary = None
        return hit

    # Blocks and tails

    def _rows_to(self, goal: int, pure: bool, *, logits: bool) -> list[Row] | None:
        """Rows that cover the tokens before `goal`, all of them, or None.

        The last one ends at `goal`, or is longer; with `logits`, it ends there and has them.
        """
        rows, covered = self._full_blocks(goal, pure, logits)
        if covered == goal:
            return rows
        if goal - covered >= self._step:
            return None
        end = self._node_at(goal)
        row = self._pick(end, pure, logits) if end is not None else None
        if row is None and not logits:
            row, agree = self._partial(covered, goal, pure)
            if agree < goal - covered:
                return None
        return None if row is None else [*rows, row]

    def _rows_towards(self, goal: int, pure: bool) -> tuple[list[Row], int]:
        """Rows that cover as many of the tokens before `goal` as can be, and how many."""
        rows, covered = self._full_blocks(goal, pure, False)
        row, agree = self._partial(covered, goal, pure)
        if row is not None:
            return [*rows, row], covered + agree
        return rows, covered

    def _full_blocks(self, goal: int, pure: bool, logits: bool) -> tuple[list[Row], int]:
        rows: list[Row] = []
        covered, step = 0, self._step
        for node in self._path[1:]:
            if node is None or covered + step > goal:
                break
            row = self._pick(node, pure, logits and covered + step == goal)
            if row is None:
                break
            rows.append(row)
            covered += step
        return rows, covered

    def _pick(self, node: Node, pure: bool, logits: bool) -> Row | None:
        """A block or tail of a node, used whole: pure if there is one, but on resuming mixed."""
        best: Row | None = None
        row = node.row
        while row is not None:
            flags = row.flags
            if (
                flags & FORM_MASK != SNAPSHOT
                and (flags & PURE or not pure)
                and (flags & LOGITS or not logits)
                and row.threads in (0, self._query.threads)
                and (best is None or self._rank(row) > self._rank(best))
            ):
                best = row
            row = row.next
        return best

    def _rank(self, row: Row) -> int:
        """Pure before mixed; before both, on resuming, what is of the same stream."""
        if row.flags & PURE:
            return 1
        return 2 if row.pure_end == self._boundary else 0

    def _partial(self, covered: int, goal: int, pure: bool) -> tuple[Row | None, int]:
        """Of the block after `covered`, the row that reaches furthest towards `goal`."""
        block = covered // self._step
        parent = self._path[block] if block < len(self._path) else None
        if parent is None or covered >= goal:
            return None, 0
        end = min(goal, covered + self._step)
        tokens = self._tokens[covered * TOKEN_BYTES : end * TOKEN_BYTES]
        found: Row | None = None
        reach = 0
        place = nearest(parent, CUT_PURE, tokens)
        if place is not None:
            agree = place[1] - place[1] % self._query.granule
            if agree > 0:
                found, reach = self._cut_pure_row(place[0], agree), agree
        for threads in () if pure else {0, self._query.threads}:
            place = nearest(parent, MIXED + threads, tokens)
            if place is not None and place[1] > reach:
                found, reach = self._mixed_row(place[0], threads), place[1]
        return found, reach

    @staticmethod
    def _cut_pure_row(node: Node, n_tokens: int) -> Row:
        fit = [row for row in node.rows() if row.cut_pure >= n_tokens]
        return max(fit, key=lambda row: row.flags & PURE)

    @staticmethod
    def _mixed_row(node: Node, threads: int) -> Row:
        return next(row for row in node.rows() if row.row_class == MIXED + threads)

    def _node_at(self, position: int) -> Node | None:
        key = self._key_at(position)
        return None if key is None else self._nodes.get(key)

    def _key_at(self, position: int) -> bytes | None:
        """The key of the prompt's first tokens up to a position, if the path leads there."""
        block, rest = divmod(position, self._step)
        if block >= len(self._keys) or position > self._total:
            return None
        if rest == 0:
            return self._keys[block]
        start = block * self._step * TOKEN_BYTES
        return block_key(self._keys[block], self._tokens[start : position * TOKEN_BYTES])
