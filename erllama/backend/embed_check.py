"""What a call that embeds must satisfy before native code sees it. Pure.

llama.cpp ends the process over more rows than n_ubatch or n_ctx, an id outside the vocabulary, a
sequence id out of range; a position past a model's learned ones reads beyond its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence

from erllama.backend.base import EmbedCapabilities, EmbedPlan
from erllama.backend.plan_check import check_adapters
from erllama.errors import DecodeFailed, NotSupported


def check_embed(
    plan: EmbedPlan,
    *,
    can: EmbedCapabilities | None,
    n_vocab: int,
    held: int,
    adapters: Container[int] = (),
    largest: Callable[[Sequence[int]], tuple[int, int]] = lambda ids: (min(ids), max(ids)),
) -> EmbedCapabilities:
    """Refuse a plan that breaks a rule; returns what the engine can.

    Args:
        held: tokens of an input that was begun, and is not complete.
        adapters: the numbers of those that are loaded.
        largest: least and greatest of some ids; an engine may bring a faster one.

    Raises:
        NotSupported: the engine cannot embed.
        DecodeFailed: names the rule.
    """
    if can is None:
        raise NotSupported("this model was not loaded to embed; load it with embeddings=True")
    if not 1 <= len(plan.inputs) <= can.n_inputs:
        raise DecodeFailed(f"{len(plan.inputs)} inputs in a call; 1 to {can.n_inputs} are possible")
    _check_parts(plan, can, held)
    check_adapters(plan.adapters, adapters)
    if sum(map(len, plan.inputs)) > can.n_rows:
        raise DecodeFailed(f"{sum(map(len, plan.inputs))} rows in a call; {can.n_rows} fit")
    for tokens in plan.inputs:
        _check_input(plan.pos, tokens, can, n_vocab, largest)
    return can


def _check_parts(plan: EmbedPlan, can: EmbedCapabilities, held: int) -> None:
    in_parts = plan.more or plan.pos != 0
    if in_parts and (can.whole or len(plan.inputs) != 1):
        raise DecodeFailed("parts of an input come alone, and only where inputs can be cut")
    if plan.pos not in (0, held):
        raise DecodeFailed(
            f"{held} tokens of an input were embedded; a part cannot be at {plan.pos}"
        )


def _check_input(
    pos: int,
    tokens: Sequence[int],
    can: EmbedCapabilities,
    n_vocab: int,
    largest: Callable[[Sequence[int]], tuple[int, int]],
) -> None:
    if not len(tokens):
        raise DecodeFailed("an input of no tokens")
    if pos + len(tokens) > can.n_input:
        raise DecodeFailed(f"an input of {pos + len(tokens)} tokens; {can.n_input} are possible")
    low, high = largest(tokens)
    if low < 0 or high >= n_vocab:
        raise DecodeFailed(f"a token id is outside the vocabulary of {n_vocab}")
