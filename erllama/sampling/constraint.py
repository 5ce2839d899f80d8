"""A grammar as a stage of a chain. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from erllama.errors import InvalidGrammar
from erllama.sampling.automaton import Automaton
from erllama.sampling.ban import leave
from erllama.sampling.chain import NothingToDraw
from erllama.sampling.effort import Pause, TooAmbiguous
from erllama.sampling.gbnf import parse_gbnf
from erllama.sampling.masks import Follower, Masks
from erllama.sampling.running import Floats
from erllama.sampling.token_bytes import TokenBytes

_AMBIGUOUS = "grammar: the text can be read in too many ways to follow; make the rules unambiguous"
_AMBIGUOUS_AT_ONCE = "the beginning can be read in too many ways; make the rules unambiguous"
_NO_TOKEN = "no token of this vocabulary can begin a text of it"


def compile_grammar(text: str, pause: Pause | None = None) -> Automaton:
    """The automaton of a GBNF grammar.

    Raises:
        InvalidGrammar: with the place.
    """
    try:
        return Automaton(parse_gbnf(text, pause))
    except TooAmbiguous:
        raise InvalidGrammar(_AMBIGUOUS_AT_ONCE, text=text, at=0) from None


def begun_masks(text: str, tokens: TokenBytes, pause: Pause | None = None) -> Masks:
    """The masks of a GBNF grammar, the first of them ready.

    Raises:
        InvalidGrammar: also if no text can be begun, or not within the steps of a mask.
    """
    masks = Masks(compile_grammar(text, pause), tokens)
    try:
        masks.begin(pause)
        stuck = not masks.automaton.complete(0) and not masks.mask(0).any()
    except TooAmbiguous:
        raise InvalidGrammar(_AMBIGUOUS_AT_ONCE, text=text, at=0) from None
    if stuck:
        raise InvalidGrammar(_NO_TOKEN, text=text, at=0)
    return masks


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
