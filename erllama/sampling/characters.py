"""Characters whose bytes come one by one: the bits so far, and what they may become. Pure."""

from __future__ import annotations

import bisect

from erllama.sampling.gbnf import LAST_CODE_POINT, Ranges

ANY = -1
"""Bits of a character of which all that may come are taken."""

SHORTEST = (0, 0x80, 0x800, 0x10000)
"""The first character that needs so many bytes more than one."""


def decoded(byte: int, lacks: int, bits: int) -> tuple[int, int]:
    """The bytes that a UTF-8 character still lacks, and its bits so far; -1: it is none."""
    if lacks == 0:
        return _first_byte(byte)
    if byte >> 6 != 2:
        return -1, 0
    if bits == ANY:
        return lacks - 1, bits
    bits = bits << 6 | byte & 63
    overlong = (lacks == 2 and bits < 0x20) or (lacks == 3 and bits < 0x10)
    surrogate = lacks == 2 and 0x360 <= bits <= 0x37F
    too_large = lacks == 3 and bits > 0x10F
    return (-1, 0) if overlong or surrogate or too_large else (lacks - 1, bits)


def free(lacks: int, bits: int) -> bool:
    """Whether any byte of a character may come next, for all that UTF-8 asks."""
    return not ((lacks == 2 and bits in (0, 0xD)) or (lacks == 3 and bits in (0, 4)))


def _first_byte(byte: int) -> tuple[int, int]:
    if byte < 0x80:
        return 0, byte
    if 0xC2 <= byte < 0xE0:
        return 1, byte & 31
    if 0xE0 <= byte < 0xF0:
        return 2, byte & 15
    if 0xF0 <= byte < 0xF5:
        return 3, byte & 7
    return -1, 0


def meets(ranges: Ranges, low: int, high: int) -> bool:
    """Whether a code point from `low` to `high` is in `ranges`."""
    at = bisect.bisect_right(ranges, (high, high))
    if at < len(ranges) and ranges[at][0] <= high:
        return True
    return at > 0 and ranges[at - 1][1] >= low


def covers(ranges: Ranges, low: int, high: int) -> bool:
    """Whether all code points from `low` to `high` are in `ranges`."""
    at = bisect.bisect_right(ranges, (low, LAST_CODE_POINT + 1)) - 1
    return at >= 0 and ranges[at][1] >= high
