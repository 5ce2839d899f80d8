"""Byte-level BPE as GPT-2 has it, which llama.cpp reproduces (`tokenizer.ggml.pre = gpt-2`).

Four choices are deliberate. Digits are kept apart while the merges are learned, so that a
number is always its digits. So is the space before a capital: a name is then the same tokens
wherever it stands, which is what makes copying it into a tool call easy to learn. Only ASCII
is shown to the learner, so every other character is two to four byte tokens: a stream of them
has to be put together again. And only the markers of a turn are special; `<think>` and the
like are plain text of several tokens.
"""

from __future__ import annotations

from collections.abc import Iterable

from corpus.documents import documents
from corpus.render import SPECIAL, Segment
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

VOCABULARY = 2048
UNUSED_LABEL = -100


def plain_texts(count: int) -> Iterable[str]:
    """The text to learn merges from: documents without the markers of turns."""
    stream = documents("tokenizer")
    for _ in range(count):
        for segment in next(stream):
            text = segment.text
            for marker in SPECIAL:
                text = text.replace(marker, "\n")
            yield "".join(character if character.isascii() else "\n" for character in text)


def train_tokenizer(documents_read: int) -> Tokenizer:
    """A tokenizer of `VOCABULARY` tokens: the special ones, 256 bytes, and merges."""
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Split(Regex(" (?=[A-Z])"), "isolated"),
            byte_level,
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(plain_texts(documents_read), trainer)
    tokenizer.pre_tokenizer = byte_level
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def encode(tokenizer: Tokenizer, segments: list[Segment]) -> tuple[list[int], list[int]]:
    """Token ids of a document and, for each, what to predict there (the next token's id)."""
    ids: list[int] = []
    learned: list[bool] = []
    for segment in segments:
        part = tokenizer.encode(segment.text).ids
        ids += part
        learned += [segment.learn] * len(part)
    labels = [
        token if learn else UNUSED_LABEL for token, learn in zip(ids[1:], learned[1:], strict=True)
    ]
    return ids, [*labels, UNUSED_LABEL]
