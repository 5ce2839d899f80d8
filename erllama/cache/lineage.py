"""How the rows of a context were computed, where the tokens do not tell it. Pure.

Rows up to `pure_end` follow the exact-slicing rule from position 0 on and are a function of the
tokens alone. Rows behind it are *mixed*: of the same tokens there may be rows that a reply decoded
one by one, and others that were the text behind an earlier reply. Both are right, but their bits
differ, so a request that goes on behind a reply needs the very rows of that reply.

A lineage names them. It is a chain over the blocks of a context, as keys are:

    tag(block) = sha256(tag(block before), how far it is pure, where text stood in it)[:8]

with an empty tag as long as all is pure. So a row stores the tag of the block before it and what
happened within itself, and a prefix of it has the tag that a shorter row of the same tokens would
have.
"""

from __future__ import annotations

import struct
from hashlib import sha256
from typing import NamedTuple

TAG_BYTES = 8
"""Bytes of a tag that is not empty."""

_CUT = struct.Struct("<HH")
CUT_BYTES = _CUT.size
_BEFORE = 0xFFFF
_HEAD = struct.Struct("<H")


class Lineage(NamedTuple):
    """What made the rows of a context, from the start of one of its blocks on.

    Attributes:
        start: position where that block starts.
        origin: tag of the blocks before it; empty: they are pure.
        pure_end: rows at positions below were computed by the exact-slicing rule from 0 on.
        cuts: pairs of positions: where a reply ended, whose next token was computed by itself, and
            where the text behind that token ended. In rising order.
    """

    start: int = 0
    origin: bytes = b""
    pure_end: int = 0
    cuts: tuple[int, ...] = ()

    def behind(self, reply_end: int, text_end: int) -> Lineage:
        """The lineage of a context that goes on with text behind a reply.

        A single token behind it is what the reply itself would have computed next: no text.
        """
        if text_end <= reply_end + 1:
            return self
        return self._replace(cuts=(*self.cuts, reply_end, text_end))

    def tag(self, end: int) -> bytes:
        """What tells the rows before `end` from others of the same tokens; empty: they are pure.

        Args:
            end: a position in the block that begins at `start`, or the end of that block.
        """
        if self.pure_end >= end:
            return b""
        pure = max(self.pure_end - self.start, 0)
        told = self.origin + _HEAD.pack(pure) + self.packed(end)
        return sha256(told).digest()[:TAG_BYTES]

    def packed(self, end: int) -> bytes:
        """The cuts before `end`, relative to `start`, as rows store them."""
        made = []
        for reply_end, text_end in zip(self.cuts[::2], self.cuts[1::2], strict=True):
            stop = min(text_end, end)
            if stop > max(reply_end + 1, self.start):
                begun = _BEFORE if reply_end < self.start else reply_end - self.start
                made.append(_CUT.pack(begun, stop - self.start))
        return b"".join(made)

    def upto(self, end: int) -> Lineage:
        """The lineage of the rows before `end`, which lies in the block that begins at `start`."""
        return unpack(self.start, self.origin, min(self.pure_end, end), self.packed(end))

    def at(self, start: int, block_tokens: int) -> Lineage:
        """The same, told from a block on that begins at `start`, here or later."""
        told = self
        while told.start < start:
            end = told.start + block_tokens
            told = told._replace(start=end, origin=told.tag(end))
        return told


UNTOLD = Lineage()
"""Of rows that nothing is promised of, and that are not told apart."""


def unpack(start: int, origin: bytes, pure_end: int, cuts: bytes) -> Lineage:
    """A lineage from what a row stores of it."""
    if not cuts:
        return Lineage(start, origin, pure_end)
    places: list[int] = []
    for begun, stop in _CUT.iter_unpack(cuts):
        places += (start - 1 if begun == _BEFORE else start + begun, start + stop)
    return Lineage(start, origin, pure_end, tuple(places))


def well_formed(lineage: Lineage, end: int, cuts: bytes) -> bool:
    """Whether what a row that ends at `end` stores of its lineage is in its canonical form."""
    pure_before = lineage.pure_end >= lineage.start
    rising = all(a < b for a, b in zip(lineage.cuts[::2], lineage.cuts[1::2], strict=True))
    rising = rising and list(lineage.cuts) == sorted(lineage.cuts)
    if lineage.cuts and not pure_before:
        rising = rising and lineage.cuts[0] >= lineage.start - 1
    elif lineage.cuts:
        rising = rising and lineage.cuts[0] >= lineage.pure_end
    return (
        len(lineage.origin) == (0 if pure_before else TAG_BYTES)
        and rising
        and lineage.packed(end) == cuts
    )
