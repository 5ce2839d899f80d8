from __future__ import annotations

from erllama.cache.eviction import EvictionOrder
from erllama.cache.trie import BIT, Node, Row

from .support import row_meta


def make(end: int, used: float) -> Row:
    node = Node(bytes(32))
    node.end = end
    row = Row(node, 0, row_meta([1] * end), 1)
    row.last_used = used
    row.where = BIT["ram"]
    return row


def drain(order: EvictionOrder) -> list[Row]:
    rows = []
    while (row := order.pop(lambda row: True)) is not None:
        rows.append(row)
    return rows


def test_rows_come_by_score_as_it_is_now_not_as_it_was() -> None:
    order = EvictionOrder(BIT["ram"], 10.0)
    rows = [make(1, float(used)) for used in range(4)]
    for row in rows:
        order.queue(row)
        order.queue(row)
    rows[0].last_used = 9.0
    rows[1].hits = 1
    assert drain(order) == [rows[2], rows[3], rows[0], rows[1]]


def test_of_equal_rows_the_deeper_goes_first() -> None:
    order = EvictionOrder(BIT["ram"], 10.0)
    shallow, deep = make(1, 5.0), make(2, 5.0)
    order.queue(shallow)
    order.queue(deep)
    assert drain(order) == [deep, shallow]


def test_a_row_that_must_not_go_is_taken_out_and_can_be_queued_again() -> None:
    order = EvictionOrder(BIT["ram"], 10.0)
    row = make(1, 5.0)
    order.queue(row)
    assert order.pop(lambda row: False) is None
    assert len(order) == 0
    order.queue(row)
    assert drain(order) == [row]


def test_compacting_forgets_rows_that_left_and_they_can_come_back() -> None:
    order = EvictionOrder(BIT["ram"], 10.0)
    rows = [make(1, float(used)) for used in range(200)]
    for row in rows:
        order.queue(row)
    for row in rows[:199]:
        row.where &= ~BIT["ram"]
    order.compact(1)
    assert len(order) == 1
    rows[0].where |= BIT["ram"]
    order.queue(rows[0])
    assert drain(order) == [rows[0], rows[199]]
