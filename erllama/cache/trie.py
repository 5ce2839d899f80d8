"""The trie of token chains: nodes, the rows on them, and finding the nearest of many siblings.

A node stands for the tokens of a chain from its start to the end of one block; its parent for
those up to the block before. Under one parent, nodes lie side by side whose blocks begin alike:
a tail and the full block that it grew into, or the thousand continuations of one system prompt.
So the children of a node are kept in order of their tokens, and what agrees longest with a prompt
is a neighbour of the place where the prompt would stand: two comparisons, however many there are.

Lengths in tokens; tokens as little-endian u32. Rows and nodes are changed by the index alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

from erllama.cache.key import TOKEN_BYTES
from erllama.cache.lineage import Lineage, unpack
from erllama.cache.row import Form, RowId, RowMeta
from erllama.cache.sorted_buckets import SortedBuckets
from erllama.config import GRANULE

Tier = Literal["ram", "ram_file", "disk"]

TIERS: tuple[Tier, ...] = ("ram", "ram_file", "disk")
"""Where rows may lie, the fastest first."""

BIT: dict[Tier, int] = {"ram": 1, "ram_file": 2, "disk": 4}

FORMS: tuple[Form, ...] = ("block", "tail", "snapshot")

# Row.flags
SNAPSHOT = 2
FORM_MASK = 3
PURE = 4
LOGITS = 8
WHOLE = 16

# Classes of rows, each with a sorted list of its own among siblings: what has pure rows at its
# beginning (in order of those alone), pure blocks and tails, snapshots, and mixed rows; those that
# depend on t threads are class MIXED + t.
CUT_PURE = -3
WHOLLY_PURE = -2
SNAPSHOTS = -1
MIXED = 0


class Row:
    """A row that lies in at least one tier.

    A small object, because there may be hundreds of thousands. `flags` and `where` hold bits:
    form, purity, logits; tiers, and in which tiers' eviction order it is queued.

    Attributes:
        node: its tokens and their place.
        pure_end, threads, origin, cuts: as in `RowMeta`.
        size: bytes it is counted with, in every tier that it lies in.
        hits: how often it was used.
        last_used: in the index's own seconds.
    """

    __slots__ = (
        "cuts", "flags", "hits", "last_used", "next", "node", "origin", "pure_end", "size",
        "threads", "where",
    )  # fmt: skip

    def __init__(self, node: Node, flags: int, meta: RowMeta, size: int) -> None:
        self.node = node
        self.flags = flags
        # The same object where the numbers agree: an int costs 32 bytes.
        self.pure_end = node.end if meta.pure_end == node.end else meta.pure_end
        self.threads = meta.threads
        self.origin = meta.origin
        self.cuts = meta.cuts
        self.size = size
        self.hits = 0
        self.last_used = 0.0
        self.where = 0
        self.next: Row | None = None

    def __lt__(self, other: Row) -> bool:
        """Among equals in the eviction order, what is deeper in its chain goes first."""
        return self.node.end > other.node.end

    def __repr__(self) -> str:
        return f"<Row {self.start}..{self.end} {self.id.name[:8]}…{self.id.name[64:]} {self.tiers}>"

    @property
    def id(self) -> RowId:
        """What tells it from every other row."""
        return RowId(self.node.key, self.form, self.pure, self.threads, self.tag(self.end))

    @property
    def lineage(self) -> Lineage:
        """What made it."""
        return unpack(self.start, self.origin, self.pure_end, self.cuts)

    def tag(self, end: int) -> bytes:
        """What tells its rows before the position `end` from others of the same tokens."""
        return b"" if self.pure_end >= end else self.lineage.tag(end)

    @property
    def key(self) -> bytes:
        """The key of its tokens."""
        return self.node.key

    @property
    def form(self) -> Form:
        """Block, tail or snapshot."""
        return FORMS[self.flags & FORM_MASK]

    @property
    def pure(self) -> bool:
        """Whether it is a function of the tokens alone."""
        return bool(self.flags & PURE)

    @property
    def has_logits(self) -> bool:
        """Whether the logits of its last token are stored."""
        return bool(self.flags & LOGITS)

    @property
    def whole(self) -> bool:
        """Whether it is a snapshot that needs no blocks beside it."""
        return bool(self.flags & WHOLE)

    @property
    def tokens(self) -> bytes:
        """Its own tokens."""
        return self.node.tokens

    @property
    def n_tokens(self) -> int:
        """How many tokens are its own."""
        return len(self.node.tokens) // TOKEN_BYTES

    @property
    def end(self) -> int:
        """Position after its last token."""
        return self.node.end

    @property
    def start(self) -> int:
        """Position of its first token."""
        return self.node.end - self.n_tokens

    @property
    def tiers(self) -> tuple[Tier, ...]:
        """Where it lies, the fastest first."""
        return tuple(tier for tier in TIERS if self.where & BIT[tier])

    @property
    def cut_pure(self) -> int:
        """How many of its own tokens, from the first, were computed by the exact-slicing rule.

        All of a pure row; of a mixed one, down to a multiple of the granule, because the
        shorter slice that its prompt ended with belongs to that prompt only. 0 for snapshots.
        """
        if self.flags & FORM_MASK == SNAPSHOT:
            return 0
        if self.flags & PURE:
            return self.n_tokens
        pure = self.pure_end - self.start
        return max(pure - pure % GRANULE, 0)

    @property
    def row_class(self) -> int:
        """Which list of siblings holds it, beside `CUT_PURE`."""
        if self.flags & FORM_MASK == SNAPSHOT:
            return SNAPSHOTS
        return WHOLLY_PURE if self.flags & PURE else MIXED + self.threads


class Node:
    """A place in a chain. Without rows it is a stub: a namespace, or an ancestor not stored.

    Attributes:
        key: of the chain up to here.
        tokens: its own; of a stub that was never stored, none.
        end: how many tokens the chain has up to here; 0 where that is not known.
        parent: None for a namespace and for an ancestor that was never stored.
        children: none, one, or many.
        row: the first of its rows, linked by `Row.next`.
    """

    __slots__ = ("children", "end", "key", "parent", "row", "tokens")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.tokens = b""
        self.end = 0
        self.parent: Node | None = None
        self.children: Node | Siblings | None = None
        self.row: Row | None = None

    def rows(self) -> Iterator[Row]:
        """Its rows; rows may be taken away meanwhile."""
        row = self.row
        while row is not None:
            following = row.next
            yield row
            row = following

    @property
    def cut_pure(self) -> int:
        """The longest `Row.cut_pure` of its rows."""
        row = self.row
        if row is None:
            return 0
        if row.next is None:
            return row.cut_pure
        return max(row.cut_pure for row in self.rows())

    def classes(self) -> set[int]:
        """The lists of siblings that it belongs in."""
        found = {row.row_class for row in self.rows()}
        if self.cut_pure:
            found.add(CUT_PURE)
        return found

    def add_row(self, row: Row) -> None:
        """Put a row here."""
        self._unlist()
        row.next, self.row = self.row, row
        self._list()

    def remove_row(self, row: Row) -> None:
        """Take a row away."""
        self._unlist()
        kept = [other for other in self.rows() if other is not row]
        self.row = None
        for other in reversed(kept):
            other.next, self.row = self.row, other
        row.next = None
        self._list()

    def attach(self, child: Node) -> None:
        """Make a node, without rows so far, a child of this one."""
        child.parent = self
        if self.children is None:
            self.children = child
        elif isinstance(self.children, Node):
            only, self.children = self.children, Siblings()
            self.children.count = 2
            self.children.add(only)
        else:
            self.children.count += 1

    def detach(self, child: Node) -> None:
        """Undo `attach`; the child has no rows any more."""
        child.parent = None
        if isinstance(self.children, Siblings) and self.children.count > 1:
            self.children.count -= 1
        else:
            self.children = None

    def _list(self) -> None:
        if self.parent is not None and isinstance(self.parent.children, Siblings):
            self.parent.children.add(self)

    def _unlist(self) -> None:
        if self.parent is not None and isinstance(self.parent.children, Siblings):
            self.parent.children.discard(self)


class Siblings:
    """The children of one node, in order of their tokens, by class of row.

    Finding, adding and taking away take O(log n) comparisons.
    """

    __slots__ = ("count", "lists")

    def __init__(self) -> None:
        self.count = 0
        self.lists: dict[int, SortedBuckets[Node]] = {}

    def add(self, node: Node) -> None:
        """List a node by the rows it has now."""
        for row_class in node.classes():
            nodes = self.lists.get(row_class)
            if nodes is None:
                nodes = self.lists[row_class] = SortedBuckets(_order(row_class))
            nodes.add(node)

    def discard(self, node: Node) -> None:
        """Undo `add`, before the node's rows change."""
        for row_class in node.classes():
            nodes = self.lists[row_class]
            nodes.discard(node)
            if not nodes:
                del self.lists[row_class]

    def neighbours(self, row_class: int, tokens: bytes) -> tuple[Node, ...]:
        """The nodes of a class before and behind the place of `tokens`, which stands last
        among equals."""
        nodes = self.lists.get(row_class)
        if nodes is None:
            return ()
        # b"\xff" * 4 is no token id: the place behind all that are equal.
        end = b"\xff" * TOKEN_BYTES
        place = (tokens, end) if row_class == CUT_PURE else tokens + b"\0"
        return tuple(node for node in nodes.around(place) if node is not None)

    def beginning(self, row_class: int, tokens: bytes) -> Iterator[Node]:
        """The nodes of a class whose tokens begin with `tokens`. Not for `CUT_PURE`."""
        nodes = self.lists.get(row_class)
        for node in () if nodes is None else nodes.onward(tokens):
            if not node.tokens.startswith(tokens):
                return
            yield node


def nearest(parent: Node, row_class: int, tokens: bytes) -> tuple[Node, int] | None:
    """The child with rows of a class that agrees longest with `tokens`, and how many agree."""
    best: tuple[Node, int] | None = None
    for node in _candidates(parent, row_class, tokens):
        own = node.tokens
        if row_class == CUT_PURE:
            own = own[: node.cut_pure * TOKEN_BYTES]
        agree = common_prefix(own, tokens) // TOKEN_BYTES
        if best is None or agree > best[1]:
            best = node, agree
    return best


def prefixes(parent: Node, row_class: int, tokens: bytes) -> Iterator[Node]:
    """The children with rows of a class whose tokens `tokens` begins with, the longest first.

    Not for `CUT_PURE`.
    """
    while tokens:
        candidates = _candidates(parent, row_class, tokens)
        if not candidates or candidates[0].tokens > tokens:
            return
        before = candidates[0]
        agree = common_prefix(before.tokens, tokens)
        if agree == len(before.tokens):
            yield before
            agree -= TOKEN_BYTES
        tokens = tokens[: agree - agree % TOKEN_BYTES]


def extensions(parent: Node, row_class: int, tokens: bytes) -> Iterator[Node]:
    """The children with rows of a class whose tokens begin with `tokens`. Not for `CUT_PURE`."""
    children = parent.children
    if isinstance(children, Siblings):
        yield from children.beginning(row_class, tokens)
    elif (
        children is not None
        and row_class in children.classes()
        and children.tokens.startswith(tokens)
    ):
        yield children


def common_prefix(a: bytes, b: bytes) -> int:
    """How many bytes agree from the start, by bisection with comparisons of whole stretches."""
    low, high = 0, min(len(a), len(b)) + 1
    if a[: high - 1] == b[: high - 1]:
        return high - 1
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low


def _candidates(parent: Node, row_class: int, tokens: bytes) -> tuple[Node, ...]:
    children = parent.children
    if children is None:
        return ()
    if isinstance(children, Siblings):
        return children.neighbours(row_class, tokens)
    return (children,) if row_class in children.classes() else ()


def _order(row_class: int) -> Callable[[Node], Any]:
    return _pure_key if row_class == CUT_PURE else _token_key


def _token_key(node: Node) -> bytes:
    return node.tokens


def _pure_key(node: Node) -> tuple[bytes, bytes]:
    return node.tokens[: node.cut_pure * TOKEN_BYTES], node.tokens
