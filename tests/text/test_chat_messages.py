"""What a template sees of messages and tools as SDKs dump them, with all of their keys."""

from __future__ import annotations

from typing import Any

import pytest

from erllama.errors import RequestError
from erllama.text import render_chat

EMPTY = {"tool_calls": None, "function_call": None, "name": None, "refusal": None, "audio": None}
HELLO: dict[str, Any] = {"role": "user", "content": "Hello", **EMPTY}
CALL: dict[str, Any] = {
    **EMPTY,
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {
            "id": "c1",
            "index": None,
            "type": "function",
            "function": {
                "name": "f",
                "description": None,
                "arguments": {"city": None, "n": [None]},
            },
        }
    ],
}


def render(template: str, *messages: dict[str, Any], **options: Any) -> str:
    return render_chat(template, messages or [HELLO], **options)


@pytest.mark.parametrize("name", [*EMPTY, "content"])
def test_a_key_whose_value_is_none_is_not_there(name: str) -> None:
    template = f"{{{{ '{name}' in messages[0] }}}}{{{{ messages[0].{name} is defined }}}}"
    message = {"role": "assistant", "content": "x", name: None}
    assert render(template, message) == "FalseFalse"
    assert render(f"{{{{ messages[0].{name} }}}}", message) == ""


def test_what_is_in_a_message_has_no_empty_keys_either() -> None:
    assert render("{{ messages[0] | tojson }}", CALL) == (
        '{"tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": '
        '{"city": null, "n": [null]}}}], "role": "assistant"}'
    )
    image = {"type": "image_url", "text": None, "image_url": {"url": "u", "detail": None}}
    assert render("{{ messages[0].content | tojson }}", {"role": "user", "content": [image]}) == (
        '[{"type": "image_url", "image_url": {"url": "u"}}]'
    )


def test_tools_have_none_but_in_their_schemas() -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [None, 1], "default": None}}}
    function = {"name": "f", "description": None, "strict": None, "parameters": schema}
    tool = {"type": "function", "function": function, "cache_control": None}
    assert render("{{ tools | tojson }}", tools=[tool]) == (
        '[{"type": "function", "function": {"name": "f", "parameters": {"type": "object", '
        '"properties": {"a": {"enum": [null, 1], "default": null}}}}}]'
    )
    bare = {"name": "f", "parameters": None}
    assert render("{{ tools | tojson }}", tools=[bare]) == '[{"name": "f"}]'


def test_none_in_a_list_and_in_variables_is_a_value() -> None:
    message = {"role": "user", "content": "", "marks": [None, 1]}
    assert render("{{ messages[0].marks | tojson }}", message) == "[null, 1]"
    assert render("{{ mood is none }}", variables={"mood": None}) == "True"


CALLS = "{% for c in messages[0].tool_calls %}({{ c.function.name }}){% endfor %}"


@pytest.mark.parametrize(
    "template",
    [
        "{{ '<a>' + messages[0].content }}" + CALLS,
        "<a>{{ messages[0]['content'].strip() }}" + CALLS,
        "<a>{{ messages[0].content | trim }}" + CALLS,
        "{% if messages[0].content is none %}<a>" + CALLS + "{% else %}"
        "{{ '<a>' + messages[0].content.split('x')[0] }}{% endif %}",
        "<a>{% if 'x' in messages[0].content %}x{% endif %}" + CALLS,
        "<a>{% if messages[0].content %}x{% endif %}" + CALLS,
    ],
)
@pytest.mark.parametrize("keys", [["content"], []])
def test_a_call_without_a_text_is_written_however_the_template_asks_for_one(
    template: str, keys: list[str]
) -> None:
    message = {key: one for key, one in CALL.items() if one is not None or key in keys}
    assert render(template, message) == "<a>(f)"


def test_what_fails_for_another_reason_is_told_as_it_was() -> None:
    template = "{{ messages[0].content + messages[0].nobody.said }}"
    with pytest.raises(RequestError, match=r"chat_template: fails.*line 1: UndefinedError"):
        render(template, CALL)
    refuses = "{% if not messages[0].content %}{{ raise_exception('say something') }}{% endif %}"
    with pytest.raises(RequestError, match="refuses them: say something"):
        render(refuses, CALL)


NAMES = ("reasoning_content", "reasoning", "thinking")
READS = (
    "{{ m.%s }}",
    "{{ m['%s'] }}",
    "{{ m.get('%s', '') }}",
    "{%% if '%s' in m %%}Hm.{%% endif %%}",
)


@pytest.mark.parametrize("given", NAMES)
@pytest.mark.parametrize("read", NAMES)
@pytest.mark.parametrize("how", READS)
def test_reasoning_reaches_the_template_by_the_name_that_it_reads(
    how: str, read: str, given: str
) -> None:
    template = "{% for m in messages %}" + how % read + "{% endfor %}"
    message = {"role": "assistant", "content": "x", **dict.fromkeys(NAMES), given: "Hm."}
    assert render(template, HELLO, message) == "Hm."


def test_reasoning_that_is_there_by_that_name_stays() -> None:
    message = {"role": "assistant", "content": "x", "reasoning": "a", "thinking": "b"}
    assert render("{{ messages[0].thinking }}{{ messages[0].reasoning }}", message) == "ba"
    assert render("{{ messages[0].thinking }}", message) == "b"
    assert render("{{ messages[0] | tojson }}", {**message, "thinking": ""}).count("reasoning") == 1


def test_a_template_that_reads_several_names_gets_the_usual_one() -> None:
    template = "{{ messages[0].reasoning_content or messages[0].reasoning }}"
    assert render(template, {"role": "assistant", "content": "x", "thinking": "Hm."}) == "Hm."


def test_a_variable_of_that_name_is_no_reading_of_messages() -> None:
    template = "{% if thinking %}1{% endif %}{{ messages[0].reasoning_content }}"
    message = {"role": "assistant", "content": "x", "thinking": "Hm."}
    assert render(template, message, variables={"thinking": True}) == "1Hm."


MISTRAL = (
    "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content %}{% if p['type'] == 'text' %}{{ p['text'] }}"
    "{% elif p['type'] == 'thinking' %}[THINK]{{ p['thinking'] }}[/THINK]{% endif %}{% endfor %}"
    "{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("given", NAMES)
@pytest.mark.parametrize(
    ("content", "text"),
    [("Hi", "Hi"), (None, ""), ("", ""), ([{"type": "text", "text": "Hi"}], "Hi")],
)
def test_reasoning_may_be_a_part_of_the_content(given: str, content: Any, text: str) -> None:
    message = {"role": "assistant", "content": content, given: "Hm."}
    assert render(MISTRAL, HELLO, message) == f"Hello[THINK]Hm.[/THINK]{text}"
    parts = [{"type": "thinking", "thinking": "So."}, {"type": "text", "text": "Hi"}]
    message = {"role": "assistant", "content": parts, given: "Hm."}
    assert render(MISTRAL, message) == "[THINK]So.[/THINK]Hi"
