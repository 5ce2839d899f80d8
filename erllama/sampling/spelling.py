"""How the tokens of a vocabulary may spell a text that breaks sequences. Pure.

After llama.cpp's `get_overlapping_token_sequences` (src/llama-sampler.cpp), which looks at every
token of the vocabulary for every request; here all tokens are searched at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from erllama.sampling.history import LONGEST_TAIL, Breakers
from erllama.sampling.token_bytes import TokenBytes

Tokenize = Callable[[str], Sequence[int]]


def spelling(text: str, tokens: TokenBytes, tokenize: Tokenize) -> Breakers:
    """Tokens that hold `text`; and those that end with its beginning, with what must follow."""
    data = text.encode()
    found: Breakers = {token: [()] for token in _holding(data, tokens)}
    for cut in range(1, len(data)):
        heads = [one for one in _ending_with(data[:cut], tokens) if found.get(one) != [()]]
        tail = _spelt(data[cut:], tokens, tokenize) if heads else None
        if tail is not None:
            for token in heads:
                found.setdefault(token, []).append(tail)
    return found


def _spelt(data: bytes, tokens: TokenBytes, tokenize: Tokenize) -> tuple[int, ...] | None:
    """The tokens of the end of a text, which may begin inside of a character; None: unknown."""
    whole = data.lstrip(bytes(range(0x80, 0xC0)))
    single = [bytes([byte]) for byte in data[: len(data) - len(whole)]]
    if not set(single) <= set(tokens.pieces):
        return None
    inside = [tokens.pieces.index(piece) for piece in single]
    return (*inside, *(tokenize(whole.decode()) if whole else ()))[:LONGEST_TAIL]


def merged(spellings: Sequence[Breakers]) -> Breakers:
    """All of them in one."""
    found: Breakers = {}
    for one in spellings:
        for token, tails in one.items():
            found[token] = [*found.get(token, ()), *tails]
    return found


def _holding(data: bytes, tokens: TokenBytes) -> list[int]:
    joined = tokens.bytes.tobytes()
    places = []
    at = joined.find(data)
    while at >= 0:
        places.append(at)
        at = joined.find(data, at + 1)
    starts = np.array(places, np.int64)
    first = tokens.starts.searchsorted(starts, side="right") - 1
    inside = starts + len(data) <= tokens.starts[first] + tokens.lengths[first]
    return [int(token) for token in np.unique(first[inside])]


def _ending_with(data: bytes, tokens: TokenBytes) -> list[int]:
    alike: Any = np.flatnonzero(tokens.lengths >= len(data))
    for back, byte in enumerate(reversed(data), start=1):
        ends = tokens.starts[alike] + tokens.lengths[alike]
        alike = alike[tokens.bytes[ends - back] == byte]
    return [int(token) for token in alike]
