"""A chat as the text that a model was trained to go on from. Pure.

The template comes with the model (`tokenizer.chat_template` in a GGUF) and is written in Jinja for
the `apply_chat_template` of transformers; what it may count on is said in
https://huggingface.co/docs/transformers/chat_templating_writing: the variables `messages`, `tools`,
`add_generation_prompt`, `bos_token` and `eos_token`, and the functions `raise_exception` and
`strftime_now`. A model file is somebody else's code, so it runs in Jinja's immutable sandbox: it
reads what it is given, reaches no attribute that begins with an underscore, changes nothing, and
is given up if it does not come to an end.
"""

from __future__ import annotations

import datetime
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from erllama.checked import shown
from erllama.errors import RequestError
from erllama.text.chat_data import plain_data
from erllama.text.chat_messages import (
    PART,
    REASONING,
    with_content,
    with_reasoning_as,
    with_reasoning_part,
    without_none,
)
from erllama.text.template_limits import TooMuch, limited_work

_OWN = ("messages", "tools", "add_generation_prompt", "bos_token", "eos_token", "strftime_now")
_REMEDY = "load the model with a chat_template that works"


def render_chat(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = True,
    bos_token: str = "",
    eos_token: str = "",
    variables: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
    now: datetime.datetime | None = None,
) -> str:
    """The text of a chat.

    Args:
        template: Jinja source.
        messages: what was said: mappings with a `role` and mostly a `content`, which is text, None
            or a list of parts (mappings). Keys whose value is None are left out, and what a model
            thought is given under the one of its usual names that the template reads
            (`reasoning_content`, `reasoning`, `thinking`).
        tools: descriptions of the tools that the model may call, as JSON schemas.
        add_generation_prompt: end with what introduces the assistant's next message.
        bos_token, eos_token: text of the tokens that begin and end a text.
        variables: more variables for the template, such as `enable_thinking`.
        defaults: values of variables that are not given.
        now: the time for templates that ask for it; without it they have no `strftime_now`.

    Raises:
        RequestError: `messages`, `tools` or `variables` have the wrong form, the template refuses
            them, or it does not parse, fails, or reads what it may not.
    """
    data = plain_data({"messages": messages, "tools": tools, "variables": variables})
    values: dict[str, Any] = {
        **(defaults or {}),
        **_check_variables(data["variables"]),
        "messages": without_none(_check_messages(data["messages"])),
        "tools": without_none(_check_tools(data["tools"])),
        "add_generation_prompt": add_generation_prompt,
        "bos_token": bos_token,
        "eos_token": eos_token,
    }
    if now is not None:
        values["strftime_now"] = now.strftime
    return _render(template, values)


def _render(template: str, values: dict[str, Any]) -> str:
    from jinja2 import TemplateSyntaxError

    try:
        values["messages"] = _named_as_read(template, values["messages"])
        try:
            return _write(template, values)
        except _Failed:
            if all("content" in message for message in values["messages"]):
                raise
            return _write_with_content(template, values)
    except TemplateSyntaxError as wrong:
        raise RequestError(
            f"chat_template: does not parse, line {wrong.lineno}: {wrong.message}; {_REMEDY}"
        ) from None
    except _Failed as failed:
        error = failed.error
        raise RequestError(
            f"chat_template: fails on these messages{_line(error)}: {type(error).__name__}: "
            f"{error}; change the messages, or {_REMEDY}"
        ) from None


def _write_with_content(template: str, values: dict[str, Any]) -> str:
    """For templates that are older than calls of tools, which come without a text."""
    from erllama.text.template_environment import asks_for_none

    missing = None if asks_for_none(template, "content") else ""
    return _write(template, {**values, "messages": with_content(values["messages"], missing)})


def _named_as_read(template: str, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if not any(name in message for message in messages for name in REASONING):
        return messages
    from erllama.text.template_environment import keys_read, looks_for

    read = keys_read(template)
    if looks_for(template, PART) and not {"reasoning_content", "reasoning"} & read:
        return [with_reasoning_part(message) for message in messages]
    return [with_reasoning_as(read, message) for message in messages]


class _Failed(Exception):
    """A template has raised what it did not mean to."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def _write(template: str, values: dict[str, Any]) -> str:
    from jinja2 import TemplateSyntaxError

    from erllama.text.template_environment import Refusal, SecurityError, compile_template

    try:
        with limited_work():
            return compile_template(template).render(values)
    except TooMuch as wrong:
        raise RequestError(
            f"chat_template: is given up{_line(wrong)}, as {wrong}; give shorter messages, or "
            f"{_REMEDY}"
        ) from None
    except Refusal as refusal:
        raise RequestError(f"messages: the model's chat template refuses them: {refusal}") from None
    except TemplateSyntaxError:
        raise
    except SecurityError as wrong:
        raise RequestError(
            f"chat_template: reads what a template may not{_line(wrong)}: {wrong}; {_REMEDY}"
        ) from None
    except Exception as wrong:  # a template is a program: it can fail in every way
        raise _Failed(wrong) from None


def _line(error: Exception) -> str:
    """Where in the template an error arose; Jinja puts the template's lines into tracebacks."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == "<template>"
    ]
    return f", line {lines[-1]}" if lines else ""


def _check_messages(messages: object) -> list[dict[str, Any]]:
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes | bytearray):
        raise RequestError(
            f"messages: expected a list of messages, got {type(messages).__name__}; "
            'give for example [{"role": "user", "content": "Hello"}]'
        )
    if not messages:
        raise RequestError("messages: is empty; give at least one message")
    return [_check_message(at, message) for at, message in enumerate(messages)]


def _check_message(at: int, message: object) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise RequestError(
            f"messages[{at}]: expected a mapping with a role, got {type(message).__name__}"
        )
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or not role:
        raise RequestError(
            f"messages[{at}].role: expected a name such as 'user' or 'assistant', got {shown(role)}"
        )
    parts = isinstance(content, Sequence) and all(isinstance(part, Mapping) for part in content)
    if not (content is None or isinstance(content, str) or parts):
        raise RequestError(
            f"messages[{at}].content: expected text, None or a list of parts (mappings), got "
            f"{type(content).__name__}"
        )
    return dict(message)


def _check_tools(tools: object) -> list[dict[str, Any]] | None:
    if tools is None:
        return None
    if isinstance(tools, Sequence) and all(isinstance(tool, Mapping) for tool in tools):
        return [_check_tool(at, tool) for at, tool in enumerate(tools)]
    raise RequestError(
        f"tools: expected a list of mappings (JSON schemas), got {type(tools).__name__}"
    )


def _check_tool(at: int, tool: Mapping[str, Any]) -> dict[str, Any]:
    """A tool is described by itself, or under `function`, as OpenAI's interface has it."""
    described, where = tool, f"tools[{at}]"
    if "function" in tool:
        described, where = tool["function"], f"{where}.function"
        if not isinstance(described, Mapping):
            raise RequestError(
                f"{where}: expected a mapping with a name and parameters, got "
                f"{type(described).__name__}"
            )
    if not isinstance(described.get("name", ""), str):
        raise RequestError(f"{where}.name: expected text, got {shown(described['name'])}")
    schema = described.get("parameters")
    if not (schema is None or isinstance(schema, Mapping | bool)):
        raise RequestError(
            f"{where}.parameters: expected a JSON schema (a mapping), got {type(schema).__name__}"
        )
    return dict(tool)


def _check_variables(variables: object) -> dict[str, Any]:
    if variables is None:
        return {}
    if not isinstance(variables, Mapping):
        raise RequestError("variables: expected a mapping from names to values")
    for name in _OWN:
        if name in variables:
            raise RequestError(f"variables: {name!r} is set by erllama; leave it out")
    return dict(variables)
