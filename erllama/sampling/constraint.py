"""A grammar as a stage of a chain. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from erllama.errors import InvalidGrammar
from erllama.sampling.automaton import Automaton, TooAmbiguous
from erllama.sampling.ban import leave
from erllama.sampling.chain import NothingToDraw
from erllama.sampling.gbnf import parse_gbnf
from erllama.sampling.masks import Follower, Masks
from erllama.sampling.running import Floats

_AMBIGUOUS = "grammar: the text can be read in too many ways to follow; make the rules unambiguous"


def compile_grammar(text: str) -> Automaton:
    """The automaton of a GBNF grammar.

    Raises:
        InvalidGrammar: with the place.
    """
    try:
        return Automaton(parse_gbnf(text))
    except TooAmbiguous:
        reason = "the beginning can be read in too many ways; make the rules unambiguous"
        raise InvalidGrammar(reason, text=text, at=0) from None


class GrammarConstraint:
    """See `erllama.sampling.chain.Constraint`. Tokens in `ending` may come where a text may end."""

    def __init__(self, masks: Masks, ending: Sequence[int]) -> None:
        self._follower = Follower(masks)
        self._ending = np.array(ending, np.intp)

    def apply(self, logits: Floats) -> None:
        try:
            allowed = self._follower.allowed()
        except TooAmbiguous:
            raise NothingToDraw(_AMBIGUOUS) from None
        ends = logits[self._ending]
        leave(logits, allowed)
        logits[self._ending] = ends if self._follower.complete else -np.inf

    def accept(self, token: int) -> None:
        if token in self._ending:
            accepted = self._follower.complete
        else:
            accepted = self._accepted(token)
        if not accepted:
            raise NothingToDraw(f"grammar: token {token} of the text so far does not match it")

    def _accepted(self, token: int) -> bool:
        try:
            return self._follower.accept(token)
        except TooAmbiguous:
            raise NothingToDraw(_AMBIGUOUS) from None
