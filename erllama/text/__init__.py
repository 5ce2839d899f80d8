"""From bytes of tokens to text, and from a chat to text. Pure."""

from erllama.text.chat_template import render_chat
from erllama.text.families import Chosen, chosen
from erllama.text.markers import Part, Section, SectionScanner
from erllama.text.runs import Kind, Runs
from erllama.text.stop import StopMatcher
from erllama.text.stopped import StoppedText
from erllama.text.utf8 import Utf8Decoder

__all__ = [
    "Chosen",
    "Kind",
    "Part",
    "Runs",
    "Section",
    "SectionScanner",
    "StopMatcher",
    "StoppedText",
    "Utf8Decoder",
    "chosen",
    "render_chat",
]
