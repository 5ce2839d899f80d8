"""What a model writes around its thoughts and its calls of tools. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from erllama.backend.base import Engine
from erllama.config import ModelConfig
from erllama.text import Section, mentioned

THINKING, TOOL_CALL, PAYLOAD = "thinking", "tool_call", "payload"

_KNOWN = {
    THINKING: (
        Section("<think>", "</think>"),
        Section("<|START_THINKING|>", "<|END_THINKING|>"),
        Section("<seed:think>", "</seed:think>"),
        Section("[THINK]", "[/THINK]"),
    ),
    TOOL_CALL: (
        Section("<tool_call>", "</tool_call>"),
        Section("<|START_ACTION|>", "<|END_ACTION|>"),
        Section("<seed:tool_call>", "</seed:tool_call>"),
        Section("<|tool_call_start|>", "<|tool_call_end|>"),
    ),
}


@dataclass(frozen=True, slots=True)
class Markers:
    """The markers of a loaded model.

    Attributes:
        sections: those that it has, by `THINKING` and `TOOL_CALL`.
        payload: within a call: what is not its syntax; None: not told apart.
        spelled: the tokens that are a marker by themselves, and its text; control tokens have no
            bytes of their own.
        thinking_end: tokens of the end marker of thinking.
        signing_key: of `ThinkingEnd.signature`; None: not signed.
    """

    sections: Mapping[str, Section] = field(default_factory=dict)
    payload: Section | None = None
    spelled: Mapping[int, str] = field(default_factory=dict)
    thinking_end: tuple[int, ...] = ()
    signing_key: bytes | None = field(default=None, repr=False)

    def texts(self, name: str) -> tuple[str, ...]:
        """The markers of a section, as a `ModelConfig` has them; empty: none."""
        section = self.sections.get(name)
        if section is None:
            return ()
        pair = (section.begin, section.end)
        if name != TOOL_CALL or self.payload is None:
            return pair
        return (*pair, self.payload.begin, self.payload.end)


def find_markers(config: ModelConfig, engine: Engine, signing_key: str | None) -> Markers:
    """The markers that a model was loaded with, or that its chat template mentions."""
    template = engine.info.chat_template
    chosen = {
        THINKING: _section(config.thinking_markers, THINKING, template),
        TOOL_CALL: _section(config.tool_call_markers, TOOL_CALL, template),
    }
    sections = {name: section for name, section in chosen.items() if section is not None}
    thinking = sections.get(THINKING)
    return Markers(
        sections=sections,
        payload=_section((config.tool_call_markers or ())[2:], PAYLOAD, None),
        spelled=_spelled(engine, sections),
        thinking_end=() if thinking is None else _tokens(engine, thinking.end),
        signing_key=None if signing_key is None else signing_key.encode(),
    )


def _section(markers: tuple[str, ...] | None, name: str, template: str | None) -> Section | None:
    if markers is None:
        return mentioned(template, _KNOWN[name])
    return Section(markers[0], markers[1]) if markers else None


def _spelled(engine: Engine, sections: Mapping[str, Section]) -> dict[int, str]:
    spelled = {}
    for section in sections.values():
        for marker in (section.begin, section.end):
            tokens = _tokens(engine, marker)
            if len(tokens) == 1:
                spelled[tokens[0]] = marker
    return spelled


def _tokens(engine: Engine, marker: str) -> tuple[int, ...]:
    return tuple(engine.tokenize(marker, add_special=False, parse_special=True))
