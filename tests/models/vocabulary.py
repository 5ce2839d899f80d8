"""Vocabularies of a given size: byte-level BPE, SentencePiece-style and WordPiece.

Each is what the "gpt2", "llama" and "bert" values of `tokenizer.ggml.model` mean to llama.cpp
(src/llama-vocab.cpp); the keys are those of
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The first two round-trip any UTF-8 text;
WordPiece lower-cases, strips accents and maps words of unknown letters to [UNK], as BERT does.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, islice, product
from typing import Literal, TypeAlias

from .bpe import Pair, byte_alphabet, from_alphabet, to_alphabet, train_merges
from .words import ENGLISH, OTHER_SCRIPTS, PUNCTUATED, SUFFIXES

VocabularyKind: TypeAlias = Literal["gpt2", "llama", "llama-space", "bert"]

SPACE = "▁"
PRINTABLE_ASCII = tuple(chr(code) for code in range(ord("!"), ord("~") + 1))

LLAMA3_CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
"""A chat template over the special tokens of the byte-level BPE vocabulary."""


class TokenType(enum.IntEnum):
    """`llama_token_type` in llama.h."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    BYTE = 6


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """What a model file says about its tokens.

    Args:
        model: the value of `tokenizer.ggml.model`.
        pre: the value of `tokenizer.ggml.pre`, where the model has one.
        tokens: the tokens as the file spells them; their places are their ids.
        types: a type for each token.
        scores: a score for each token, where the model has them.
        merges: the merges, first one first, where the model has them.
        special: ids by name, the names as in `tokenizer.ggml.{name}_token_id`.
        flags: booleans by name, the names as in `tokenizer.ggml.{name}`.
        end_of_generation: the ids that end a generation.
    """

    model: VocabularyKind
    tokens: tuple[str, ...]
    types: tuple[TokenType, ...]
    special: Mapping[str, int]
    flags: Mapping[str, bool]
    end_of_generation: tuple[int, ...]
    pre: str | None = None
    scores: tuple[float, ...] = ()
    merges: tuple[Pair, ...] = field(default=(), repr=False)

    def special_ids(self, *names: str) -> dict[str, int]:
        """The ids of these special tokens."""
        return {name: self.special[name] for name in names}


@functools.cache
def make_vocabulary(kind: VocabularyKind, size: int) -> Vocabulary:
    """A vocabulary of exactly `size` tokens.

    Raises:
        ValueError: `size` is too small to hold the special tokens, the bytes or the letters.
    """
    return _MAKERS[kind](size)


def byte_level_bpe(size: int) -> Vocabulary:
    """Bytes, then merges, then special tokens, named and split as in Llama 3."""
    special = _LLAMA3_SPECIAL
    alphabet = byte_alphabet()
    n_merges = size - len(alphabet) - len(special)
    # gguf leaves empty arrays out, and llama.cpp refuses a file without merges.
    _require(n_merges >= 1, "gpt2", size, len(alphabet) + len(special) + 1)
    merges = tuple(islice(_merges(), n_merges))
    tokens = (*alphabet, *("".join(pair) for pair in merges), *special)
    first_special = size - len(special)
    ids = {name: first_special + index for index, name in enumerate(special)}
    end, end_of_turn = ids["<|end_of_text|>"], ids["<|eot_id|>"]
    return Vocabulary(
        model="gpt2",
        pre="llama-bpe",
        tokens=tokens,
        types=(TokenType.NORMAL,) * first_special + (TokenType.CONTROL,) * len(special),
        merges=merges,
        special={"bos": ids["<|begin_of_text|>"], "eos": end, "eot": end_of_turn},
        flags={"add_bos_token": True, "add_eos_token": False},
        end_of_generation=(end, end_of_turn),
    )


_LLAMA3_SPECIAL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)


def sentencepiece(size: int) -> Vocabulary:
    """Special tokens and bytes, then letters and pieces scored by rank, as in Gemma.

    The tokenizer joins the neighbours whose piece scores highest; what is left without a piece
    becomes byte tokens.
    """
    special = {
        "<unk>": TokenType.UNKNOWN,
        "<s>": TokenType.CONTROL,
        "</s>": TokenType.CONTROL,
        "<start_of_turn>": TokenType.CONTROL,
        "<end_of_turn>": TokenType.CONTROL,
    }
    byte_tokens = dict.fromkeys((f"<0x{byte:02X}>" for byte in range(256)), TokenType.BYTE)
    letters = (SPACE, *PRINTABLE_ASCII)
    n_first = len(special) + len(byte_tokens) + len(letters)
    _require(size >= n_first, "llama", size, n_first)
    pieces = islice(_unique(chain(letters, _pieces())), size - len(special) - len(byte_tokens))
    tokens = special | byte_tokens | dict.fromkeys(pieces, TokenType.NORMAL)
    return Vocabulary(
        model="llama",
        tokens=tuple(tokens),
        types=tuple(tokens.values()),
        scores=tuple(float(-rank) for rank in range(size)),
        special={"unk": 0, "bos": 1, "eos": 2, "eot": 4},
        flags={"add_bos_token": True, "add_eos_token": False, "add_space_prefix": False},
        end_of_generation=(2, 4),
    )


def wordpiece(size: int) -> Vocabulary:
    """Special tokens, letters, then words, as in BERT.

    A piece that starts a word is marked with "▁" and one that goes on is bare: the spelling that
    llama.cpp's converter turns "word" and "##piece" into.
    """
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    lower = [letter for letter in PRINTABLE_ASCII if not letter.isupper()]
    letters = [*(SPACE + letter for letter in lower), *lower]
    n_first = len(special) + len(letters)
    _require(size >= n_first, "bert", size, n_first)
    tokens = tuple(islice(_unique(chain(special, letters, _word_pieces())), size))
    types = (TokenType.CONTROL, TokenType.UNKNOWN, *(TokenType.CONTROL,) * 3)
    return Vocabulary(
        model="bert",
        tokens=tokens,
        types=types + (TokenType.NORMAL,) * (size - len(special)),
        # "seperator" is how the format spells it.
        special={"padding": 0, "unknown": 1, "bos": 2, "seperator": 3, "mask": 4},
        flags={"add_bos_token": True},
        end_of_generation=(),
    )


def sentencepiece_with_space(size: int) -> Vocabulary:
    """As `sentencepiece`, but a space is put before whatever is tokenized, as in Llama 2."""
    plain = sentencepiece(size)
    return replace(plain, flags={**plain.flags, "add_space_prefix": True})


_MAKERS = {
    "gpt2": byte_level_bpe,
    "llama": sentencepiece,
    "llama-space": sentencepiece_with_space,
    "bert": wordpiece,
}


def _require(condition: bool, kind: VocabularyKind, size: int, at_least: int) -> None:
    if not condition:
        raise ValueError(f"a {kind!r} vocabulary needs at least {at_least} tokens, not {size}")


def _unique(items: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for item in items:
        if item not in seen:
            seen.add(item)
            yield item


def _merges() -> Iterator[Pair]:
    """Merges of distinct results: the trained ones, then ever more pairs of their results."""
    trained: list[Pair] = []
    made: set[str] = set()
    for pair in train_merges(_frequencies()):
        if "".join(pair) not in made:
            made.add("".join(pair))
            trained.append(pair)
            yield pair
    results = ["".join(pair) for pair in trained]
    tails = [token for token in results if token.isascii() and token.isalpha()]
    heads = [token for token in results if token.removeprefix(to_alphabet(" ")).isalpha()]
    for shift, (place, head) in product(range(len(tails)), enumerate(heads)):
        tail = tails[(place + shift) % len(tails)]
        if head + tail not in made:
            made.add(head + tail)
            yield head, tail


_SHARES = (1, 8, 16, 32, *range(10, 10 * (len(SUFFIXES) + 1), 10))


def _frequencies() -> dict[str, int]:
    """How often each word is said to occur: inversely to its rank (Zipf), less when inflected."""
    frequencies: dict[str, int] = {}
    for rank, word in enumerate(ENGLISH):
        spellings = (" " + word, word, " " + word.title(), word.title())
        inflected = (f" {word}{suffix}" for suffix in SUFFIXES)
        for spelling, share in zip((*spellings, *inflected), _SHARES, strict=True):
            frequencies.setdefault(to_alphabet(spelling), 10_000_000 // ((rank + 10) * share))
    for text in PUNCTUATED:
        frequencies[to_alphabet(text)] = 200_000
    for text in OTHER_SCRIPTS:
        frequencies[to_alphabet(text)] = 20_000
    return frequencies


def _pieces() -> Iterator[str]:
    """The results of the merges that are whole characters, spelled with "▁" for a space."""
    for pair in _merges():
        try:
            piece = from_alphabet("".join(pair)).decode()
        except UnicodeDecodeError:
            continue
        if "\n" not in piece:
            yield piece.replace(" ", SPACE)


def _word_pieces() -> Iterator[str]:
    yield from SUFFIXES
    yield from (SPACE + word for word in ENGLISH)
    yield from (SPACE + word + suffix for suffix in SUFFIXES for word in ENGLISH)
    yield from (SPACE + head + tail for head, tail in product(ENGLISH, ENGLISH))
