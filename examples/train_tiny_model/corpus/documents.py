"""The stream of documents that a network is trained on, and how rows are packed from it."""

from __future__ import annotations

from collections.abc import Iterator

from corpus.chats import chat, long_chat, no_tool, tool_chat
from corpus.render import BOS, END, Segment, render
from corpus.sampler import Sampler
from corpus.stories import story


def story_document(s: Sampler) -> list[Segment]:
    return [Segment(BOS, False), Segment(story(s) + END, True)]


def document(s: Sampler, long: bool = False) -> list[Segment]:
    """One document: a story, a chat, a chat with tools or, where `long`, a very long chat."""
    if long and s.chance(0.4):
        return render(long_chat(s, s.number(15, 70)))
    weights = (3, 52, 43, 2) if s.hard else (10, 52, 36, 2)
    kind = s.rng.choices(("story", "chat", "tools", "no tool"), weights)[0]
    if kind == "story":
        return story_document(s)
    if kind == "chat":
        return render(chat(s))
    return render(tool_chat(s) if kind == "tools" else no_tool(s))


def documents(seed: str, long: bool = False, hard: bool = False) -> Iterator[list[Segment]]:
    """Endless documents; the same ones for the same seed."""
    s = Sampler(seed, hard=hard)
    while True:
        yield document(s, long)
