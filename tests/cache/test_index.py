from __future__ import annotations

import pytest

from erllama.cache import CacheIndex, Row
from erllama.cache.key import chain_key

from .support import BLOCK, ROOT, found, look, row_meta, run, store, store_chain

CONTEXT = run((1, 128), (2, 128), (3, 100))


@pytest.fixture
def index() -> CacheIndex:
    return CacheIndex()


def ends(rows: list[Row]) -> list[int]:
    return [row.end for row in rows]


def orphans(index: CacheIndex) -> list[Row]:
    return [row for row in index.orphans() if row is not None]


def test_a_row_is_known_by_its_id_and_by_tier(index: CacheIndex) -> None:
    row = store(index, CONTEXT, form="tail", tier="ram")
    mixed = row_meta(CONTEXT, form="tail", pure_end=9).id
    assert index.get(row.id) is row
    assert index.contains(row.id)
    assert index.contains(row.id, "ram")
    assert not index.contains(row.id, "disk")
    assert not index.contains(mixed)
    assert index.get(mixed) is None
    assert index.rows_of(row.key) == (row,)
    assert index.rows_of(bytes(32)) == ()


def test_a_row_in_several_tiers_is_one_row_and_leaves_with_the_last(index: CacheIndex) -> None:
    row = store(index, CONTEXT[:128], tier="disk", size=100)
    assert store(index, CONTEXT[:128], tier="ram", size=100) is row
    assert store(index, CONTEXT[:128], tier="ram", size=100) is row
    assert row.tiers == ("ram", "disk")
    assert (len(index), index.bytes("ram"), index.count("disk")) == (1, 100, 1)
    assert not index.remove(row, "ram_file")
    assert not index.remove(row, "ram")
    assert index.remove(row, "disk")
    assert not index.remove(row, "disk")
    assert (len(index), index.bytes("ram"), index.bytes("disk")) == (0, 0, 0)
    assert (index.count("ram"), index.count("disk")) == (0, 0)
    assert look(index, CONTEXT) is None


def test_mixed_rows_of_two_lineages_lie_side_by_side(index: CacheIndex) -> None:
    one = store(index, CONTEXT[:120], pure_end=100, tier="ram")
    other = store(index, CONTEXT[:120], pure_end=10, tier="disk")
    third = store(index, CONTEXT[:120], pure_end=10, cuts=(30, 60))
    assert len({row.id for row in (one, other, third)}) == 3
    assert store(index, CONTEXT[:120], pure_end=100, tier="ram_file") is one
    assert (one.tiers, other.tiers) == (("ram", "ram_file"), ("disk",))


def test_rows_may_come_in_any_order(index: CacheIndex) -> None:
    store(index, CONTEXT, form="tail")
    store(index, CONTEXT[:256])
    assert look(index, CONTEXT) is None
    store(index, CONTEXT[:128])
    assert found(index, CONTEXT) == (356, True, True)


def test_a_block_that_others_build_on_can_go_and_come_back(index: CacheIndex) -> None:
    rows = store_chain(index, CONTEXT)
    assert index.remove(rows[1], "ram")
    assert found(index, CONTEXT) == (128, True, False)
    assert ends(orphans(index)) == [356]
    store(index, CONTEXT[:256])
    assert found(index, CONTEXT) == (356, True, True)
    assert orphans(index) == []


def test_whatever_was_stored_nothing_is_left_when_all_is_removed(index: CacheIndex) -> None:
    rows = store_chain(index, CONTEXT) + store_chain(index, CONTEXT, pure_end=9)
    for row in rows:
        index.remove(row, "ram")
    assert list(index) == []
    assert index._nodes == {}


def test_orphans_are_what_no_block_leads_to(index: CacheIndex) -> None:
    rows = store_chain(index, run((1, 600)))
    whole = store(index, run((5, 300)), form="snapshot", whole=True)
    part = store(index, run((6, 300)), form="snapshot")
    assert orphans(index) == [part]
    index.remove(rows[0], "ram")
    assert sorted(ends(orphans(index))) == [256, 300, 384, 512, 600]
    assert whole not in orphans(index)


# Losing a tier


def test_what_a_lost_tier_had_alone_is_forgotten(index: CacheIndex) -> None:
    store_chain(index, CONTEXT, tier="ram")
    kept = store(index, CONTEXT[:128], tier="disk")
    assert sorted(ends(index.lost("ram"))) == [128, 256, 356]
    assert list(index) == [kept]
    assert kept.tiers == ("disk",)
    assert (index.bytes("ram"), index.count("ram")) == (0, 0)
    assert found(index, CONTEXT) == (128, True, False)


# Eviction


def test_leaves_go_first_and_a_block_that_others_build_on_stays(index: CacheIndex) -> None:
    store_chain(index, CONTEXT, now=1.0)
    store(index, run((9, 128)), now=2.0)
    assert ends(index.evict("ram", 1)) == [356]
    assert ends(index.evict("ram", 101)) == [256, 128]
    assert len(index) == 1


def test_eviction_takes_no_more_than_was_asked_for(index: CacheIndex) -> None:
    for token in range(5):
        store(index, run((token, 128)), now=float(token), size=100)
    assert [row.tokens[0] for row in index.evict("ram", 200)] == [0, 1]
    assert [row.tokens[0] for row in index.evict("ram", 201)] == [2, 3, 4]
    assert index.evict("ram", 1) == []


def test_the_least_recently_used_goes_first(index: CacheIndex) -> None:
    rows = [store(index, run((token, 128)), now=float(token)) for token in range(4)]
    index.touch([rows[0]], now=10.0)
    assert index.evict("ram", 400) == [rows[1], rows[2], rows[3], rows[0]]


def test_hits_outweigh_age_by_the_logarithm_of_their_number() -> None:
    index = CacheIndex(hit_weight_s=100.0)
    often = store(index, run((1, 128)), hits=7)  # worth three doublings
    newer = store(index, run((2, 128)), now=299.0)
    newest = store(index, run((3, 128)), now=301.0)
    assert index.evict("ram", 300) == [newer, often, newest]


def test_remembered_age_and_hits_count(index: CacheIndex) -> None:
    old = store(index, run((1, 128)), now=1_000.0, age_s=500.0)
    new = store(index, run((2, 128)), now=1_000.0, age_s=100.0)
    assert (index.age(old, 1_001.0), index.age(new, 1_001.0)) == (501.0, 101.0)
    assert index.evict("ram", 200) == [old, new]


def test_what_a_new_row_builds_on_is_as_young_as_the_row(index: CacheIndex) -> None:
    store(index, CONTEXT[:128], now=0.0)
    other = store(index, run((9, 128)), now=5.0)
    tail = store(index, CONTEXT[:200], now=9.0, form="tail")
    index.remove(tail, "ram")
    assert index.evict("ram", 100) == [other]


def test_a_pinned_row_is_never_evicted_until_the_last_pin_is_gone(index: CacheIndex) -> None:
    row = store(index, CONTEXT[:128])
    other = store(index, run((9, 128)), now=5.0)
    index.pin([row])
    index.pin([row])
    assert index.evict("ram", 1_000) == [other]
    index.unpin([row])
    assert index.pinned(row) == 1
    assert index.evict("ram", 1_000) == []
    index.unpin([row])
    assert index.evict("ram", 1_000) == [row]
    with pytest.raises(ValueError, match="not pinned"):
        index.unpin([row])


def test_a_pinned_leaf_keeps_what_it_builds_on(index: CacheIndex) -> None:
    rows = store_chain(index, CONTEXT)
    index.pin([rows[-1]])
    assert index.evict("ram", 1_000) == []
    index.unpin([rows[-1]])
    assert index.evict("ram", 1_000) == rows[::-1]


def test_a_bad_row_can_be_removed_while_it_is_pinned(index: CacheIndex) -> None:
    row = store(index, CONTEXT[:128])
    index.pin([row])
    assert index.remove(row, "ram")
    index.unpin([row])
    assert index.evict("ram", 1_000) == []
    assert len(index) == 0


def test_a_block_with_children_in_another_tier_stays_unless_that_tier_has_it_too(
    index: CacheIndex,
) -> None:
    block = store(index, CONTEXT[:128], tier="ram")
    store(index, CONTEXT[:200], form="tail", tier="disk")
    assert index.evict("ram", 1_000) == []
    store(index, CONTEXT[:128], tier="disk")
    assert index.evict("ram", 1_000) == [block]
    assert block.tiers == ("disk",)


def test_a_snapshot_needs_nobody_and_can_go_before_what_comes_after_it(index: CacheIndex) -> None:
    snapshot = store(index, CONTEXT[:128], form="snapshot", whole=True, now=0.0)
    store(index, CONTEXT[:200], form="snapshot", whole=True, now=0.0)
    index.touch(index.rows_of(chain_key(ROOT, CONTEXT[:200], BLOCK)), 50.0)
    assert index.evict("ram", 100) == [snapshot]


def test_a_clock_that_goes_back_does_not_make_rows_younger_or_older(index: CacheIndex) -> None:
    old = store(index, run((1, 128)), now=1_000.0)
    new = store(index, run((2, 128)), now=1_100.0)
    assert index.age(old, 50.0) == 100.0
    newest = store(index, run((3, 128)), now=60.0)
    assert index.age(newest, 60.0) == 0.0
    assert index.age(old, 70.0) == 120.0
    assert index.evict("ram", 300) == [old, new, newest]


def test_rows_that_come_and_go_leave_nothing_behind_in_the_eviction_order(
    index: CacheIndex,
) -> None:
    for number in range(2_000):
        index.remove(store(index, run((1, 100), (number, 5)), form="tail"), "ram")
    assert len(index._orders["ram"]) <= 64
    assert index._nodes == {}


# Tails that a longer row makes needless


def test_a_tail_is_superseded_by_the_longer_row_that_begins_with_it(index: CacheIndex) -> None:
    tail = store(index, CONTEXT[:200], form="tail")
    shorter = store(index, CONTEXT[:150], form="block")
    other = store(index, [*CONTEXT[:190], 9], form="tail")
    full = store(index, CONTEXT[:256])
    assert set(index.superseded(full)) == {tail, shorter}
    assert index.superseded(tail) == [shorter]
    assert index.superseded(other) == [shorter]


def test_a_pure_tail_is_superseded_by_a_mixed_row_that_is_pure_as_far(index: CacheIndex) -> None:
    tail = store(index, CONTEXT[:200], form="tail")
    finish = store(index, CONTEXT[:230], form="tail", pure_end=200)
    assert index.superseded(finish) == [tail]
    index.remove(finish, "ram")
    foreign = store(index, CONTEXT[:230], form="tail", pure_end=150)
    assert index.superseded(foreign) == []


def test_a_mixed_tail_is_superseded_only_by_its_own_lineage(index: CacheIndex) -> None:
    tail = store(index, CONTEXT[:200], form="tail", pure_end=150, threads=2)
    for pure_end, cuts, threads in (
        (140, (), 2),
        (150, (), 4),
        (256, (), 0),
        (150, (170, 180), 2),
    ):
        foreign = store(index, CONTEXT[:256], pure_end=pure_end, cuts=cuts, threads=threads)
        assert index.superseded(foreign) == []
        index.remove(foreign, "ram")
    for cuts in ((), (200, 230)):
        own = store(index, CONTEXT[:256], pure_end=150, cuts=cuts, threads=2)
        assert index.superseded(own) == [tail]


def test_what_is_pinned_built_on_or_a_snapshot_is_not_superseded(index: CacheIndex) -> None:
    tail = store(index, CONTEXT[:200], form="tail")
    store(index, CONTEXT[:192], form="snapshot")
    full = store(index, CONTEXT[:256])
    index.pin([tail])
    assert index.superseded(full) == []
    index.unpin([tail])
    assert index.superseded(full) == [tail]
    assert index.superseded(store(index, CONTEXT[:256], form="snapshot")) == []


def test_a_short_block_that_a_chain_of_shorter_blocks_stands_on_is_not_superseded(
    index: CacheIndex,
) -> None:
    store(index, CONTEXT[:64], block=64)
    store(index, [*CONTEXT[:64], 5], block=64)
    assert index.superseded(store(index, CONTEXT[:128])) == []


def test_storing_a_row_again_does_not_forget_its_hits(index: CacheIndex) -> None:
    row = store(index, CONTEXT[:128], hits=3)
    store(index, CONTEXT[:128], tier="disk", hits=0)
    assert row.hits == 3
