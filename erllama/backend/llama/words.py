"""What sampler chains ask of a vocabulary, remembered for the next chain.

Reading the texts of 128,000 tokens takes a good part of a second, so it is done when the first
request needs them, and not on the lane if `prepare` was called before.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from erllama.backend.llama.vocabulary import Vocabulary
from erllama.sampling import Dry, Grammar, IgnoreEnd, SamplerPlan, check_biases
from erllama.sampling.chain import Constraint
from erllama.sampling.constraint import GrammarConstraint, begun_masks, compile_grammar
from erllama.sampling.effort import Pause
from erllama.sampling.history import Breakers
from erllama.sampling.masks import Masks
from erllama.sampling.spelling import merged, spelling
from erllama.sampling.token_bytes import TokenBytes

if TYPE_CHECKING:
    from erllama.sampling.guided import Guide

T = TypeVar("T")

_COMPILED = 16
_SPELLINGS = 512


class Words:
    """See `erllama.sampling.chain.Words`. `prepare` may be called from any thread.

    The lane never waits for a grammar or a breaker that a worker is at: those are made without the
    lock, and if need be twice.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._lock = threading.Lock()
        self._tokens: TokenBytes | None = None
        self._ending: list[int] | None = None
        self._spellings: OrderedDict[str, Breakers] = OrderedDict()
        self._masks: OrderedDict[Grammar, Masks] = OrderedDict()
        self._starting = threading.Lock()
        self._guide: Guide | None = None
        self._matchers: OrderedDict[Grammar, Any] = OrderedDict()

    @property
    def size(self) -> int:
        return self._vocabulary.size

    def prepare(self, plan: SamplerPlan, pause: Pause | None = None) -> None:
        """Check a plan against the vocabulary, and have ready what its chain will ask for.

        Raises:
            RequestError: a biased token that there is not; `InvalidGrammar`.
        """
        check_biases(plan, self.size)
        for stage in plan.stages:
            match stage:
                case IgnoreEnd():
                    self.ending()
                case Dry():
                    self.breakers(stage.breakers)
                case Grammar(kind="grammar"):
                    self._begun(stage, pause)
                case Grammar():
                    self._guided(stage)

    def ending(self) -> Sequence[int]:
        if self._ending is None:
            ends = self._vocabulary.ends
            self._ending = [token for token in range(self.size) if ends(token)]
        return self._ending

    def tokens(self) -> TokenBytes:
        """The text of every token; none for control tokens and those that end a generation."""
        with self._lock:
            if self._tokens is None:
                pieces = self._vocabulary.pieces()
                for token in self.ending():
                    pieces[token] = b""
                self._tokens = TokenBytes(pieces)
            return self._tokens

    def breakers(self, texts: Sequence[str]) -> Breakers:
        tokens = self.tokens()
        return merged([self._spelling(text, tokens) for text in texts])

    def constraint(self, stage: Grammar) -> Constraint:
        if stage.kind != "grammar":
            guide, compiled = self._guided(stage)
            return guide.constraint(stage, compiled, self.ending())
        return GrammarConstraint(self._followed(stage), self.ending())

    def _begun(self, stage: Grammar, pause: Pause | None) -> None:
        """Have the first masks of a grammar that is new; nobody else has it yet."""
        with self._lock:
            known = stage in self._masks
        if known:
            self._followed(stage)
            return
        self._remember(self._masks, stage, begun_masks(stage.text, self.tokens(), pause))

    def _followed(self, stage: Grammar) -> Masks:
        """What follows a grammar; made without the lock."""
        with self._lock:
            masks = self._masks.get(stage)
        if masks is None:
            masks = Masks(compile_grammar(stage.text), self.tokens())
        elif masks.automaton.full:
            masks = masks.anew()
        self._remember(self._masks, stage, masks)
        return masks

    def _guided(self, stage: Grammar) -> tuple[Guide, Any]:
        """What follows a schema or an expression; compiled without the lock."""
        with self._starting:
            guide = self._guide = self._guide or self._new_guide()
        with self._lock:
            compiled = self._matchers.get(stage)
        if compiled is None:
            compiled = guide.compiled(stage)
        self._remember(self._matchers, stage, compiled)
        return guide, compiled

    def _new_guide(self) -> Guide:
        from erllama.sampling.guided import Guide  # loads the library, which takes a while

        return Guide(self.tokens())

    def _spelling(self, text: str, tokens: TokenBytes) -> Breakers:
        with self._lock:
            known = self._spellings.get(text)
        if known is None:
            known = spelling(text, tokens, self._tokenized)
            with self._lock:
                self._spellings[text] = known
                if len(self._spellings) > _SPELLINGS:
                    self._spellings.popitem(last=False)
        return known

    def _tokenized(self, text: str) -> Sequence[int]:
        return self._vocabulary.tokenize(text, add_special=False, parse_special=False)

    def _remember(self, known: OrderedDict[Grammar, T], stage: Grammar, compiled: T) -> None:
        with self._lock:
            known[stage] = compiled
            known.move_to_end(stage)
            if len(known) > _COMPILED:
                known.popitem(last=False)
