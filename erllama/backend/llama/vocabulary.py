"""Text to token ids and back. Safe from any thread, as `llama.h` promises for these calls."""

from __future__ import annotations

import array
import ctypes
from collections.abc import Sequence
from typing import Any

from erllama.backend.llama.library import brief, llama
from erllama.errors import RequestError

_NO_TOKEN = -1  # LLAMA_TOKEN_NULL
_REMEMBERED = 32_768
_ROOM = 256  # bytes; tokens of more are read one by one
_NO_TOKENIZER = 0  # LLAMA_VOCAB_TYPE_NONE
_OF_ENCODERS = (3, 4)  # LLAMA_VOCAB_TYPE_WPM and _UGM: those of BERT and T5


class Vocabulary:
    """The vocabulary of a loaded model, which owns it."""

    def __init__(self, model: Any) -> None:
        self._llama = llama()
        self._vocab = self._llama.llama_model_get_vocab(model)
        self._sampled: dict[int, tuple[bytes, bool, bytes]] = {}
        self._to_piece = brief(self._llama.llama_token_to_piece)
        self._is_end = brief(self._llama.llama_vocab_is_eog)
        self.size: int = self._llama.llama_vocab_n_tokens(self._vocab)
        first = self.tokenize("a", add_special=False, parse_special=False)[:1]
        self._space_prefix = bool(first) and self.piece(first[0]).startswith(b" ")

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> array.array[int]:
        """Token ids of `text`.

        Raises:
            RequestError: the text has a lone surrogate, which has no UTF-8.
        """
        try:
            data = text.encode()
        except UnicodeEncodeError as wrong:
            raise RequestError(
                f"prompt: the character at {wrong.start} is half of a surrogate pair and no text; "
                "remove it"
            ) from None
        room = len(data) + 8  # no vocabulary makes more tokens than bytes, specials apart
        while True:
            buffer = (ctypes.c_int32 * room)()
            n = self._llama.llama_tokenize(
                self._vocab, data, len(data), buffer, room, add_special, parse_special
            )
            if n >= 0:
                return array.array("i", memoryview(buffer).cast("B").cast("i")[:n])
            room = -n

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Text of `tokens`, special ones rendered.

        `llama_detokenize` "cleans up" spaces before punctuation and is no inverse of tokenizing
        then; the pieces, joined, are.
        """
        self.check(tokens)
        pieces = [self.piece(token, special=True) for token in tokens]
        if self._space_prefix:
            self._strip_first_space(tokens, pieces)
        return b"".join(pieces).decode("utf-8", "replace")

    def _strip_first_space(self, tokens: Sequence[int], pieces: list[bytes]) -> None:
        """Take off the space that the vocabulary puts before a text."""
        for i, token in enumerate(tokens):
            if not self._llama.llama_vocab_is_control(self._vocab, token):
                pieces[i] = pieces[i].removeprefix(b" ")
                return

    def check(self, tokens: Sequence[int]) -> None:
        """Refuse ids that are not in the vocabulary: llama.cpp would abort the process."""
        if len(tokens) and not (min(tokens) >= 0 and max(tokens) < self.size):
            bad = next(t for t in tokens if not 0 <= t < self.size)
            raise RequestError(
                f"prompt: token id {bad} is not in the vocabulary; ids go from 0 to {self.size - 1}"
            )

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes of one token; a control token has none unless `special`."""
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            n = self._to_piece(self._vocab, token, buffer, room, 0, special)
            if n >= 0:
                return buffer.raw[:n]
            room = -n

    def pieces(self) -> list[bytes]:
        """The bytes of every token, as `piece` gives them."""
        buffer = ctypes.create_string_buffer(_ROOM)
        to_piece, vocab = self._llama.llama_token_to_piece, self._vocab
        found = []
        for token in range(self.size):
            n = to_piece(vocab, token, buffer, _ROOM, 0, False)
            found.append(ctypes.string_at(buffer, n) if n >= 0 else self.piece(token))
        return found

    def ends(self, token: int) -> bool:
        """Whether `token` ends a generation."""
        return bool(self._is_end(self._vocab, token))

    def sampled(self, token: int) -> tuple[bytes, bool, bytes]:
        """A drawn token's piece, whether it ends a generation, and what it is called without one.

        Remembered, as the same ones come again.
        """
        known = self._sampled.get(token)
        if known is None:
            piece = self.piece(token)
            special = b"" if piece else self.piece(token, special=True)
            known = piece, self.ends(token), special
            if len(self._sampled) < _REMEMBERED:
                self._sampled[token] = known
        return known

    @property
    def fault(self) -> str | None:
        """What makes tokenizing end the process, in words that follow "its"; None if nothing."""
        lib, vocab = self._llama, self._vocab
        if lib.llama_vocab_type(vocab) == _NO_TOKENIZER:
            return "vocabulary has no tokenizer"
        if lib.llama_vocab_get_add_bos(vocab) and lib.llama_vocab_bos(vocab) == _NO_TOKEN:
            return "tokenizer adds a token for the beginning of a text, and has none"
        if lib.llama_vocab_get_add_eos(vocab) and lib.llama_vocab_eos(vocab) == _NO_TOKEN:
            return "tokenizer adds a token for the end of a text, and has none"
        return None

    @property
    def begin_token(self) -> int | None:
        """What a context begins with; None: nothing."""
        if not self._llama.llama_vocab_get_add_bos(self._vocab):
            return None
        bos = self._llama.llama_vocab_bos(self._vocab)
        return bos if 0 <= bos < self.size else None

    @property
    def is_of_encoders(self) -> bool:
        """Whether its texts have their end marked, as those of BERT and T5."""
        return self._llama.llama_vocab_type(self._vocab) in _OF_ENCODERS

    @property
    def bos_token(self) -> str:
        return self._text(self._llama.llama_vocab_bos(self._vocab))

    @property
    def eos_token(self) -> str:
        return self._text(self._llama.llama_vocab_eos(self._vocab))

    @property
    def warm_up_token(self) -> int:
        """Some token that every vocabulary has."""
        bos = self._llama.llama_vocab_bos(self._vocab)
        return bos if 0 <= bos < self.size else 0

    def _text(self, token: int) -> str:
        if token == _NO_TOKEN or not 0 <= token < self.size:
            return ""
        return self.piece(token, special=True).decode("utf-8", "replace")
