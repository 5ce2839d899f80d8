"""Texts that a JSON schema or a regular expression rules, followed by llguidance. Pure.

It computes a mask for a vocabulary of 128,000 tokens in a fifth of a millisecond (docs/libraries.md
has the comparison). All tokens that may come are allowed, however the rest would be spelt: what is
sampled is the model's own distribution over the texts that match.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import llguidance
import llguidance.numpy
import numpy as np

from erllama.errors import InvalidGrammar
from erllama.sampling.ban import leave
from erllama.sampling.chain import NothingToDraw
from erllama.sampling.expressions import HEADER, lark, limits, place, said
from erllama.sampling.plan import Grammar
from erllama.sampling.running import Floats
from erllama.sampling.schema_endings import check_endings
from erllama.sampling.schema_source import schema_source
from erllama.sampling.schema_text import parsed_schema
from erllama.sampling.token_bytes import TokenBytes

T = TypeVar("T")

_STACK_BYTES = 64 << 20  # the compiler recurses along references
_NO_UTF8 = b"\xff"  # begins what is no text for llguidance

_starting = threading.Lock()


class Guide:
    """Compiles structures for one vocabulary. May be used from any thread.

    Attributes:
        size: how many tokens the vocabulary has.
    """

    def __init__(self, tokens: TokenBytes) -> None:
        self.size = tokens.size
        self._tokenizer = llguidance.LLTokenizer(_Vocabulary(tokens))

    def compiled(self, stage: Grammar) -> Any:
        """A matcher at its beginning, to be copied for each text.

        Raises:
            InvalidGrammar: with the place.
        """
        source = _source(stage)
        matcher = _with_stack(
            stage,
            lambda: llguidance.LLMatcher(self._tokenizer, source, log_level=0, limits=limits()),
        )
        if matcher.is_error():
            raise _invalid(stage, matcher.get_error())
        self._check_beginning(stage, matcher.deep_copy())
        return matcher

    def constraint(self, stage: Grammar, compiled: Any, ending: Sequence[int]) -> GuidedConstraint:
        """A follower of what was compiled, at its beginning."""
        return GuidedConstraint(stage.kind, compiled.deep_copy(), self.size, ending)

    def _check_beginning(self, stage: Grammar, matcher: Any) -> None:
        bits = llguidance.numpy.allocate_token_bitmask(1, self.size + 1)
        llguidance.numpy.fill_next_token_bitmask(matcher, bits)
        if matcher.is_error():
            raise _invalid(stage, matcher.get_error())
        if not bits.any():
            raise _invalid(stage, "no text can match")


class GuidedConstraint:
    """See `erllama.sampling.chain.Constraint`. Tokens in `ending` may come where a text may end."""

    def __init__(self, field: str, matcher: Any, size: int, ending: Sequence[int]) -> None:
        self._field = field
        self._matcher = matcher
        self._size = size
        self._ending = np.array(ending, np.intp)
        self._bits = llguidance.numpy.allocate_token_bitmask(1, size + 1)

    def apply(self, logits: Floats) -> None:
        llguidance.numpy.fill_next_token_bitmask(self._matcher, self._bits)
        self._check()
        bits = self._bits.view(np.uint8)
        allowed = np.unpackbits(bits, count=self._size, bitorder="little").view(np.bool_)
        ends = logits[self._ending]
        leave(logits, allowed)
        logits[self._ending] = ends if self._matcher.is_accepting() else -np.inf

    def accept(self, token: int) -> None:
        if token in self._ending:
            accepted = self._matcher.is_accepting()
        else:
            accepted = self._matcher.try_consume_tokens([token]) == 1
        self._check()
        if not accepted:
            raise NothingToDraw(
                f"{self._field}: token {token} of the text so far does not match it"
            )

    def _check(self) -> None:
        if self._matcher.is_error():
            reason = said(self._matcher.get_error())
            raise NothingToDraw(f"{self._field}: cannot be followed any further: {reason}")


class _Vocabulary:
    """What llguidance asks for; one more token stands for all that end a text."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokens: TokenBytes) -> None:
        texts = [b"" if _NO_UTF8 in piece else piece for piece in tokens.pieces]
        self.tokens = [*texts, _NO_UTF8 + b"end"]
        self.eos_token_id = tokens.size
        self.special_token_ids = [tokens.size]

    def __call__(self, text: bytes | str) -> list[int]:
        return []  # asked only to guess how a text that can be no other is spelt


def check_guided(stage: Grammar) -> None:
    """Check a structure without a vocabulary.

    Raises:
        InvalidGrammar: with the place.
    """
    source = _source(stage)
    wrong = _with_stack(
        stage, lambda: llguidance.LLMatcher.validate_grammar(source, limits=limits())
    )
    if wrong and not wrong.startswith("WARNING"):
        raise _invalid(stage, wrong)


def _source(stage: Grammar) -> str:
    if stage.kind == "json_schema":
        source = schema_source(stage.text, stage.whitespace)
        check_endings(parsed_schema(stage.text))
        return source
    return f"{HEADER}/{_lark(stage)}/\n"


def _lark(stage: Grammar) -> str:
    try:
        return lark(stage.text)
    except ValueError as wrong:
        at = len(stage.text) - 1
        raise InvalidGrammar(str(wrong), field="regex", text=stage.text, at=at) from None


def _invalid(stage: Grammar, reason: str) -> InvalidGrammar:
    if stage.kind == "json_schema":
        return InvalidGrammar(said(reason), field="json_schema", path="")
    at = place(reason, stage.text)
    return InvalidGrammar(said(reason), field="regex", text=stage.text, at=at)


def _with_stack(stage: Grammar, work: Callable[[], T]) -> T:
    """Do it on a thread with a large stack.

    Raises:
        InvalidGrammar: the library gave up in a way of its own, such as a panic.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # a panic is no Exception
            errors.append(error)

    with _starting:
        before = threading.stack_size(_STACK_BYTES)
        try:
            thread = threading.Thread(target=run)
            thread.start()
        finally:
            threading.stack_size(before)
    thread.join()
    if errors:
        raise _invalid(stage, f"cannot be compiled: {errors[0]}")
    return results[0]
