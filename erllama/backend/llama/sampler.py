"""The sampler of a sequence: a chain, and the report of log probabilities."""

from __future__ import annotations

import math
from typing import Protocol

from erllama.backend.base import Begin, Draw
from erllama.backend.llama.native_sampler import NativeSampler, is_native
from erllama.backend.llama.words import Words
from erllama.errors import DecodeFailed, InvalidGrammar
from erllama.sampling import Greedy
from erllama.sampling.chain import Chain, NothingToDraw
from erllama.sampling.logprobs import LogProbs
from erllama.sampling.running import Floats
from erllama.types import TokenLogprobs

NOT_FINITE = "the logits are not finite: the weights are damaged"


class Sampler(Protocol):
    """Draws the tokens of one sequence."""

    @property
    def mu(self) -> float | None:
        """Mirostat's state behind the latest draw; None without mirostat."""

    def sample(self, logits: Floats, seed: int) -> tuple[int, TokenLogprobs | None]:
        """Draw a token from `logits`, one for each token of the vocabulary.

        Raises:
            DecodeFailed: there is none to draw.
        """


def make_sampler(begin: Begin, words: Words) -> Sampler:
    """The sampler that `begin` asks for; if there can be none, one that says so when it draws."""
    if begin.sampler.stages == (Greedy(),) and begin.sampler.logprobs is None:
        return GreedySampler()
    if is_native(begin.sampler):
        return NativeSampler(begin.sampler)
    try:
        chain = Chain(begin.sampler, words, begin.history, begin.grammar_from)
    except (InvalidGrammar, NothingToDraw) as error:
        return BrokenSampler(str(error))
    chain.mu = begin.mu
    return ChainSampler(chain, begin.sampler.logprobs)


def choose(sampler: Sampler, logits: Floats, draw: Draw) -> tuple[int, TokenLogprobs | None]:
    """The token of a draw, which may be forced or greedy.

    Raises:
        DecodeFailed: there is none to draw.
    """
    if isinstance(sampler, ChainSampler):
        return sampler.sample(logits, draw.seed, greedy=draw.greedy, forced=draw.forced)
    if isinstance(sampler, GreedySampler | NativeSampler):  # these look at no token before
        if draw.forced is not None:
            return draw.forced, None
        if draw.greedy:
            sampler = GreedySampler()
    return sampler.sample(logits, draw.seed)


class GreedySampler:
    """Takes the likeliest token; see `Sampler`. Looks at the logits once, also for damage."""

    mu = None

    def sample(self, logits: Floats, seed: int) -> tuple[int, TokenLogprobs | None]:
        token = int(logits.argmax())  # the first one that is not a number, if there is any
        if not math.isfinite(logits.item(token)):
            raise DecodeFailed(NOT_FINITE)
        return token, None


class ChainSampler:
    """Draws with a chain; see `Sampler`."""

    def __init__(self, chain: Chain, reported: int | None) -> None:
        self._chain = chain
        self._reported = reported

    @property
    def mu(self) -> float | None:
        return self._chain.mu

    def sample(
        self, logits: Floats, seed: int, *, greedy: bool = False, forced: int | None = None
    ) -> tuple[int, TokenLogprobs | None]:
        try:
            token = forced
            if token is None:
                token = self._chain.sample(logits, seed, greedy=greedy)
            else:
                self._chain.accept(token)
        except NothingToDraw as error:
            raise DecodeFailed(str(error)) from None
        return token, self._report(logits, token)

    def _report(self, logits: Floats, token: int) -> TokenLogprobs | None:
        if self._reported is None:
            return None
        report = LogProbs(logits, self._chain.work)
        return TokenLogprobs(token, report.of(token), report.likeliest(self._reported))


class BrokenSampler:
    """Of a plan that cannot be carried out: only its own sequence hears of it."""

    mu = None

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def sample(self, logits: Floats, seed: int) -> tuple[int, TokenLogprobs | None]:
        raise DecodeFailed(self._reason)
