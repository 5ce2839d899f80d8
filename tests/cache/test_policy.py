from __future__ import annotations

from typing import Any

import pytest

from erllama.cache.policy import (
    CachePolicy,
    Cost,
    Reason,
    Span,
    continued_due,
    snapshot_positions,
    snapshot_spacing,
    what_to_save,
    worth_restoring,
)
from erllama.errors import ConfigError

POLICY = CachePolicy(block_tokens=128, min_tokens=10, cold_min_tokens=100)


def spans(reason: Reason, policy: CachePolicy = POLICY, **state: Any) -> list[Span]:
    defaults = {"prompt": 300, "pure_end": 300, "stored": 0, "has_logits": True}
    return what_to_save(policy, reason, **(defaults | state))


def test_a_prompt_is_saved_by_full_blocks_as_it_is_computed() -> None:
    assert spans("cold", computed=128) == [Span(0, 128, "block", 128)]
    assert spans("cold", computed=192, stored=128) == []
    assert spans("cold", computed=256, stored=128) == [Span(128, 256, "block", 256)]


def test_at_the_end_of_a_prompt_what_is_left_becomes_a_tail_with_its_logits() -> None:
    assert spans("cold", computed=300, stored=256) == [Span(256, 300, "tail", 300)]


def test_a_prompt_that_fills_its_last_block_stores_the_logits_with_that_block() -> None:
    assert spans("cold", computed=256, prompt=256, pure_end=256) == [
        Span(0, 128, "block", 128),
        Span(128, 256, "tail", 256),
    ]


def test_without_logits_the_rest_is_a_block() -> None:
    assert spans("evict", computed=300, stored=256, has_logits=False) == [
        Span(256, 300, "block", 300)
    ]


def test_only_the_beginning_of_a_prompt_is_saved_cold_if_the_policy_says_so() -> None:
    policy = CachePolicy(block_tokens=128, cold_min_tokens=100, cold_max_tokens=200)
    assert spans("cold", policy, computed=300) == [Span(0, 128, "block", 128)]


def test_short_prompts_are_not_saved_cold_but_at_the_finish() -> None:
    assert spans("cold", computed=90, prompt=90, pure_end=90) == []
    assert spans("finish", computed=95, prompt=90, pure_end=90) == [Span(0, 95, "tail", 90)]


def test_short_contexts_are_never_saved() -> None:
    assert spans("finish", computed=9, prompt=5, pure_end=5) == []
    assert spans("finish", computed=10, prompt=5, pure_end=5) == [Span(0, 10, "tail", 5)]


def test_a_running_generation_saves_full_blocks_only() -> None:
    assert spans("continued", computed=400, stored=256) == [Span(256, 384, "block", 300)]


@pytest.mark.parametrize("reason", ["finish", "evict", "shutdown"])
def test_an_ending_saves_everything_that_is_not_stored_yet(reason: Reason) -> None:
    assert spans(reason, computed=400, stored=256) == [
        Span(256, 384, "block", 300),
        Span(384, 400, "tail", 300),
    ]
    assert spans(reason, computed=400, stored=400) == []


def test_a_tail_that_grew_is_saved_again_from_the_start_of_its_block() -> None:
    assert spans("finish", computed=310, stored=300) == [Span(256, 310, "tail", 300)]


def test_rows_are_pure_up_to_where_the_rule_was_kept() -> None:
    made = spans("finish", computed=400, pure_end=130)
    assert [(span.end, span.pure_end, span.pure) for span in made] == [
        (128, 128, True),
        (256, 130, False),
        (384, 130, False),
        (400, 130, False),
    ]


@pytest.mark.parametrize("reason", ["cold", "continued", "finish", "evict", "shutdown"])
def test_nothing_is_saved_if_the_cache_is_off(reason: Reason) -> None:
    assert spans(reason, CachePolicy(enabled=False), computed=300) == []


@pytest.mark.parametrize("reason", ["cold", "continued", "finish"])
def test_spans_never_overlap_nor_leave_gaps(reason: Reason) -> None:
    for computed in range(1, 700, 7):
        for stored in range(0, computed, 13):
            made = spans(reason, computed=computed, stored=stored)
            ends = [stored - stored % 128, *(span.end for span in made)]
            assert [span.start for span in made] == ends[:-1]
            assert all(span.end <= computed for span in made)


def test_a_generation_is_saved_after_every_interval() -> None:
    policy = CachePolicy(continued_interval=100)
    assert not continued_due(policy, computed=399, prompt=300, saved_at=0)
    assert continued_due(policy, computed=400, prompt=300, saved_at=0)
    assert not continued_due(policy, computed=499, prompt=300, saved_at=400)
    assert continued_due(policy, computed=500, prompt=300, saved_at=400)
    never = CachePolicy(continued_interval=None)
    assert not continued_due(never, computed=10**6, prompt=1, saved_at=0)


def test_snapshots_stand_further_apart_the_heavier_they_are() -> None:
    policy = CachePolicy(snapshot_share=0.5)
    assert snapshot_spacing(policy, snapshot_bytes=7_900, token_bytes=100) == 192
    assert snapshot_spacing(policy, snapshot_bytes=79_000, token_bytes=100) == 1_600
    assert snapshot_spacing(policy, snapshot_bytes=1, token_bytes=100) == 64
    assert snapshot_spacing(policy, snapshot_bytes=10**6, token_bytes=0) == 1_024


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(0, 64, []), (0, 65, [64]), (0, 1_000, [512, 960]), (512, 1_000, [960]), (0, 513, [512]),
     (64, 1_600, [512, 1_024, 1_536]), (960, 1_000, [])],
)  # fmt: skip
def test_snapshots_are_taken_at_intervals_and_before_the_last_slice(
    start: int, end: int, expected: list[int]
) -> None:
    assert snapshot_positions(start, end, 512) == expected


def test_a_restore_is_done_only_if_it_is_quicker_than_computing() -> None:
    def worth(*costs: Cost, rate: float = 100.0, fixed_s: float = 0.0, **fields: Any) -> bool:
        policy = CachePolicy(**fields)
        return worth_restoring(policy, 200, costs, prefill_tokens_per_s=rate, fixed_s=fixed_s)

    assert worth(Cost(1_900, 1_000.0))
    assert not worth(Cost(2_100, 1_000.0))
    assert not worth(Cost(1_900, 1_000.0), Cost(200, 1_000.0))
    assert not worth(Cost(1_900, 1_000.0), fixed_s=0.2)
    assert not worth(Cost(1_100, 1_000.0), restore_margin=0.5)
    assert worth(Cost(10**9, 0.0)), "an unknown tier is tried"
    assert worth(Cost(10**9, 1.0), rate=0.0), "an unknown prefill rate is no reason"
    assert not worth_restoring(CachePolicy(), 0, [], prefill_tokens_per_s=100.0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"block_tokens": 100}, "block_tokens"),
        ({"block_tokens": 1_024}, "block_tokens"),
        ({"min_tokens": 0}, "min_tokens"),
        ({"restore_margin": 0.0}, "restore_margin"),
        ({"tiers": ("ram", "tape")}, "tiers"),
        ({"tiers": ("ram", "ram")}, "names a tier twice"),
    ],
)
def test_a_policy_with_a_wrong_value_is_refused_by_name(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        CachePolicy(**fields)
