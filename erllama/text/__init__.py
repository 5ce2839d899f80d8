"""From bytes of tokens to text, and from a chat to text. Pure."""

from erllama.text.chat_template import render_chat
from erllama.text.markers import Part, Section, SectionScanner, mentioned
from erllama.text.stop import StopMatcher
from erllama.text.utf8 import Utf8Decoder

__all__ = [
    "Part",
    "Section",
    "SectionScanner",
    "StopMatcher",
    "Utf8Decoder",
    "mentioned",
    "render_chat",
]
