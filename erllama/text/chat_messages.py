"""What a template is shown of messages and tools, where callers write the same in several ways.

The objects of every SDK have all of their keys, and None for what was not said; a template asks
whether a key is there. And what a model thought goes by three names, of which a template reads one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

REASONING = ("reasoning_content", "reasoning", "thinking")
"""The keys under which programs and templates have what a model thought, the usual one first."""
PART = "thinking"
"""The type of a part of a content that is what a model thought, and the key of its text."""

_DATA = frozenset(
    {
        *("arguments", "parameters", "input", "input_schema", "schema"),
        *("output", "response", "result", "returns", "return"),
    }
)
"""Keys of what belongs to a tool: there None is a value, JSON's null."""


def without_none(value: Any) -> Any:
    """A copy of a message or of a tool without the keys whose value is None, at every depth.

    What a tool is called with and answers is left as it is, and so are its schemas.
    """
    if isinstance(value, Mapping):
        return {
            key: one if key in _DATA else without_none(one)
            for key, one in value.items()
            if one is not None
        }
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [without_none(one) for one in value]
    return value


def with_reasoning_as(read: Collection[str], message: dict[str, Any]) -> dict[str, Any]:
    """A message whose reasoning has a name that its template reads.

    Args:
        read: the keys that the template reads. Of several names the usual one is used; where it
            reads none, or the message has one that it reads, nothing is changed.
    """
    given = [name for name in REASONING if message.get(name)]
    wanted = [name for name in REASONING if name in read]
    if not given or not wanted or any(name in wanted for name in given):
        return message
    rest = {key: one for key, one in message.items() if key != given[0]}
    return {**rest, wanted[0]: message[given[0]]}


def with_reasoning_part(message: dict[str, Any]) -> dict[str, Any]:
    """A message whose reasoning is a part of its content, as Mistral's templates read it."""
    name = next((one for one in REASONING if message.get(one)), None)
    content = message.get("content") or []
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
    if name is None or any(part.get("type") == PART for part in parts):
        return message
    rest = {key: one for key, one in message.items() if key != name}
    return {**rest, "content": [{"type": PART, PART: message[name]}, *parts]}


def with_content(messages: Sequence[dict[str, Any]], missing: str | None) -> list[dict[str, Any]]:
    """The same messages for a template that fails on one without a content.

    Args:
        missing: what such a message has in its place.
    """
    return [{"content": missing, **message} for message in messages]
