"""UTF-8 that arrives in pieces.

A token of a byte-level vocabulary may end inside a character. The decoder gives out whole
characters only and keeps the rest until more bytes come.
"""

from __future__ import annotations

from encodings.utf_8 import IncrementalDecoder as _Decoder


class Utf8Decoder:
    """Incremental decoder; bytes that are not UTF-8 become U+FFFD."""

    def __init__(self) -> None:
        self._decoder = _Decoder(errors="replace")

    def feed(self, piece: bytes) -> str:
        """The characters that `piece` completes."""
        return self._decoder.decode(piece)

    @property
    def whole(self) -> bool:
        """Whether no character is half there."""
        return not self._decoder.buffer

    def flush(self) -> str:
        """What is left at the end: U+FFFD for a character that was never completed."""
        return self._decoder.decode(b"", final=True)
