"""Whether `chat_template.jinja` writes what the corpus taught: the same text, to the character."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from corpus.chats import chat, long_chat, tool_chat
from corpus.render import BOS, END, Conversation, render
from corpus.sampler import Sampler
from jinja2.sandbox import ImmutableSandboxedEnvironment

PATH = Path(__file__).with_name("chat_template.jinja")


def text() -> str:
    """The template as it goes into the file."""
    return PATH.read_text(encoding="utf-8").rstrip("\n")


def messages(conversation: Conversation) -> list[dict[str, Any]]:
    """The conversation as callers of a template give it."""
    return [
        {
            "role": message.role,
            "content": message.content or None,
            "reasoning_content": message.reasoning or None,
            "tool_calls": [{"type": "function", "function": call} for call in message.calls],
        }
        for message in conversation.messages
    ]


def write(conversation: Conversation) -> str:
    """What the template makes of a conversation."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(
        value, ensure_ascii=False, sort_keys=conversation.sort_keys
    )
    return environment.from_string(text()).render(
        messages=messages(conversation),
        tools=[{"type": "function", "function": tool} for tool in conversation.tools],
        enable_thinking=conversation.thinking,
        add_generation_prompt=False,
        bos_token=BOS,
        eos_token=END,
    )


def check(count: int) -> None:
    """Compare `count` conversations of each kind; raises ValueError on the first difference."""
    s = Sampler("template")
    for _ in range(count):
        for conversation in (chat(s), tool_chat(s), long_chat(s, 8)):
            trained = "".join(segment.text for segment in render(conversation))
            written = write(conversation)
            if written != trained:
                raise ValueError(f"the template writes\n{written}\nbut was taught\n{trained}")
