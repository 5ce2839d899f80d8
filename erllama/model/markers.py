"""What a model writes around its thoughts and its calls of tools. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from erllama.backend.base import Engine
from erllama.config import ModelConfig
from erllama.model.prompt_tokens import tokenize_behind
from erllama.text import Chosen, Section, chosen

THINKING, TOOL_CALL, PAYLOAD = "thinking", "tool_call", "payload"


class Opening(NamedTuple):
    """What a prompt has written of a marker, or of a section, that its reply goes on.

    Attributes:
        name, section: that it has opened.
        begun: the beginning of a marker, at its end.
    """

    name: str | None = None
    section: Section | None = None
    begun: str = ""


@dataclass(frozen=True, slots=True)
class Markers:
    """The markers of a loaded model.

    Attributes:
        sections: those that it has, by `THINKING` and `TOOL_CALL`.
        others: more of them, such as a second way to write a call; without a name: texts around
            answers, which are dropped.
        payload: within a call: what is not its syntax; None: not told apart.
        thinking_end: tokens of the end marker of thinking.
        signing_key: of `ThinkingEnd.signature`; None: not signed.
    """

    sections: Mapping[str, Section] = field(default_factory=dict)
    others: Sequence[tuple[str | None, Section]] = ()
    payload: Section | None = None
    thinking_end: tuple[int, ...] = ()
    signing_key: bytes | None = field(default=None, repr=False)

    @property
    def all(self) -> tuple[tuple[str | None, Section], ...]:
        """All of them, by name."""
        return (*self.sections.items(), *self.others)

    @property
    def without_bare(self) -> Markers:
        """For replies in which JSON is an answer: what has no marker is no call."""
        rest = tuple(pair for pair in self.others if not pair[1].bare)
        return self if len(rest) == len(self.others) else replace(self, others=rest)

    def texts(self, name: str) -> tuple[str, ...]:
        """The markers of a section, as a `ModelConfig` has them; empty: none."""
        section = self.sections.get(name)
        if section is None:
            return ()
        pair = (section.begin, section.end)
        if name != TOOL_CALL or self.payload is None:
            return pair
        return (*pair, self.payload.begin, self.payload.end)

    def opening(self, prompt: str) -> Opening:
        """What a reply to this prompt, or to one that ends so, begins in."""
        bare = prompt.rstrip()
        for name, section in self.all:
            if name is not None and not section.bare and bare.endswith(section.begins):
                return Opening(name, section)
        begins = (begin for _, section in self.all for begin in section.begins)
        return Opening(begun=max((_begun(prompt, one) for one in begins), key=len, default=""))


def _begun(prompt: str, marker: str) -> str:
    """The longest beginning of a marker that a prompt ends with."""
    ends = range(len(marker) - 1, 0, -1)
    return next((marker[:n] for n in ends if prompt.endswith(marker[:n])), "")


def find_markers(config: ModelConfig, engine: Engine, signing_key: str | None) -> Markers:
    """The markers that a model was loaded with, or that its chat templates mention."""
    found = chosen(
        engine.info.templates,
        thinking=config.thinking_markers is None,
        calls=config.tool_call_markers is None,
    )
    thoughts = _configured(config.thinking_markers) or found.thinking
    calls = _configured(config.tool_call_markers) or found.calls
    first = ((THINKING, thoughts[:1]), (TOOL_CALL, calls[:1]))
    return Markers(
        sections={name: one for name, sections in first for one in sections},
        others=_others(thoughts, calls, found),
        payload=next(iter(_configured((config.tool_call_markers or ())[2:])), None),
        thinking_end=_tokens(engine, thoughts[0].end) if thoughts else (),
        signing_key=None if signing_key is None else signing_key.encode(),
    )


def _configured(markers: tuple[str, ...] | None) -> tuple[Section, ...]:
    return (Section(markers[0], markers[1]),) if markers else ()


def _others(
    thoughts: Sequence[Section], calls: Sequence[Section], found: Chosen
) -> tuple[tuple[str | None, Section], ...]:
    more = [(THINKING, one) for one in thoughts[1:]] + [(TOOL_CALL, one) for one in calls[1:]]
    return (*more, *((None, Section(text, "")) for text in found.frames))


def _tokens(engine: Engine, marker: str) -> tuple[int, ...]:
    """The ids of a marker in the middle of a text."""
    return tuple(tokenize_behind(engine, marker))
