"""What every step must satisfy before native code sees it. Pure.

llama.cpp answers most of these mistakes by ending the process (`GGML_ASSERT`, SIGSEGV): an id
outside the vocabulary, a sequence id out of range, more rows than n_batch, sampling where there
are no logits, a gap between positions. ctypes has nothing that catches an assert, so each is
looked for here first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

from erllama.backend.base import (
    AdapterUse,
    Begin,
    Buffer,
    Capabilities,
    Draw,
    StepPlan,
)
from erllama.errors import DecodeFailed

_SEED_END = 2**32 - 1  # LLAMA_DEFAULT_SEED, llama.cpp's word for "any seed"


def sequences(plan: StepPlan) -> list[int]:
    """The sequences that a plan begins or computes, each once."""
    if not (plan.begin or plan.slices):  # as most plans
        return [row.seq for row in plan.rows]
    begun = [begin.seq for begin in plan.begin]
    sliced = [one.seq for one in plan.slices]
    return list(dict.fromkeys([*begun, *sliced, *(row.seq for row in plan.rows)]))


def check_plan(
    plan: StepPlan,
    *,
    capabilities: Capabilities,
    n_vocab: int,
    held: Sequence[int],
    samplers: Container[int],
    least: Sequence[int],
    adapters: Container[int] = (),
    largest: Callable[[Sequence[int]], tuple[int, int]] = lambda ids: (min(ids), max(ids)),
) -> None:
    """Refuse a plan that breaks a rule.

    Args:
        held: for each sequence, how many tokens its cells hold.
        least: for each sequence, the least length above 0 that it can be cut to.
        samplers: the sequences that have one.
        adapters: the numbers of those that are loaded.
        largest: least and greatest of some ids; an engine may bring a faster one.

    Raises:
        DecodeFailed: names the rule.
    """
    if not capabilities.generate and (plan.slices or plan.rows):
        raise DecodeFailed("this model cannot generate")
    if plan.slices and plan.rows:
        raise DecodeFailed("a step has slices of prompts or decode rows, not both")
    n_seq, n_ctx = capabilities.n_seq_max, capabilities.n_ctx
    kept: dict[int, int] = {}
    if plan.end or plan.begin:
        kept = _check_changes(plan, capabilities, n_vocab, held, least, largest)
    if plan.slices:
        _check_slices(plan, capabilities, n_vocab, kept, held, largest)
    computed = {one.seq for one in plan.slices if one.logits}
    for row in plan.rows:
        seq = row.seq
        _check_seq(seq, n_seq)
        if seq in computed:
            raise DecodeFailed("two decode rows of one sequence in a step")
        computed.add(seq)
        _check_id(row.token, n_vocab)
        _check_cells(seq, row.pos, 1, kept.get(seq, held[seq]), n_ctx)
    if plan.n_rows > capabilities.n_batch:
        raise DecodeFailed(f"{plan.n_rows} rows in a step; {capabilities.n_batch} fit")
    if plan.adapters:
        check_adapters(plan.adapters, adapters)
    begun = {begin.seq for begin in plan.begin}
    for draw in plan.draws:
        _check_seq(draw.seq, n_seq)
        has_sampler = draw.seq in begun or (draw.seq in samplers and draw.seq not in plan.end)
        if draw.forced is not None:
            _check_id(draw.forced, n_vocab)
        if draw.logits is not None:
            _check_given(draw.logits, n_vocab)
        has_logits = draw.seq in computed or draw.logits is not None
        _check_draw(draw, has_logits=has_logits, has_sampler=has_sampler)


def _check_changes(
    plan: StepPlan,
    capabilities: Capabilities,
    n_vocab: int,
    held: Sequence[int],
    least: Sequence[int],
    largest: Callable[[Sequence[int]], tuple[int, int]],
) -> dict[int, int]:
    """Check what is ended and begun; returns how many tokens those sequences hold then."""
    kept: dict[int, int] = {}
    for seq in plan.end:
        _check_seq(seq, capabilities.n_seq_max)
        kept[seq] = 0
    for begin in plan.begin:
        seq = begin.seq
        _check_seq(seq, capabilities.n_seq_max)
        _check_history(begin, n_vocab, largest)
        _check_keep(begin, kept.get(seq, held[seq]), least[seq], capabilities)
        kept[seq] = begin.keep
    return kept


def _check_slices(
    plan: StepPlan,
    capabilities: Capabilities,
    n_vocab: int,
    kept: Mapping[int, int],
    held: Sequence[int],
    largest: Callable[[Sequence[int]], tuple[int, int]],
) -> None:
    for one in plan.slices:
        seq, n = one.seq, len(one.tokens)
        _check_seq(seq, capabilities.n_seq_max)
        if not n:
            raise DecodeFailed("a prefill slice of no rows")
        _check_ids(largest(one.tokens), n_vocab)
        _check_cells(seq, one.pos, n, kept.get(seq, held[seq]), capabilities.n_ctx)
        if not 0 <= one.greedy <= n:
            raise DecodeFailed(f"likeliest tokens of {one.greedy} rows in a slice of {n}")
        if one.fill < 0 or (one.fill and not capabilities.fills):
            raise DecodeFailed(f"{one.fill} rows of padding behind a slice")
    if len(plan.slices) > 1:
        _check_joint(plan, capabilities)


def _check_seq(seq: int, n_seq: int) -> None:
    if not 0 <= seq < n_seq:
        raise DecodeFailed(f"sequence {seq}: ids go from 0 to {n_seq - 1}")


def _check_id(token: int, n_vocab: int) -> None:
    if not 0 <= token < n_vocab:
        raise DecodeFailed(f"a token id is outside the vocabulary of {n_vocab}")


def _check_ids(bounds: tuple[int, int], n_vocab: int) -> None:
    for token in bounds:
        _check_id(token, n_vocab)


def _check_history(
    begin: Begin, n_vocab: int, largest: Callable[[Sequence[int]], tuple[int, int]]
) -> None:
    if len(begin.history):
        _check_ids(largest(begin.history), n_vocab)
    if not 0 <= begin.grammar_from <= len(begin.history):
        raise DecodeFailed(
            f"sequence {begin.seq}: its grammar begins at {begin.grammar_from} of "
            f"{len(begin.history)} tokens"
        )


def _check_keep(begin: Begin, held: int, least: int, capabilities: Capabilities) -> None:
    keep = begin.keep
    if not 0 <= keep <= held:
        raise DecodeFailed(f"sequence {begin.seq} holds {held} tokens; {keep} cannot be kept")
    if keep in (0, held):
        return
    if not capabilities.truncate:
        raise DecodeFailed(
            f"sequence {begin.seq}: {keep} of {held} tokens cannot be kept, as this model's state "
            "cannot be cut; keep all or none"
        )
    if keep < least:
        raise DecodeFailed(
            f"sequence {begin.seq}: {keep} of {held} tokens cannot be kept, as what the window "
            f"held before {least} is gone; keep at least {least}, or none"
        )


def _check_cells(seq: int, pos: int, n: int, held: int, n_ctx: int) -> None:
    if pos != held:
        raise DecodeFailed(f"sequence {seq} holds {held} tokens; position {pos} leaves a gap")
    if pos + n > n_ctx:
        raise DecodeFailed(f"sequence {seq} would exceed n_ctx {n_ctx}")


def _check_joint(plan: StepPlan, capabilities: Capabilities) -> None:
    """Refuse slices whose numbers would depend on each other."""
    slices = plan.slices
    lengths = {len(one.tokens) for one in slices}
    n, granule = len(slices[0].tokens), capabilities.granule
    if len(lengths) > 1 or not (n % granule == 0 or 1 < n < granule):
        raise DecodeFailed(
            f"slices of {', '.join(map(str, sorted(lengths)))} rows in a step; several have one "
            f"length, a multiple of {granule} or 2 to {granule - 1}"
        )
    if n * len(slices) > capabilities.n_joint:
        raise DecodeFailed(f"{len(slices)} slices of {n} rows; {capabilities.n_joint} fit in all")
    if [one.seq for one in slices] != list(range(slices[0].seq, slices[0].seq + len(slices))):
        raise DecodeFailed("the slices of a step are not of sequences that follow one another")
    if any(one.greedy or one.fill for one in slices):
        raise DecodeFailed("likeliest tokens or padding of a slice that shares its step")
    if plan.adapters:  # their matrices may be of other types than the model's
        raise DecodeFailed("slices that share a step with adapters in force")


def check_adapters(uses: Sequence[AdapterUse], known: Container[int]) -> None:
    """Refuse adapters that are not loaded.

    Args:
        known: the numbers of those that are.

    Raises:
        DecodeFailed: names the first.
    """
    for use in uses:
        if use.id not in known:
            raise DecodeFailed(f"adapter {use.id} is not loaded")
        if not math.isfinite(use.scale):
            raise DecodeFailed(f"adapter {use.id}: its scale {use.scale} is not finite")


def _check_given(logits: Buffer, n_vocab: int) -> None:
    view: memoryview[Any] = memoryview(logits)  # type: ignore[arg-type]  # numpy has the protocol
    if view.nbytes != 4 * n_vocab:
        raise DecodeFailed(f"given logits are no float32 for each of {n_vocab} tokens")


def _check_draw(draw: Draw, *, has_logits: bool, has_sampler: bool) -> None:
    if not has_logits:
        raise DecodeFailed(f"sequence {draw.seq} has no logits in this step")
    if not has_sampler:
        raise DecodeFailed(f"sequence {draw.seq} has no sampler")
    if not 0 <= draw.seed < _SEED_END:
        raise DecodeFailed("a draw's seed is a 32-bit number below 0xFFFFFFFF")
