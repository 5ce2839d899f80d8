"""Which stored rows a prompt can begin with. Pure; reads the trie, changes nothing.

The chain of keys leads through the full blocks; of the block after them, the child that agrees
longest. Pure rows are cut down to a multiple of the granule, so that what is computed after them
equals a cold run bit for bit; mixed rows are cut at any token, where the caller takes them at all.
A request that goes on behind a reply names it, and gets the rows of that reply's lineage up to its
end, or none of them (`erllama.cache.reply_rows`). The last token of a prompt must be computed, to
have logits to sample from, unless a row that ends there has stored them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from erllama.cache.key import TOKEN_BYTES
from erllama.cache.query import Hit, Query
from erllama.cache.reply_rows import Path, ReplySearch
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


def find(nodes: Mapping[bytes, Node], query: Query) -> Hit | None:
    """The longest usable prefix; of equally long ones, a pure one. None: nothing is usable."""
    return _Search(nodes, query).best()


class _Search:
    """One lookup: the path of full blocks, and what can be made of it."""

    def __init__(self, nodes: Mapping[bytes, Node], query: Query) -> None:
        self._query = query
        self._tokens = query.tokens
        self._total = query.n_tokens
        self._step = query.block_tokens
        self._way = Path(nodes, query)
        self._path = self._way.nodes

    def best(self) -> Hit | None:
        if self._path[0] is None and not self._query.snapshots:
            return None
        reach = self._by_snapshot if self._query.snapshots else self._by_cut
        if self._query.resume is not None:
            resumed = ReplySearch(self._way, self._query).find(self._query.resume)
            if resumed is not None:
                return resumed
        pure = reach(True)
        if self._query.exact or (pure is not None and pure.exact):
            return pure
        mixed = reach(False)
        if mixed is None or (pure is not None and pure.tokens >= mixed.tokens):
            return pure
        return mixed

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
        )

    def _ends_with_logits(self, pure: bool) -> bool:
        """Whether it is worth looking for an exact hit."""
        end = self._way.node_at(self._total)
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
        for row in sorted(node.rows(), key=_pure_first):
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
                )
        return None

    def _continues_pure(self, row: Row, exact: bool) -> bool:
        return bool(row.flags & PURE) and (exact or row.node.end % self._query.granule == 0)

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
        end = self._way.node_at(goal)
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
        """A block or tail of a node, used whole: pure if there is one."""
        best: Row | None = None
        row = node.row
        while row is not None:
            flags = row.flags
            if (
                flags & FORM_MASK != SNAPSHOT
                and (flags & PURE or not pure)
                and (flags & LOGITS or not logits)
                and row.threads in (0, self._query.threads)
                and (best is None or flags & PURE > best.flags & PURE)
            ):
                best = row
            row = row.next
        return best

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


def _pure_first(row: Row) -> bool:
    return not row.flags & PURE
