"""What sampler chains ask of a vocabulary, remembered for the next chain.

Reading the texts of 128,000 tokens takes a good part of a second, so it is done when the first
request needs them, and not on the lane if `prepare` was called before.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

from erllama.backend.llama.vocabulary import Vocabulary
from erllama.sampling import Dry, Grammar, IgnoreEnd, SamplerPlan, check_biases
from erllama.sampling.automaton import Automaton, TokenBytes
from erllama.sampling.constraint import GrammarConstraint, compile_grammar
from erllama.sampling.history import Breakers
from erllama.sampling.spelling import merged, spelling

_AUTOMATA = 16
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
        self._automata: OrderedDict[str, Automaton] = OrderedDict()

    @property
    def size(self) -> int:
        return self._vocabulary.size

    def prepare(self, plan: SamplerPlan) -> None:
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
                case Grammar(text):
                    self.tokens()
                    if self._automaton(text) is None:
                        self._remember_automaton(text, compile_grammar(text))

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

    def constraint(self, grammar: str) -> GrammarConstraint:
        tokens = self.tokens()
        automaton = self._automaton(grammar)
        if automaton is None:
            automaton = compile_grammar(grammar)
        self._remember_automaton(grammar, automaton)
        return GrammarConstraint(automaton, tokens, self.ending())

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

    def _automaton(self, text: str) -> Automaton | None:
        with self._lock:
            known = self._automata.get(text)
        return None if known is None or known.full else known

    def _remember_automaton(self, text: str, automaton: Automaton) -> None:
        with self._lock:
            self._automata[text] = automaton
            self._automata.move_to_end(text)
            if len(self._automata) > _AUTOMATA:
                self._automata.popitem(last=False)
