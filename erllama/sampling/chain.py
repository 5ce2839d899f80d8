"""A sampler chain at work: from one row of logits to a token. Pure.

Contract
    State     the history of tokens, and what stages keep of it; mirostat's `mu`. All but `mu` is
              a function of the history, so a chain that is built anew from the tokens goes on as
              the old one would have.
    Writers   the lane, through `sample`.
    Speed     no stage goes through the vocabulary token by token, and no more tokens are ranked
              than can be drawn, where that can be told beforehand (docs/sampling.md has figures).

The draws are those of llama.cpp's samplers for the same seed, with the candidates ranked from the
likeliest down. The library itself sorts 128,000 candidates in 10 ms, and its penalties and DRY
look each of them up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from erllama.sampling import filters, prefix
from erllama.sampling.candidates import Candidates, Work
from erllama.sampling.history import Breakers, DryPenalty, History, Repetition
from erllama.sampling.mirostat import MirostatState
from erllama.sampling.plan import (
    Dry,
    Grammar,
    Greedy,
    IgnoreEnd,
    LogitBias,
    MinP,
    Mirostat,
    Penalties,
    SamplerPlan,
    Stage,
    Temperature,
    TopK,
    TopP,
    Typical,
    Xtc,
)
from erllama.sampling.running import Floats
from erllama.sampling.seeds import xtc_seed
from erllama.sampling.uniform import Uniform


class NothingToDraw(Exception):
    """Every token is banned; the message says by what."""


class Constraint(Protocol):
    """What a text must match; follows it token by token."""

    def apply(self, logits: Floats) -> None:
        """Ban the tokens that cannot come next, in place."""

    def accept(self, token: int) -> None:
        """Go on behind `token`.

        Raises:
            NothingToDraw: it could not come there.
        """


class Words(Protocol):
    """What a chain asks of a vocabulary."""

    @property
    def size(self) -> int: ...

    def ending(self) -> Sequence[int]:
        """The ids that end a generation."""

    def breakers(self, texts: Sequence[str]) -> Breakers:
        """How tokens may spell DRY's sequence breakers."""

    def constraint(self, stage: Grammar) -> Constraint:
        """A follower of what rules the text, at its beginning.

        Raises:
            InvalidGrammar: says where.
        """


Edit = Callable[[Floats], None]
"""Changes a copy of the logits in place."""


class Chain:
    """The stages of one request.

    Args:
        history: the context before the first draw.
        grammar_from: how many tokens of `history` come before the text that the grammar rules.

    Attributes:
        work: free for other uses between two draws.

    Raises:
        InvalidGrammar: the plan's grammar cannot be used.
        NothingToDraw: `history` does not match the grammar.
    """

    def __init__(
        self, plan: SamplerPlan, words: Words, history: Sequence[int] = (), grammar_from: int = 0
    ) -> None:
        self._words = words
        self._history = History(history) if plan.needs_history else None
        self._constraint: Constraint | None = None
        self._mirostat: MirostatState | None = None
        self._edits: list[Edit] = []
        self._filters: list[Stage] = []
        self._greedy = not plan.draws
        self._uniform = Uniform()
        self.work = Work()
        for stage in plan.stages:
            self._add(stage, history[grammar_from:])

    @property
    def mu(self) -> float | None:
        """Mirostat's state; None without mirostat."""
        return None if self._mirostat is None else self._mirostat.mu

    @mu.setter
    def mu(self, value: float | None) -> None:
        if self._mirostat is not None and value is not None:
            self._mirostat.mu = value

    def sample(self, logits: Floats, seed: int, *, greedy: bool = False) -> int:
        """Draw a token from `logits`, one for each token of the vocabulary, and remember it.

        Args:
            greedy: take the likeliest one that is not banned, in place of a draw.

        Raises:
            NothingToDraw: no token is left.
        """
        token = self._draw(self._edited(logits), seed, greedy or self._greedy)
        self.accept(token)
        return token

    def accept(self, token: int) -> None:
        """Remember a token that was chosen otherwise.

        Raises:
            NothingToDraw: the grammar does not allow it.
        """
        if self._constraint is not None:
            self._constraint.accept(token)
        if self._history is not None:
            self._history.append(token)

    def _edited(self, logits: Floats) -> Floats:
        if self._edits:
            edited = self.work.array("edited", len(logits))
            np.copyto(edited, logits)
            for edit in self._edits:
                edit(edited)
            return edited
        return logits

    def _draw(self, logits: Floats, seed: int, greedy: bool) -> int:
        if greedy:
            token = int(logits.argmax())
            if logits[token] == -np.inf:
                raise NothingToDraw(self._reason())
            return token
        bound = None if self._mirostat is None else self._mirostat.bound
        first = prefix.ranked(logits, self._filters, self.work, bound)
        down = first.down
        if not len(down):
            raise NothingToDraw(self._reason())
        start, left = self._narrowed(first, seed)
        uniform = self._uniform.double(seed)
        if self._mirostat is not None:
            rank = self._mirostat.pick(left, uniform, self._words.size)
        else:
            rank = filters.pick(left, uniform)
        return filters.token_at(logits, down, start + rank)

    def _narrowed(self, candidates: Candidates, seed: int) -> tuple[int, Candidates]:
        """The candidates that pass all filters, and the rank of the first of them."""
        first = 0
        for stage in self._filters:
            if isinstance(stage, Temperature):
                candidates = candidates.divided(np.float32(stage.t))
                continue
            start, stop = self._run(stage, candidates, seed)
            first, candidates = first + start, candidates.kept(start, stop)
        return first, candidates

    def _run(self, stage: Stage, candidates: Candidates, seed: int) -> filters.Run:
        match stage:
            case TopK(k):
                return 0, min(k, len(candidates))
            case Typical(p):
                return filters.typical(candidates, p)
            case TopP(p):
                return filters.top_p(candidates, p)
            case MinP(p):
                return filters.min_p(candidates, p)
            case Xtc(probability, threshold):
                if self._uniform.single(xtc_seed(seed)) <= probability:
                    return filters.xtc(candidates, threshold)
        return 0, len(candidates)

    def _add(self, stage: Stage, ruled: Sequence[int]) -> None:
        match stage:
            case LogitBias():
                self._edits.append(_bias(stage))
            case IgnoreEnd():
                ending = np.array(self._words.ending(), np.intp)
                self._edits.append(lambda logits: logits.put(ending, -np.inf))
            case Grammar():
                self._constraint = self._words.constraint(stage)
                for token in ruled:
                    self._constraint.accept(token)
                self._edits.append(self._constraint.apply)
            case Penalties():
                self._edits.append(Repetition(stage, self._tokens(), self._words.size).apply)
            case Dry():
                breakers = self._words.breakers(stage.breakers)
                dry = DryPenalty(stage, self._tokens(), breakers, self._words.size)
                self._edits.append(dry.apply)
            case Mirostat():
                self._mirostat = MirostatState(stage)
            case Greedy():
                pass
            case _:
                self._filters.append(stage)

    def _tokens(self) -> History:
        if self._history is None:
            raise RuntimeError("a stage looks at the history, and the plan says that none does")
        return self._history

    def _reason(self) -> str:
        if self._constraint is not None:
            return "the grammar allows no token of this vocabulary here; give it another way on"
        return "logit_bias and ignore_eos ban every token; ban fewer"


def _bias(stage: LogitBias) -> Edit:
    tokens = np.array(stage.tokens, np.intp)
    values = np.array(stage.values, np.float32)
    banned = np.array(stage.banned, np.intp)

    def edit(logits: Floats) -> None:
        logits[tokens] += values
        logits[banned] = -np.inf

    return edit
