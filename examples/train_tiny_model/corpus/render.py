"""Conversations as text: the same text that `chat_template.jinja` writes, with what to learn."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

BOS, SYSTEM, USER, ASSISTANT, TOOL, END = SPECIAL = (
    "<|bos|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|end|>",
)  # fmt: skip
THINK_LINE = "Think before you answer."
TOOLS_LINE = "You may call these tools:"

Json = dict[str, object]


@dataclass
class Message:
    """One turn. `learn` is false where the text is context only."""

    role: str
    content: str = ""
    reasoning: str = ""
    calls: list[Json] = field(default_factory=list)
    learn: bool = True


@dataclass
class Conversation:
    """What a chat template is given."""

    messages: list[Message]
    tools: list[Json] = field(default_factory=list)
    thinking: bool = False
    sort_keys: bool = False  # jinja2's own tojson sorts, other renderers keep the order


@dataclass(frozen=True)
class Segment:
    """A piece of a document; the loss counts it when `learn` is set."""

    text: str
    learn: bool


def assistant_text(message: Message, sort_keys: bool) -> str:
    """What the assistant writes in one turn, without the markers of the turn."""
    thought = f"<think>\n{message.reasoning}\n</think>\n\n" if message.reasoning else ""
    calls = []
    for call in message.calls:
        arguments = json.dumps(call["arguments"], sort_keys=sort_keys, ensure_ascii=False)
        calls.append(
            f'<tool_call>\n{{"name": "{call["name"]}", "arguments": {arguments}}}\n</tool_call>'
        )
    return thought + "\n".join(([message.content] if message.content else []) + calls)


def tool_line(tool: Json, sort_keys: bool) -> str:
    parameters = json.dumps(tool["parameters"], sort_keys=sort_keys, ensure_ascii=False)
    description = json.dumps(tool["description"], ensure_ascii=False)
    return f'{{"name": "{tool["name"]}", "description": {description}, "parameters": {parameters}}}'


def system_text(conversation: Conversation) -> str:
    """The system part: what the caller says, then the tools, then whether to think."""
    first = conversation.messages[0]
    parts = [first.content] if first.role == "system" and first.content else []
    if conversation.tools:
        lines = [tool_line(tool, conversation.sort_keys) for tool in conversation.tools]
        parts.append("\n".join([TOOLS_LINE, *lines]))
    if conversation.thinking:
        parts.append(THINK_LINE)
    return "\n\n".join(parts)


def render(conversation: Conversation) -> list[Segment]:
    """The document of a whole conversation."""
    system = system_text(conversation)
    segments = [Segment(BOS + (f"{SYSTEM}{system}{END}" if system else ""), False)]
    for message in conversation.messages:
        if message.role == "assistant":
            text = assistant_text(message, conversation.sort_keys)
            segments += [Segment(ASSISTANT, False), Segment(text + END, message.learn)]
        elif message.role != "system":
            marker = {"user": USER, "tool": TOOL}[message.role]
            segments.append(Segment(marker + message.content + END, False))
    return segments


def prompt(conversation: Conversation) -> str:
    """The text up to where the assistant is to speak next."""
    return "".join(segment.text for segment in render(conversation)) + ASSISTANT
