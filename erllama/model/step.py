"""From decisions to plans of the engine, and decoding on without asking. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from erllama.backend.base import StepOutcome, StepPlan
from erllama.model.generation import Generation


def decode_plan(
    number: int, generations: Sequence[Generation], *, end: Sequence[int] = ()
) -> StepPlan:
    """One row of each generation, and a draw from each; all have the same adapters."""
    return StepPlan(
        number=number,
        end=tuple(end),
        begin=tuple(begin for one in generations for begin in one.begin()),
        rows=tuple(one.row() for one in generations),
        draws=tuple(one.draw(one.position + 1) for one in generations),
        adapters=generations[0].adapters,
    )


def slice_plan(
    number: int,
    generations: Sequence[Generation],
    *,
    limit: int,
    granule: int,
    end: Sequence[int] = (),
) -> StepPlan:
    """A slice of each prompt, and a draw behind each last one; all have the same adapters."""
    slices = [(one, one.slice(limit, granule)) for one in generations]
    ends = [(one, prefill) for one, prefill in slices if prefill.logits]
    return StepPlan(
        number=number,
        end=tuple(end),
        begin=tuple(begin for one in generations for begin in one.begin()),
        slices=tuple(prefill for _, prefill in slices),
        draws=tuple(draw for one, _ in ends for draw in one.first_draws()),
        keep_logits=any(one.wants_logits(prefill) for one, prefill in ends),
        adapters=generations[0].adapters,
    )


def start_plan(
    number: int, generations: Sequence[Generation], *, end: Sequence[int] = ()
) -> StepPlan:
    """The first draws of generations whose prompts were restored with their logits."""
    return StepPlan(
        number=number,
        end=tuple(end),
        begin=tuple(begin for one in generations for begin in one.begin()),
        draws=tuple(draw for one in generations for draw in one.first_draws()),
    )


LEAD = 32
"""Most steps that a chain is ahead of an event loop that is held up: nothing is saved, and no
reader's buffer is looked at, before the loop has heard of them."""


class Chain:
    """Decode steps that follow one another with nothing to decide between them.

    `follow` is asked on the lane, while the event loop may not have heard of the outcome yet: it
    reads what does not change while a chain runs, and what the loop writes here. What it cannot
    know, such as a stop sequence, ends the generation one step later; the cell that was computed
    in vain is dropped.

    Args:
        number: of its first step.

    Attributes:
        stopped: there is something to decide.
        heard: the latest step that the event loop has heard of.
    """

    def __init__(self, number: int, generations: Sequence[Generation]) -> None:
        self._generations = {one.seq: one for one in generations}
        self._adapters = generations[0].adapters
        self.stopped = False
        self.heard = number - 1

    @property
    def seqs(self) -> tuple[int, ...]:
        """The sequences that it decodes."""
        return tuple(self._generations)

    def follow(self, outcome: StepOutcome) -> StepPlan | None:
        """The decode step after `outcome`; None: the event loop has to decide."""
        if self.stopped or outcome.status != "done" or outcome.failures:
            return None
        if outcome.number - self.heard >= LEAD:
            return None
        rows, draws = [], []
        for sampled in outcome.sampled:
            generation = self._generations[sampled.seq]
            position = outcome.positions[sampled.seq]
            if sampled.end or generation.last_at(position):
                return None
            rows.append(generation.row_at(position, sampled.token))
            draws.append(generation.draw(position + 1))
        return StepPlan(
            number=outcome.number + 1,
            rows=tuple(rows),
            draws=tuple(draws),
            adapters=self._adapters,
        )
