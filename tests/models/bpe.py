"""Byte-level byte-pair encoding: the alphabet of GPT-2 and a small trainer.

The alphabet is `bytes_to_unicode` of https://github.com/openai/gpt-2/blob/master/src/encoder.py,
which llama.cpp's "gpt2" tokenizers share; the trainer is Sennrich et al. 2016, algorithm 1, with
the pair counts kept up to date instead of counted anew.
"""

from __future__ import annotations

import functools
import heapq
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from itertools import count, pairwise
from typing import TypeAlias

Pair: TypeAlias = tuple[str, str]


@functools.cache
def byte_alphabet() -> tuple[str, ...]:
    """The printable character that stands for each of the 256 bytes."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    stand_ins = count(0x100)
    return tuple(chr(byte if byte in printable else next(stand_ins)) for byte in range(256))


def to_alphabet(text: str) -> str:
    """`text` as its UTF-8 bytes written in the byte alphabet."""
    return "".join(byte_alphabet()[byte] for byte in text.encode())


def from_alphabet(token: str) -> bytes:
    """The bytes that a token stands for."""
    return bytes(_byte_of()[character] for character in token)


@functools.cache
def _byte_of() -> Mapping[str, int]:
    return {character: byte for byte, character in enumerate(byte_alphabet())}


def train_merges(frequencies: Mapping[str, int]) -> Iterator[Pair]:
    """The merges of these words, most frequent pair first, until every word is one token.

    Args:
        frequencies: how often each word occurs; words are written in the byte alphabet. Of pairs
            that are equally frequent the one that sorts first is merged.
    """
    words = [list(word) for word in frequencies]
    weights = list(frequencies.values())
    pairs: Counter[Pair] = Counter()
    homes: defaultdict[Pair, set[int]] = defaultdict(set)
    for index, word in enumerate(words):
        for pair in pairwise(word):
            pairs[pair] += weights[index]
            homes[pair].add(index)

    # Counts in the queue may be out of date; `pairs` has the true ones.
    queue = [(-frequency, pair) for pair, frequency in pairs.items()]
    heapq.heapify(queue)
    while queue:
        negated, best = heapq.heappop(queue)
        if pairs[best] != -negated:
            continue
        yield best
        changed: set[Pair] = set()
        for index in homes.pop(best):
            before, words[index] = words[index], _merged(words[index], best)
            for pair in pairwise(before):
                pairs[pair] -= weights[index]
                changed.add(pair)
            for pair in pairwise(words[index]):
                pairs[pair] += weights[index]
                homes[pair].add(index)
                changed.add(pair)
        for pair in changed - {best}:
            if pairs[pair] > 0:
                heapq.heappush(queue, (-pairs[pair], pair))


def _merged(word: list[str], pair: Pair) -> list[str]:
    merged: list[str] = []
    position = 0
    while position < len(word):
        if tuple(word[position : position + 2]) == pair:
            merged.append("".join(pair))
            position += 2
        else:
            merged.append(word[position])
            position += 1
    return merged
