from __future__ import annotations

from typing import Any

import pytest

from erllama.cache import CacheIndex, Hit, Named
from erllama.cache.key import chain_key

from .support import BLOCK, ROOT, found, look, packed, reply, run, store, store_chain

CONTEXT = run((1, 128), (2, 128), (3, 100))
"""Two full blocks and a tail of 100 tokens."""


@pytest.fixture
def index() -> CacheIndex:
    return CacheIndex()


def test_an_empty_index_is_a_miss(index: CacheIndex) -> None:
    assert look(index, CONTEXT) is None
    assert look(index, []) is None


def test_the_same_prompt_again_is_an_exact_hit(index: CacheIndex) -> None:
    rows = store_chain(index, CONTEXT)
    hit = look(index, CONTEXT)
    assert hit is not None
    assert (hit.tokens, hit.pure, hit.exact) == (356, True, True)
    assert list(hit.rows) == rows
    assert hit.logits is rows[-1]
    assert list(hit.parts()) == [(rows[0], 0, 128), (rows[1], 128, 128), (rows[2], 256, 100)]


def test_a_longer_prompt_takes_a_tail_down_to_a_multiple_of_64(index: CacheIndex) -> None:
    rows = store_chain(index, CONTEXT)
    hit = look(index, [*CONTEXT, 4])
    assert hit is not None
    assert (hit.tokens, hit.last_tokens, hit.pure, hit.exact) == (320, 64, True, False)
    assert list(hit.rows) == rows
    assert hit.logits is None


@pytest.mark.parametrize(
    ("agree", "expected"), [(0, 0), (63, 0), (64, 64), (130, 128), (255, 192), (256, 256)]
)
def test_what_agrees_is_taken_down_to_a_multiple_of_64(
    index: CacheIndex, agree: int, expected: int
) -> None:
    store_chain(index, CONTEXT)
    assert found(index, CONTEXT[:agree] + [9] * 200) == (expected, True, False)


def test_the_last_token_of_a_prompt_is_computed_unless_its_logits_are_stored(
    index: CacheIndex,
) -> None:
    store_chain(index, CONTEXT)
    assert found(index, CONTEXT[:256]) == (192, True, False)
    store(index, CONTEXT[:256], form="tail")
    assert found(index, CONTEXT[:256]) == (256, True, True)


def test_mixed_rows_are_taken_token_by_token_where_they_reach_further(index: CacheIndex) -> None:
    store(index, CONTEXT[:128])
    store(index, CONTEXT[:230], pure_end=150, form="tail", threads=2)
    prompt = CONTEXT[:200] + [9] * 10
    assert found(index, prompt, threads=2) == (200, False, False)
    assert found(index, prompt, threads=2, exact=True) == (128, True, False)
    assert found(index, prompt, threads=3) == (128, True, False)
    # the row has all of it, but the last token must be computed; its logits are another token's
    assert found(index, CONTEXT[:200], threads=2) == (199, False, False)


def test_an_equally_long_pure_prefix_is_preferred(index: CacheIndex) -> None:
    store(index, CONTEXT[:128], pure_end=5)
    pure = store(index, CONTEXT[:128])
    hit = look(index, CONTEXT[:129])
    assert hit is not None
    assert (hit.rows, hit.pure) == ((pure,), True)


def test_mixed_rows_lead_on_where_a_pure_one_is_missing(index: CacheIndex) -> None:
    mixed = store(index, CONTEXT[:128], pure_end=5)
    store(index, CONTEXT[:256])
    assert found(index, CONTEXT) == (256, False, False)
    assert found(index, CONTEXT, exact=True) == (0, True, False)
    hit = look(index, CONTEXT)
    assert hit is not None
    assert hit.rows[0] is mixed


def test_the_pure_beginning_of_a_mixed_row_serves_exact_requests(index: CacheIndex) -> None:
    store(index, CONTEXT[:128], pure_end=100)
    assert found(index, CONTEXT[:128], exact=True) == (64, True, False)
    store(index, CONTEXT[:256], pure_end=200)
    assert found(index, CONTEXT, exact=True) == (64, True, False)
    store(index, CONTEXT[:128])
    assert found(index, CONTEXT, exact=True) == (192, True, False)


def test_an_exact_hit_of_mixed_rows_beats_a_shorter_pure_one(index: CacheIndex) -> None:
    store_chain(index, CONTEXT, pure_end=130)
    store(index, CONTEXT[:128])
    assert found(index, CONTEXT) == (356, False, True)
    assert found(index, CONTEXT, exact=True) == (128, True, False)


def test_one_of_thousands_of_siblings_is_found(index: CacheIndex) -> None:
    shared = run((1, 128))
    store(index, shared)
    for number in range(3_000):
        store(index, [*shared, *run((2, 64), (1_000 + number, 40))], form="tail")
    assert found(index, [*shared, *run((2, 64), (2_500, 40))]) == (232, True, True)
    assert found(index, [*shared, *run((2, 64), (9_999, 64))]) == (192, True, False)
    assert found(index, [*shared, *run((2, 63), (9_999, 64))]) == (128, True, False)


def test_a_gap_ends_the_prefix(index: CacheIndex) -> None:
    store(index, CONTEXT[:128])
    store(index, CONTEXT, form="tail")
    assert found(index, CONTEXT) == (128, True, False)


def test_another_namespace_is_a_miss(index: CacheIndex) -> None:
    store_chain(index, CONTEXT)
    assert look(index, CONTEXT, namespace=bytes(32)) is None


def test_logits_that_depend_on_the_threads_are_for_the_same_number_only(index: CacheIndex) -> None:
    prompt = CONTEXT[:65]
    store(index, prompt, form="tail", threads=2)
    assert found(index, prompt, threads=2) == (65, True, True)
    assert found(index, prompt, threads=3) == (64, True, False)


# Going on from a row by its key


# Going on behind a reply


def ask(index: CacheIndex, named: Named, text: list[int] | None = None, **options: Any) -> Hit:
    """What a prompt gets that names a reply with the tokens of `CONTEXT`, and goes on behind it."""
    prompt = [*CONTEXT[: named.end], *([7] if text is None else text)]
    hit = look(index, prompt, resume=named, exact=True, **options)
    return hit or Hit(tokens=0, rows=(), last_tokens=0, pure=True, exact=False)


def test_a_reply_gets_its_own_mixed_rows_though_pure_ones_came_later(index: CacheIndex) -> None:
    own = store_chain(index, CONTEXT, pure_end=100)
    store_chain(index, CONTEXT)
    named = reply(CONTEXT, pure_end=100)
    hit = ask(index, named)
    assert (hit.tokens, hit.resumed, hit.pure, hit.exact) == (356, True, False, False)
    assert list(hit.rows) == own
    assert hit.lineage == own[-1].lineage
    # the prompt is no longer than the reply, or another one
    assert not ask(index, named, text=[]).resumed
    assert not ask(index, Named(bytes(32))).resumed


def test_of_two_replies_of_the_same_tokens_each_gets_its_own_rows(index: CacheIndex) -> None:
    for pure_end, cuts in ((100, ()), (120, ()), (100, (140, 160))):
        own = store_chain(index, CONTEXT, pure_end=pure_end, cuts=cuts)
        for _ in range(2):
            hit = ask(index, reply(CONTEXT, pure_end=pure_end, cuts=cuts))
            assert list(hit.rows) == own
    assert not ask(index, reply(CONTEXT, pure_end=100, cuts=(140, 161))).resumed


def test_a_longer_row_that_took_the_place_of_the_named_one_is_cut_at_its_end(
    index: CacheIndex,
) -> None:
    named = reply(CONTEXT[:300], pure_end=200)
    store(index, CONTEXT[:128])
    store(index, CONTEXT[:256], pure_end=200)
    for cuts in ((), (300, 340), (340, 350)):
        longer = store(index, CONTEXT, pure_end=200, cuts=cuts, form="tail")
        hit = ask(index, named, text=[5] * 20)
        assert (hit.tokens, hit.last_tokens, hit.rows[-1], hit.resumed) == (300, 44, longer, True)
        assert hit.lineage == longer.lineage.upto(300)
        index.remove(longer, "ram")
    for other in (
        store(index, CONTEXT, pure_end=200, cuts=(280, 310), form="tail"),
        store(index, CONTEXT, pure_end=201, form="tail"),
        store(index, CONTEXT, form="tail"),
        store(index, [*CONTEXT[:299], 9, 9], pure_end=200, form="tail"),
        store(index, CONTEXT, pure_end=200, form="tail", threads=7),
    ):
        assert not ask(index, named, text=[5] * 20).resumed
        index.remove(other, "ram")


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_reply_of_which_a_row_is_gone_is_not_gone_on_behind(
    index: CacheIndex, missing: int
) -> None:
    rows = store_chain(index, CONTEXT, pure_end=100)
    store(index, CONTEXT[:64])
    index.remove(rows[missing], "ram")
    hit = ask(index, reply(CONTEXT, pure_end=100))
    assert (hit.tokens, hit.resumed, hit.pure) == (64, False, True)


def test_before_the_end_of_its_prompt_a_reply_has_pure_rows(index: CacheIndex) -> None:
    store(index, CONTEXT[:128], pure_end=5)
    first = store(index, CONTEXT[:128])
    second = store(index, CONTEXT[:256], pure_end=150)
    last = store(index, CONTEXT, pure_end=150, form="tail")
    named = reply(CONTEXT, pure_end=150)
    assert ask(index, named).rows == (first, second, last)
    index.remove(first, "ram")
    assert not ask(index, named).resumed


def test_a_key_alone_is_taken_for_the_rows_that_lie_there(index: CacheIndex) -> None:
    rows = store_chain(index, CONTEXT, pure_end=100)
    hit = look(index, [*CONTEXT, 7], resume=Named(chain_key(ROOT, CONTEXT, BLOCK)), exact=True)
    assert hit is not None
    assert (list(hit.rows), hit.resumed) == (rows, True)


def test_a_reply_of_one_token_goes_on_from_its_whole_prompt(index: CacheIndex) -> None:
    own = store_chain(index, CONTEXT)
    store(index, CONTEXT, pure_end=300)  # of another reply
    named = reply(CONTEXT, pure_end=356)
    hit = ask(index, named, sampled=True)
    assert (hit.tokens, hit.resumed, hit.pure) == (356, True, False)
    assert list(hit.rows) == own
    other = ask(index, named)
    assert (other.tokens, other.resumed) == (320, False)


def test_the_end_of_a_longer_prompt_is_not_that_of_a_shorter_one(index: CacheIndex) -> None:
    store(index, CONTEXT[:128])
    store(index, CONTEXT[:256], form="tail", pure_end=200)  # the same prompt, and more of a reply
    prompt = reply(CONTEXT[:200], pure_end=200)
    assert ask(index, prompt, sampled=True).resumed
    assert not ask(index, reply(CONTEXT[:198], pure_end=198), sampled=True).resumed
    assert ask(index, reply(CONTEXT[:192], pure_end=192), sampled=True).resumed


def test_a_key_of_other_tokens_is_not_heeded(index: CacheIndex) -> None:
    other = [*CONTEXT[:300], 8]
    store_chain(index, CONTEXT, pure_end=100)
    store_chain(index, other, pure_end=100)
    hit = look(index, [*CONTEXT, 7], resume=reply(other, pure_end=100))
    assert hit is not None
    assert (hit.tokens, hit.resumed) == (356, False)


# Models whose state cannot be cut


def test_a_prompt_of_such_a_model_begins_at_a_snapshot(index: CacheIndex) -> None:
    store(index, CONTEXT[:64], form="snapshot", whole=True)
    furthest = store(index, CONTEXT[:192], form="snapshot", whole=True)
    store(index, CONTEXT[:320], form="snapshot", whole=True)
    hit = look(index, CONTEXT[:310], snapshots=True)
    assert hit is not None
    assert (hit.tokens, hit.rows, hit.snapshot) == (192, (), furthest)
    assert (hit.pure, hit.exact) == (True, False)
    assert hit.all_rows == (furthest,)
    assert found(index, CONTEXT[:191], snapshots=True) == (64, True, False)
    assert found(index, CONTEXT[:63], snapshots=True) == (0, True, False)


def test_a_snapshot_of_the_whole_prompt_needs_its_logits(index: CacheIndex) -> None:
    store(index, CONTEXT[:192], form="snapshot", whole=True)
    row = store(index, CONTEXT, form="snapshot", whole=True)
    assert found(index, CONTEXT, snapshots=True) == (192, True, False)
    index.remove(row, "ram")
    row = store(index, CONTEXT, form="snapshot", whole=True, n_logits=50)
    assert found(index, CONTEXT, snapshots=True) == (356, True, True)
    hit = look(index, CONTEXT, snapshots=True)
    assert hit is not None
    assert hit.logits is row


def test_a_snapshot_beside_a_multiple_of_64_is_not_pure_to_go_on_from(index: CacheIndex) -> None:
    store(index, CONTEXT[:64], form="snapshot", whole=True)
    store(index, CONTEXT[:100], form="snapshot", whole=True)
    assert found(index, CONTEXT, snapshots=True) == (100, False, False)
    assert found(index, CONTEXT, snapshots=True, exact=True) == (64, True, False)


def test_a_partial_snapshot_needs_the_blocks_before_it(index: CacheIndex) -> None:
    snapshot = store(index, CONTEXT[:192], form="snapshot")
    assert look(index, CONTEXT, snapshots=True) is None
    first = store(index, CONTEXT[:128])
    assert look(index, CONTEXT, snapshots=True) is None
    second = store(index, CONTEXT[:256])
    hit = look(index, CONTEXT, snapshots=True)
    assert hit is not None
    assert (hit.tokens, hit.last_tokens, hit.rows) == (192, 64, (first, second))
    assert hit.all_rows == (first, second, snapshot)


def test_a_partial_snapshot_of_mixed_rows_is_not_for_exact_requests(index: CacheIndex) -> None:
    store(index, CONTEXT[:192], form="snapshot", pure_end=150)
    store(index, CONTEXT[:128])
    store(index, CONTEXT[:230], pure_end=150)
    assert found(index, CONTEXT, snapshots=True) == (192, False, False)
    assert found(index, CONTEXT, snapshots=True, exact=True) == (0, True, False)


def test_blocks_alone_are_of_no_use_to_such_a_model_nor_snapshots_to_others(
    index: CacheIndex,
) -> None:
    store(index, CONTEXT[:128])
    assert look(index, CONTEXT, snapshots=True) is None
    store(index, CONTEXT[:192], form="snapshot", whole=True)
    assert found(index, CONTEXT) == (128, True, False)


def test_a_resumed_stream_goes_on_from_its_own_snapshot(index: CacheIndex) -> None:
    end = store(index, CONTEXT, form="snapshot", whole=True, pure_end=150)
    store(index, CONTEXT, form="snapshot", whole=True)
    hit = ask(index, reply(CONTEXT, pure_end=150), snapshots=True)
    assert (hit.snapshot, hit.resumed, hit.tokens) == (end, True, 356)
    assert not ask(index, reply(CONTEXT, pure_end=151), snapshots=True).resumed


def test_a_resumed_stream_has_the_rows_beside_its_snapshot(index: CacheIndex) -> None:
    store(index, CONTEXT[:128])
    store(index, CONTEXT[:230])
    snapshot = store(index, CONTEXT[:200], form="snapshot", pure_end=150)
    named = reply(CONTEXT[:200], pure_end=150)
    assert not ask(index, named, snapshots=True).resumed  # those rows are of another lineage
    rows = store(index, CONTEXT[:210], pure_end=150)
    hit = ask(index, named, snapshots=True)
    assert (hit.snapshot, hit.rows[-1], hit.last_tokens) == (snapshot, rows, 72)


def test_blocks_may_have_another_size(index: CacheIndex) -> None:
    context = run((1, 256), (2, 256), (3, 10))
    for end in (256, 512, 522):
        store(index, context[:end], block=256, form="tail" if end == 522 else "block")
    assert found(index, context, block_tokens=256) == (522, True, True)
    assert packed(context)[:4] == b"\1\0\0\0"


def test_a_row_that_agrees_in_nothing_is_not_taken_along(index: CacheIndex) -> None:
    block = store(index, CONTEXT[:128], pure_end=5)
    store(index, [*CONTEXT[:128], 8, 8], pure_end=5)
    hit = look(index, [*CONTEXT[:128], 9, 9])
    assert hit is not None
    assert (hit.rows, hit.last_tokens) == ((block,), 128)


@pytest.mark.parametrize("order", [1, -1])
def test_of_rows_of_the_same_tokens_the_one_that_is_pure_far_enough_is_cut(
    index: CacheIndex, order: int
) -> None:
    for pure_end, threads in [(10, 2), (100, 4)][::order]:
        store(index, CONTEXT[:120], pure_end=pure_end, threads=threads)
    hit = look(index, CONTEXT, exact=True)
    assert hit is not None
    assert (hit.tokens, hit.rows[0].pure_end) == (64, 100)


def test_rows_that_end_before_a_partial_snapshot_are_not_enough_for_it(index: CacheIndex) -> None:
    store(index, CONTEXT[:192], form="snapshot")
    store(index, CONTEXT[:128])
    store(index, [*CONTEXT[:160], 9], pure_end=130)
    assert look(index, CONTEXT, snapshots=True) is None


def test_of_many_siblings_the_one_that_is_pure_furthest_is_found_among_those_that_agree_longer(
    index: CacheIndex,
) -> None:
    prompt = run((1, 300))
    for token in (0, 2):
        store(index, run((1, 200), (token, 10)), block=256, pure_end=64)
    store(index, run((1, 130), (5, 20)), block=256, pure_end=130)
    assert found(index, prompt, block_tokens=256, exact=True) == (128, True, False)


@pytest.mark.parametrize("order", [1, -1])
def test_after_mixed_rows_a_pure_block_is_preferred_to_a_mixed_one(
    index: CacheIndex, order: int
) -> None:
    store(index, CONTEXT[:128], pure_end=5)
    for pure_end in [256, 5][::order]:
        store(index, CONTEXT[:256], pure_end=pure_end)
    hit = look(index, CONTEXT)
    assert hit is not None
    assert hit.rows[1].pure
