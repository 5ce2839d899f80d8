"""The way of a prompt through the trie, and the rows of a reply that it goes on behind. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from erllama.cache.key import TOKEN_BYTES, block_key
from erllama.cache.query import Hit, Named, Query
from erllama.cache.trie import (
    FORM_MASK,
    MIXED,
    SNAPSHOT,
    WHOLE,
    WHOLLY_PURE,
    Node,
    Row,
    extensions,
)


class Path:
    """The nodes at the ends of a prompt's full blocks.

    Attributes:
        nodes: `nodes[i]` is the node at the end of block i - 1, None where nothing is stored; the
            first one is the namespace's.
    """

    def __init__(self, all_nodes: Mapping[bytes, Node], query: Query) -> None:
        self._all = all_nodes
        self._query = query
        self._keys: list[bytes] = [query.namespace]
        self.nodes: list[Node | None] = [all_nodes.get(query.namespace)]
        self._walk()

    def node_of(self, key: bytes) -> Node | None:
        """The node of a key."""
        return self._all.get(key)

    def node_at(self, position: int) -> Node | None:
        """The node of the prompt's first tokens up to a position."""
        key = self.key_at(position)
        return None if key is None else self._all.get(key)

    def key_at(self, position: int) -> bytes | None:
        """The key of the prompt's first tokens up to a position, if the path leads there."""
        block, rest = divmod(position, self._query.block_tokens)
        if block >= len(self._keys) or position > self._query.n_tokens:
            return None
        if rest == 0:
            return self._keys[block]
        start = block * self._query.block_tokens * TOKEN_BYTES
        return block_key(self._keys[block], self._query.tokens[start : position * TOKEN_BYTES])

    def _walk(self) -> None:
        """The nodes at the ends of the full blocks; past a gap only where snapshots may lie."""
        size = self._query.block_tokens * TOKEN_BYTES
        nodes, tokens, keys, path = self._all, self._query.tokens, self._keys, self.nodes
        past_gaps = self._query.snapshots
        key = keys[0]
        for end in range(size, len(tokens) + 1, size):
            key = block_key(key, tokens[end - size : end])
            node = nodes.get(key)
            if node is None and not past_gaps:
                return
            keys.append(key)
            path.append(node)


class ReplySearch:
    """Looks for the rows of a reply that a request goes on behind: all of them, or none.

    Args:
        path: of the request's prompt.
    """

    def __init__(self, path: Path, query: Query) -> None:
        self._path = path
        self._query = query
        self._step = query.block_tokens

    def find(self, named: Named) -> Hit | None:
        """The rows of the reply of this name; a longer row may have taken their place by now.

        A key that is not this prompt's is not heeded; nor is one whose rows are pure, unless a
        token was sampled behind them: then the prompt begins with them like with any others.
        """
        end = self._named_end(named)
        if end is None:
            return None
        for last in self._candidates(named, end):
            rows = self._rows_before(last, end)
            if rows is not None:
                whole = last.flags & FORM_MASK == SNAPSHOT
                return Hit(
                    tokens=end,
                    rows=tuple(rows),
                    last_tokens=end - rows[-1].start if rows else 0,
                    snapshot=last if whole else None,
                    pure=False,
                    exact=False,
                    lineage=last.lineage.upto(end),
                )
        return None

    def _named_end(self, named: Named) -> int | None:
        """How many of the prompt's tokens the reply has; None: the prompt is another one."""
        node = self._path.node_of(named.key)
        end = named.end or (0 if node is None else node.end)
        if not 0 < end < self._query.n_tokens or self._path.key_at(end) != named.key:
            return None
        return end

    def _candidates(self, named: Named, end: int) -> Iterator[Row]:
        """The rows that the reply may have ended with: its own, then longer ones."""
        node = self._path.node_of(named.key)
        for row in () if node is None else node.rows():
            form = row.flags & FORM_MASK == SNAPSHOT
            if form == self._query.snapshots and self._is_named(row, named, end):
                yield row
        if self._query.snapshots or named.tag is None:
            return
        for row in self._longer(end):
            if self._is_named(row, named, end):
                yield row

    def _is_named(self, row: Row, named: Named, end: int) -> bool:
        tag = row.tag(end)
        if not self._fits_threads(row) or named.tag not in (None, tag):
            return False
        if tag:
            return not self._query.sampled
        return self._query.sampled and self._ended_so(row, end)

    def _ended_so(self, row: Row, end: int) -> bool:
        """Whether pure rows end like those of a prompt of `end` tokens.

        The last slice of another prompt that is longer was another one.
        """
        return row.pure_end == end or end % self._query.granule == 0

    def _longer(self, end: int) -> Iterator[Row]:
        """The blocks and tails that begin with the tokens of the last block before `end`."""
        block = (end - 1) // self._step
        parent = self._path.nodes[block] if block < len(self._path.nodes) else None
        if parent is None:
            return
        tokens = self._query.tokens[block * self._step * TOKEN_BYTES : end * TOKEN_BYTES]
        for row_class in {WHOLLY_PURE, MIXED, MIXED + self._query.threads}:
            for node in extensions(parent, row_class, tokens):
                yield from (row for row in node.rows() if row.row_class == row_class)

    def _rows_before(self, last: Row, end: int) -> list[Row] | None:
        """The blocks and tails of one lineage up to `end`; None: they are not all there."""
        if last.flags & FORM_MASK != SNAPSHOT:
            rows, tag = [last], last.origin
        elif last.flags & WHOLE:
            return []
        else:
            tag = last.tag(end)
            fit = (row for row in self._longer(end) if row.tag(end) == tag)
            found = next((row for row in fit if tag or self._ended_so(row, end)), None)
            if found is None:
                return None
            rows, tag = [found], found.origin
        for node in reversed(self._path.nodes[1 : (end - 1) // self._step + 1]):
            before = None if node is None else self._of_lineage(node, tag)
            if before is None:
                return None
            rows.append(before)
            tag = before.origin
        return rows[::-1]

    def _of_lineage(self, node: Node, tag: bytes) -> Row | None:
        for row in node.rows():
            kept = row.flags & FORM_MASK != SNAPSHOT and self._fits_threads(row)
            if kept and row.tag(node.end) == tag:
                return row
        return None

    def _fits_threads(self, row: Row) -> bool:
        return row.threads in (0, self._query.threads)
