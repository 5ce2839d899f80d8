"""The texts of a vocabulary, and how a grammar sees them. Pure.

A grammar cannot tell some characters apart: those that lie between the same bounds of its
terminals. They are one *class*. A token is a run of classes, and perhaps the beginning of one more
character.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from erllama.sampling.gbnf import LAST_CODE_POINT, Ranges, Rules

RARE = 62
"""The bit of `Alphabet.sets` for all classes but the 62 most frequent ones."""
LONGEST = 30_000  # characters of a token; more are not counted
_CUT = 63  # the bit of tokens that end within a character
_LOWEST, _HIGHEST = (0x80, 0x90, 0xA0), (0xBF, 0x9F, 0x8F)  # of second bytes, by first byte


class TokenBytes:
    """The texts of a vocabulary; tokens without text are never part of one.

    Attributes:
        bytes: all texts, one after the other.
        starts, lengths: where in `bytes` each text begins, and how many it has.
        codes: the whole characters of all texts, one text after the other.
        firsts, counts: where in `codes` each text begins, and how many characters it has.
        tails: of each token that ends within a character, the number of that beginning in
            `spans`; -1 of others.
        spans: of each such beginning, the first and the last code point that it may become.
        outer: whether the text may come where a character begins.
        inner: the tokens whose text begins within a character; what is said of the characters of
            a text is said of theirs behind that.
        heads: the different ends of characters that those begin with.
        head: of each of `inner`, which of `heads`.
    """

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.size = len(pieces)
        self.pieces = pieces
        self.lengths = np.array([len(piece) for piece in pieces], np.int64)
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.bytes = np.frombuffer(b"".join(pieces), np.uint8)
        self.outer = self.lengths > 0
        self.tails = np.full(self.size, -1, np.int32)
        beginnings: dict[bytes, int] = {}
        heads: dict[bytes, int] = {}
        inner: dict[int, int] = {}
        texts: list[str] = []
        for token, piece in enumerate(pieces):
            head = _head(piece)
            text, tail = _characters(piece[len(head) :])
            texts.append(text)
            if tail is None or head:
                self.outer[token] = False
            if tail is not None and head:
                inner[token] = heads.setdefault(head, len(heads))
            if tail:
                self.tails[token] = beginnings.setdefault(tail, len(beginnings))
        self.inner = np.array(list(inner), np.int64)
        self.head = np.array(list(inner.values()), np.int64)
        self.heads = list(heads)
        self.spans = [_span(tail) for tail in beginnings]
        self.counts = np.array([len(text) for text in texts], np.int64)
        self.firsts = np.cumsum(self.counts) - self.counts
        self.codes = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)


class Alphabet:
    """The classes of characters that a grammar tells apart, as far as a vocabulary has them.

    The most frequent class has number 0.

    Attributes:
        size: how many classes there are.
        codes: the class of each of the vocabulary's `codes`.
        first: the class of each token's first character; `size` if there is none.
        beginning: how many tokens have each class as their first; 0 for `size`.
        sets: for each token, the classes behind its first character, as bits.
        rest: how many characters come behind the first; at most `LONGEST`.
        weights: how often each of the first 62 classes comes.
    """

    def __init__(self, rules: Rules, tokens: TokenBytes) -> None:
        self.tokens = tokens
        self._bounds = _bounds(rules)
        raw = np.searchsorted(self._bounds, tokens.codes, side="right") - 1
        counts = np.bincount(raw, minlength=len(self._bounds))
        order = np.argsort(-counts, kind="stable")
        self._order = order[: np.count_nonzero(counts)]
        self.size = len(self._order)
        numbers = np.zeros(len(self._bounds), np.int32)
        numbers[self._order] = np.arange(self.size)
        self.codes = numbers[raw]
        self.weights = counts[self._order][:RARE]
        self.first = np.full(tokens.size, self.size, np.intp)
        some = np.flatnonzero((tokens.counts > 0) & tokens.outer)
        self.first[some] = self.codes[tokens.firsts[some]]
        self.beginning = np.bincount(self.first[some], minlength=self.size + 1)
        self.rest = np.clip(tokens.counts - 1, 0, LONGEST).astype(np.int16)
        self.sets = self._sets()

    def inside(self, ranges: Ranges) -> int:
        """The classes whose characters are in `ranges`, as bits."""
        code = self._bounds[self._order]
        packed = np.packbits(_meet(ranges, code, code), bitorder="little")
        return int.from_bytes(packed.tobytes(), "little")

    def continued(self, ranges: Ranges) -> Any:
        """For each of the vocabulary's `spans` whether a character of it is in `ranges`."""
        low, high = np.array(self.tokens.spans, np.int64).reshape(-1, 2).T
        return _meet(ranges, low, high)

    def flags(self, bits: int) -> Any:
        """Bits of classes as an array of booleans."""
        data: Any = np.frombuffer(bits.to_bytes(self.size // 8 + 1, "little"), np.uint8)
        return np.unpackbits(data, count=self.size, bitorder="little").view(np.bool_)

    def _sets(self) -> Any:
        tokens = self.tokens
        some = np.flatnonzero(tokens.counts > 0)
        bits = np.left_shift(np.uint64(1), np.minimum(self.codes, RARE).astype(np.uint64))
        bits[tokens.firsts[some]] = 0
        sets = np.zeros(tokens.size, np.uint64)
        if len(some):
            sets[some] = np.bitwise_or.reduceat(bits, tokens.firsts[some])
        sets[tokens.tails >= 0] |= np.uint64(1 << _CUT)
        return sets


def _head(piece: bytes) -> bytes:
    """The bytes that end a character begun before; no more than one has."""
    length = 0
    while length < min(len(piece), 3) and 0x80 <= piece[length] < 0xC0:
        length += 1
    return piece[:length]


def _characters(piece: bytes) -> tuple[str, bytes | None]:
    """The whole characters of a text, and the beginning of one more; None: it is no text."""
    try:
        return piece.decode(), b""
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data":
            return "", None
        return piece[: error.start].decode(), piece[error.start :]


def _span(beginning: bytes) -> tuple[int, int]:
    """The first and the last character that begins so."""
    lacks = (beginning[0] >= 0xE0) + (beginning[0] >= 0xF0) + 2 - len(beginning)
    codes = [_filled(beginning, lacks, byte) for byte in (*_LOWEST, *_HIGHEST)]
    known = [code for code in codes if code]
    return min(known), max(known)


def _filled(beginning: bytes, lacks: int, byte: int) -> int:
    """The character whose next byte is `byte` and whose others are the nearest ends; 0: none."""
    rest = bytes([byte]) + bytes([0x80 if byte in _LOWEST else 0xBF]) * (lacks - 1)
    try:
        return ord((beginning + rest).decode())
    except UnicodeDecodeError:
        return 0


def _meet(ranges: Ranges, low: Any, high: Any) -> Any:
    """For each pair of code points whether one from `low` to `high` is in `ranges`."""
    if not ranges:
        return np.zeros(len(low), np.bool_)
    lows, highs = np.array(ranges, np.int64).T
    at = np.searchsorted(highs, low)
    return (at < len(highs)) & (lows[np.minimum(at, len(lows) - 1)] <= high)


def _bounds(rules: Rules) -> Any:
    """The first code point of each class, in rising order."""
    found = {0}
    for alternatives in rules.alternatives:
        for sequence in alternatives:
            for element in sequence:
                if isinstance(element, tuple):
                    for low, high in element:
                        found |= {low, high + 1}
    found.discard(LAST_CODE_POINT + 1)
    return np.array(sorted(found), np.int64)
