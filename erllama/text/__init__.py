"""From bytes of tokens to text. Pure."""

from erllama.text.utf8 import Utf8Decoder

__all__ = ["Utf8Decoder"]
