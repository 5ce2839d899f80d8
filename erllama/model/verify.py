"""Judging candidates by the model's own greedy choices (speculative decoding; Leviathan, Kalman
and Matias 2023, for greedy sampling). Pure."""

from __future__ import annotations

from collections.abc import Sequence

from erllama.types import Verified


def judge(candidates: Sequence[int], likeliest: Sequence[int]) -> Verified:
    """How far candidates agree with what the model would have chosen.

    Args:
        candidates: what somebody else guessed.
        likeliest: the model's choice after the context, and after each candidate in turn.

    >>> judge([5, 6, 7], [5, 6, 9, 1])
    Verified(accepted=2, next_token=9)
    """
    accepted = 0
    for candidate, choice in zip(candidates, likeliest, strict=False):
        if candidate != choice:
            break
        accepted += 1
    return Verified(accepted=accepted, next_token=likeliest[accepted])
