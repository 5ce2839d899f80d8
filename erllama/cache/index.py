"""The index of all rows, in all tiers. Pure.

State:      the trie of chains (`erllama.cache.trie`), what lies in which tier, pins, and one
            eviction order per tier.
Writers:    the arbiter alone; no locks.
Invariants: a row that is in the index lies in at least one tier. A tier gives up a row only if no
            other row builds on it, or if another tier has it too; never while it is pinned. So
            what was reachable stays reachable, unless a tier is lost. Storing a row makes what
            it stands on as young as itself, so that leaves go before their blocks.
            Time is what has passed by the readings `now`; a clock that goes back stands still.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from erllama.cache.eviction import EvictionOrder
from erllama.cache.key import TOKEN_BYTES
from erllama.cache.lookup import find
from erllama.cache.monotonic import MonotonicElapsed
from erllama.cache.query import Hit, Query
from erllama.cache.row import RowId, RowMeta
from erllama.cache.trie import (
    BIT,
    FORM_MASK,
    FORMS,
    LOGITS,
    PURE,
    SNAPSHOT,
    TIERS,
    WHOLE,
    WHOLLY_PURE,
    Node,
    Row,
    Tier,
    prefixes,
)

HIT_WEIGHT_S = 600.0
_TIER_BITS = 7


class CacheIndex:
    """See the module.

    Args:
        hit_weight_s: seconds that each doubling of a row's hits is worth against its age.

    Attributes:
        uses: how often rows were touched; tells whether hit counts have changed.
    """

    def __init__(self, *, hit_weight_s: float = HIT_WEIGHT_S) -> None:
        self._nodes: dict[bytes, Node] = {}
        self._orders = {tier: EvictionOrder(BIT[tier], hit_weight_s) for tier in TIERS}
        self._bytes: dict[Tier, int] = dict.fromkeys(TIERS, 0)
        self._counts: dict[Tier, int] = dict.fromkeys(TIERS, 0)
        self._pins: dict[Row, int] = {}
        self._elapsed = MonotonicElapsed()
        self._n_rows = 0
        self.uses = 0

    # Looking

    def __len__(self) -> int:
        """Rows, however many tiers each lies in."""
        return self._n_rows

    def __iter__(self) -> Iterator[Row]:
        """All rows, in no order; the index must not change meanwhile."""
        for node in self._nodes.values():
            yield from node.rows()

    def get(self, row: RowId) -> Row | None:
        """The row of this id."""
        node = self._nodes.get(row.key)
        if node is None:
            return None
        return next((found for found in node.rows() if found.id == row), None)

    def contains(self, row: RowId, tier: Tier | None = None) -> bool:
        """Whether the row lies in a tier; in any, if none is named."""
        found = self.get(row)
        return found is not None and (tier is None or bool(found.where & BIT[tier]))

    def rows_of(self, key: bytes) -> tuple[Row, ...]:
        """All rows of a key: forms and kinds side by side."""
        node = self._nodes.get(key)
        return () if node is None else tuple(node.rows())

    def lookup(self, query: Query) -> Hit | None:
        """The rows that a prompt can begin with; changes nothing, so `touch` and `pin` them.

        Returns:
            The longest usable prefix; of equally long ones a pure one. None for a miss.
        """
        return find(self._nodes, query)

    def bytes(self, tier: Tier) -> int:
        """Bytes of the rows in a tier."""
        return self._bytes[tier]

    def count(self, tier: Tier) -> int:
        """Rows in a tier."""
        return self._counts[tier]

    def age(self, row: Row, now: float) -> float:
        """Seconds since the row, or one that builds on it, was used or stored."""
        return self._elapsed.at(now) - row.last_used

    # Rows come and go

    def insert(
        self,
        meta: RowMeta,
        size: int,
        tier: Tier,
        *,
        now: float,
        hits: int = 0,
        age_s: float = 0.0,
    ) -> Row:
        """A row lies in a tier now, perhaps besides others. In any order: parents may come later.

        Args:
            meta: what it is; believed, as it comes from `parse_head` or `encode_head`.
            size: bytes it is counted with; of a row known already, what it was first told.
            tier: where it lies.
            now: seconds.
            hits: how often it was used, as remembered from before.
            age_s: how long ago that was.
        """
        row = self.get(meta.id)
        used = self._elapsed.at(now) - max(age_s, 0.0)
        if row is None:
            row = self._new_row(meta, size)
            row.last_used = used
        row.hits = max(row.hits, hits)
        if not row.where & BIT[tier]:
            row.where |= BIT[tier]
            self._bytes[tier] += row.size
            self._counts[tier] += 1
        self._refresh(row.node, used)
        self._requeue(row)
        return row

    def remove(self, row: Row, tier: Tier) -> bool:
        """The row is gone from a tier, whatever builds on it, pinned or not.

        Returns:
            Whether it has left the index, being in no other tier.
        """
        if not row.where & BIT[tier]:
            return False
        row.where &= ~BIT[tier]
        self._bytes[tier] -= row.size
        self._counts[tier] -= 1
        self._orders[tier].compact(self._counts[tier])
        if row.where & _TIER_BITS:
            return False
        self._n_rows -= 1
        row.node.remove_row(row)
        if row.node.row is None:
            self._prune(row.node)
        return True

    def lost(self, tier: Tier) -> list[Row]:
        """Everything in a tier is gone: forget it. The rows that it took from there."""
        gone = [row for row in self if row.where & BIT[tier]]
        for row in gone:
            self.remove(row, tier)
        return gone

    def superseded(self, row: Row) -> list[Row]:
        """The shorter tails and blocks that this row makes needless, to be removed.

        Their tokens are the beginning of its own, they are pure where it is pure (a mixed one is
        of the same lineage), nothing builds on them and nobody has them pinned. What is lost with
        them are the logits of their last token.
        """
        parent = row.node.parent
        if parent is None or row.flags & FORM_MASK == SNAPSHOT:
            return []
        shorter = row.tokens[:-TOKEN_BYTES]
        nodes = [
            node
            for row_class in {WHOLLY_PURE, row.row_class}
            for node in prefixes(parent, row_class, shorter)
        ]
        old = [old for node in dict.fromkeys(nodes) for old in node.rows()]
        return [other for other in old if self._covers(row, other)]

    # Use

    def touch(self, rows: Iterable[Row], now: float) -> None:
        """These rows were used."""
        self.uses += 1
        used = self._elapsed.at(now)
        for row in rows:
            row.hits += 1
            if row.last_used < used:
                row.last_used = used

    def pin(self, rows: Iterable[Row]) -> None:
        """Keep rows from eviction until `unpin`; counted."""
        pins = self._pins
        for row in rows:
            pins[row] = pins.get(row, 0) + 1

    def unpin(self, rows: Iterable[Row]) -> None:
        """Undo one `pin` each.

        Raises:
            ValueError: a row that is not pinned.
        """
        for row in rows:
            left = self._pins.get(row, 0) - 1
            if left < 0:
                raise ValueError(f"{row!r} is not pinned")
            if left:
                self._pins[row] = left
            else:
                del self._pins[row]
                self._requeue(row)

    def pinned(self, row: Row) -> int:
        """How often a row is pinned."""
        return self._pins.get(row, 0)

    def evict(self, tier: Tier, n_bytes: int, *, most: int | None = None) -> list[Row]:
        """Take rows out of a tier until `n_bytes` are free, the least valuable first.

        At most so many rows as `most` says.

        They have left the tier in the index when this returns, so that nobody finds them; their
        bytes are then the caller's to delete. Fewer bytes than asked for come free if what is
        left is pinned, or others build on it.
        """
        victims: list[Row] = []
        order = self._orders[tier]
        goal = self._bytes[tier] - n_bytes
        while self._bytes[tier] > max(goal, 0) and len(victims) != most:
            row = order.pop(self._may_go)
            if row is None:
                break
            victims.append(row)
            self.remove(row, tier)
        return victims

    def orphans(self) -> Iterator[Row | None]:
        """The rows that no lookup can reach, because a block before them is stored no more.

        None in the place of every other row, so that a walk through many can be interrupted;
        rows must neither come nor go meanwhile.
        """
        reached: dict[Node, bool] = {}
        for row in self:
            if row.flags & WHOLE or row.start == 0 or _reachable(row.node.parent, reached):
                yield None
            else:
                yield row

    # Inside

    def _new_row(self, meta: RowMeta, size: int) -> Row:
        node = self._nodes.get(meta.key)
        if node is None:
            node = self._nodes[meta.key] = Node(meta.key)
        if node.parent is None:
            node.tokens = meta.tokens
            node.end = meta.end
            parent = self._nodes.get(meta.parent)
            if parent is None:
                parent = self._nodes[meta.parent] = Node(meta.parent)
                parent.end = meta.start
            parent.attach(node)
        flags = FORMS.index(meta.form)
        flags |= PURE if meta.pure else 0
        flags |= LOGITS if meta.n_logits else 0
        flags |= WHOLE if meta.whole else 0
        row = Row(node, flags, meta, size)
        node.add_row(row)
        self._n_rows += 1
        return row

    def _prune(self, node: Node) -> None:
        """Take nodes away that have no rows and no children, from here to the root."""
        while node.row is None and node.children is None:
            del self._nodes[node.key]
            parent = node.parent
            if parent is None:
                return
            parent.detach(node)
            node = parent
        if node.children is None:
            for row in node.rows():
                self._requeue(row)

    def _refresh(self, node: Node, used: float) -> None:
        """What a row stands on is as young as the row; stops where that is so already."""
        place: Node | None = node
        while place is not None and place.row is not None:
            fresh = True
            for row in place.rows():
                if row.last_used < used:
                    row.last_used = used
                    fresh = False
            if fresh and place is not node:
                return
            place = place.parent

    def _may_go(self, row: Row) -> bool:
        if row in self._pins:
            return False
        where = row.where & _TIER_BITS
        return (
            row.node.children is None
            or row.flags & FORM_MASK == SNAPSHOT
            or where & (where - 1) != 0  # another tier has it too
        )

    def _requeue(self, row: Row) -> None:
        """Something changed for the better: queue the row where it may go."""
        if self._may_go(row):
            for tier in TIERS:
                if row.where & BIT[tier]:
                    self._orders[tier].queue(row)

    def _covers(self, row: Row, old: Row) -> bool:
        """Whether a row makes needless another one, whose tokens are the beginning of its own."""
        if old.flags & FORM_MASK == SNAPSHOT or old.node.children is not None or old in self._pins:
            return False
        if old.flags & PURE:
            return old.end <= row.pure_end
        return old.row_class == row.row_class and old.tag(old.end) == row.tag(old.end)


def _reachable(node: Node | None, known: dict[Node, bool]) -> bool:
    """Whether blocks lead from the start of the chain to the end of this node."""
    path: list[Node] = []
    answer = False
    while node is not None:
        if node in known:
            answer = known[node]
            break
        path.append(node)
        if node.parent is None:
            answer = node.end == 0
            break
        if all(row.flags & FORM_MASK == SNAPSHOT for row in node.rows()):
            break
        node = node.parent
    for passed in path:
        known[passed] = answer
    return answer
