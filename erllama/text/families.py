"""What families of models write around thoughts and calls, told by their chat templates. Pure.

The markers are those that the templates of public models write into earlier turns, or describe to
the model. A family comes before those whose markers its template mentions as well.
"""
# ruff: noqa: RUF001 (DeepSeek's tokens are written with full-width bars)

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from erllama.text.markers import Section


@dataclass(frozen=True, slots=True)
class Family:
    """What is told apart in the replies of some models.

    Attributes:
        mentions: texts that their chat templates have, all of them.
        thinking: how thoughts are marked; empty: this family says nothing of that.
        calls: the same for calls of tools.
        frames: texts around answers, which are dropped.
    """

    mentions: tuple[str, ...]
    thinking: tuple[Section, ...] = ()
    calls: tuple[Section, ...] = ()
    frames: tuple[str, ...] = ()


def _thinks(begin: str, end: str) -> Family:
    return Family((begin, end), thinking=(Section(begin, end),))


def _calls(begin: str, end: str, *frames: str) -> Family:
    return Family((begin, end), calls=(Section(begin, end),), frames=frames)


# A message goes to a channel. The first one begins in the prompt, behind "assistant"; in the
# others that is part of the marker.
_HARMONY_BEGIN = "<|start|>assistant"
_HARMONY_CALLS = ("<|channel|>commentary to=", "<|channel|>analysis to=")
_HARMONY_FRAMES = (
    "<|channel|>final<|message|>",
    "<|channel|>final <|constrain|>json<|message|>",
    "<|channel|>commentary<|message|>",
)
_HARMONY = Family(
    ("<|start|>assistant", "<|channel|>", "<|message|>", "analysis"),
    thinking=(
        Section(
            "<|channel|>analysis<|message|>",
            "<|end|>",
            (f"{_HARMONY_BEGIN}<|channel|>analysis<|message|>",),
        ),
    ),
    calls=(
        Section(
            f"{_HARMONY_BEGIN} to=",
            "<|call|>",
            (*_HARMONY_CALLS, *(_HARMONY_BEGIN + one for one in _HARMONY_CALLS)),
        ),
    ),
    frames=(*_HARMONY_FRAMES, *(_HARMONY_BEGIN + one for one in _HARMONY_FRAMES), "<|end|>"),
)

# JSON without a marker, where a chat has tools; keys are spaced in several ways
_BARE = Section(
    '{"name":',
    "",
    (
        *('{ "name":', '{"name" :', '{\n"name":', '{\n  "name":', '{\n    "name":'),
        *('{"type":"function","name":', '{"type": "function", "name":'),
        *('{"function":', '{"type": "function", "function":'),
    ),
    bare=True,
)
_PYTHON = Section("<|python_tag|>", "")

FAMILIES = (
    _HARMONY,
    # Command R7B, Command A
    Family(
        ("<|START_THINKING|>", "<|END_THINKING|>"),
        thinking=(Section("<|START_THINKING|>", "<|END_THINKING|>"),),
        frames=("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),
    ),
    # Granite 3
    Family(
        ("<|start_of_role|>", "<think>", "</think>", "<response>", "</response>"),
        thinking=(Section("<think>", "</think>"),),
        frames=("<response>", "</response>"),
    ),
    _thinks("Here is my thought process:", "Here is my response:"),
    _thinks("<think>", "</think>"),
    _thinks("<seed:think>", "</seed:think>"),
    _thinks("[THINK]", "[/THINK]"),
    _thinks("<|channel>thought", "<channel|>"),
    _thinks("<|inner_prefix|>", "<|inner_suffix|>"),
    _calls("<tool_call>", "</tool_call>"),
    _calls("<|START_ACTION|>", "<|END_ACTION|>"),
    _calls("<seed:tool_call>", "</seed:tool_call>"),
    _calls("<|tool_call_start|>", "<|tool_call_end|>"),
    # Kimi
    _calls(
        "<|tool_call_begin|>",
        "<|tool_call_end|>",
        *("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
    ),
    # DeepSeek
    _calls(
        "<｜tool▁call▁begin｜>",
        "<｜tool▁call▁end｜>",
        *("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
    ),
    Family(
        ("｜DSML｜", "invoke"),
        calls=(Section("<｜DSML｜invoke", "</｜DSML｜invoke>"),),
        frames=tuple(
            f"<{slash}｜DSML｜{name}>"
            for name in ("function_calls", "tool_calls")
            for slash in ("", "/")
        ),
    ),
    # Mistral: a list of calls, or a marker for each
    Family(("[TOOL_CALLS]",), calls=(Section("[TOOL_CALLS]", ""),)),
    # Phi, then Granite 3, which has no end marker
    _calls("<|tool_call|>", "<|/tool_call|>"),
    Family(("<|tool_call|>",), calls=(Section("<|tool_call|>", ""),)),
    _calls("<|tool_call>", "<tool_call|>"),
    _calls("<minimax:tool_call>", "</minimax:tool_call>"),
    _calls("<TOOLCALL>", "</TOOLCALL>"),
    _calls("<tool_calls>", "</tool_calls>"),
    _calls("<|tools_prefix|>", "<|tools_suffix|>"),
    # Functionary, and Llama 3, from which it comes
    Family(
        ("<function=", "</function>", "<|python_tag|>"),
        calls=(Section("<function=", "</function>"), _PYTHON),
    ),
    Family(("<|start_header_id|>ipython", '"name"'), calls=(_PYTHON, _BARE)),
    Family(("<|python_tag|>",), calls=(_PYTHON, _BARE)),
    # Command R and R+
    Family(
        ("Action:", "```json", "tool_name"),
        calls=(Section("Action: ```json", "```", ("Action:```json", "Action:\n```json")),),
    ),
)


@dataclass(frozen=True, slots=True)
class Chosen:
    """What is told apart in the replies of one model."""

    thinking: tuple[Section, ...] = ()
    calls: tuple[Section, ...] = ()
    frames: tuple[str, ...] = ()


def chosen(templates: Iterable[str], *, thinking: bool = True, calls: bool = True) -> Chosen:
    """What the chat templates of a model mention, the first of them before the others.

    Args:
        thinking, calls: whether this is looked for.
    """
    texts = list(templates)
    fit = [one for text in texts for one in FAMILIES if all(part in text for part in one.mentions)]
    thinks = next((one for one in fit if one.thinking), None) if thinking else None
    does = next((one for one in fit if one.calls), None) if calls else None
    frames = (text for one in (thinks, does) if one is not None for text in one.frames)
    return Chosen(
        () if thinks is None else thinks.thinking,
        () if does is None else does.calls,
        tuple(dict.fromkeys(frames)),
    )
