"""What a reply that was cut needs to go on, beside its tokens and rows. Pure.

Rows are named by their tokens, and requests share them; but of the same tokens there may be rows
of several lineages (`erllama.cache.lineage`). How a reply goes on also depends on what its sampler
has learned (mirostat's `mu`), on where the text began that its grammar rules, and on whether a
token was sampled at all behind a prompt's last row. So this goes with the key of the rows: a
`finish_key` is the key, how many tokens it stands for and the tag of their lineage, and where there
is more to say, this behind it. What is in the caller's hands cannot be evicted, and cannot be
mistaken for another reply's.
"""

from __future__ import annotations

import array
import math
import struct
from hashlib import sha256
from typing import NamedTuple

import msgspec

from erllama.cache.lineage import TAG_BYTES
from erllama.cache.query import Named
from erllama.sampling.plan import Grammar, Mirostat, SamplerPlan, Stage

_PACKED = struct.Struct("<??IId8s")
_NAMED = struct.Struct(f"<32sI{TAG_BYTES}s")
_ROW_DIGITS = 64
_NAME_DIGITS = 2 * _NAMED.size
_ALL_PURE = bytes(TAG_BYTES)

KEY_PATTERN = (
    f"^[0-9a-f]{{{_ROW_DIGITS}}}"
    f"([0-9a-f]{{{_NAME_DIGITS - _ROW_DIGITS}}}([0-9a-f]{{{2 * _PACKED.size}}})?)?$"
)
"""Of a `finish_key`; of a `parent_key`, which may also be the key of a row alone."""


class Cut(NamedTuple):
    """Where and how a reply was cut.

    Attributes:
        ruled: its sampler has mirostat or a grammar.
        bare: no token of it was computed, so that its rows are those of the prompt.
        end: tokens of the whole context, the last included, which was sampled and not computed.
        began: tokens of the prompt.
        mu: mirostat's state; nan without mirostat.
        check: tells what this belongs to: the rules of the sampler and the last token.
    """

    ruled: bool
    bare: bool
    end: int
    began: int
    mu: float
    check: bytes

    @property
    def learned(self) -> float | None:
        """Mirostat's state, if there is one."""
        return self.mu if math.isfinite(self.mu) else None

    def fits(self, plan: SamplerPlan, prompt: array.array[int]) -> bool:
        """Whether a request goes on in this reply: with the same rules, and no text behind it."""
        return (
            self.end == len(prompt)
            and 0 < self.began < self.end
            and self.check == _check(plan, prompt[-1])
        )


def cut_of(
    plan: SamplerPlan, *, began: int, end: int, last: int, mu: float | None, bare: bool
) -> Cut | None:
    """What is to be kept of a reply; None: its tokens say all there is."""
    ruled = bool(_rules(plan))
    if not ruled and not bare:
        return None
    return Cut(ruled, bare, end, began, math.nan if mu is None else mu, _check(plan, last))


def join_key(named: Named, cut: Cut | None) -> str:
    """A `finish_key` of the rows that a reply has left, whose end and tag are known."""
    key = _NAMED.pack(named.key, named.end, named.tag or _ALL_PURE).hex()
    return key if cut is None else key + _PACKED.pack(*cut).hex()


def split_key(key: str) -> tuple[Named, Cut | None]:
    """The rows that a key names, and what goes with it; `key` matches `KEY_PATTERN`."""
    if len(key) == _ROW_DIGITS:
        return Named(bytes.fromhex(key)), None
    row, end, tag = _NAMED.unpack(bytes.fromhex(key[:_NAME_DIGITS]))
    rest = bytes.fromhex(key[_NAME_DIGITS:])
    named = Named(row, end, b"" if tag == _ALL_PURE else tag)
    return named, Cut(*_PACKED.unpack(rest)) if rest else None


def _rules(plan: SamplerPlan) -> list[Stage]:
    """The stages that are no function of the tokens alone."""
    return [stage for stage in plan.stages if isinstance(stage, Mirostat | Grammar)]


def _check(plan: SamplerPlan, last: int) -> bytes:
    return sha256(msgspec.msgpack.encode((_rules(plan), last))).digest()[:8]
