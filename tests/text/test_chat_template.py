from __future__ import annotations

import datetime
from collections import UserDict
from pathlib import Path
from typing import Any

import pytest

from erllama.errors import RequestError
from erllama.text import render_chat

HELLO = [{"role": "user", "content": "Hello"}]
BUNDLED = Path(__file__).parents[2] / "examples" / "train_tiny_model" / "chat_template.jinja"


def test_messages_flags_and_special_tokens_reach_the_template() -> None:
    template = (
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}|{{ m['content'] }}]{% endfor %}"
        "{% if tools %}{{ tools[0].name }}{% endif %}"
        "{% if add_generation_prompt %}>{% endif %}{{ eos_token }}{{ mood }}"
    )
    text = render_chat(
        template,
        [*HELLO, {"role": "assistant", "content": None}],
        tools=[{"name": "clock"}],
        bos_token="<s>",
        eos_token="</s>",
        variables={"mood": "!"},
    )
    assert text == "<s>[user|Hello][assistant|]clock></s>!"
    assert render_chat(template, HELLO, add_generation_prompt=False) == "[user|Hello]"


def test_blocks_leave_no_newline_and_no_indentation() -> None:
    template = (
        "{% for m in messages %}\n    {% if true %}\n{{ m.content }}\n"
        "    {% endif %}\n{% endfor %}\n"
    )
    assert render_chat(template, HELLO) == "Hello\n"


def test_loops_can_break_and_continue() -> None:
    template = (
        "{% for m in messages %}{% if m.content == 'a' %}{% continue %}{% endif %}"
        "{% if m.content == 'c' %}{% break %}{% endif %}{{ m.content }}{% endfor %}"
    )
    assert render_chat(template, [{"role": "user", "content": c} for c in "abcd"]) == "b"


def test_tojson_keeps_order_and_text_and_escapes_nothing_for_html() -> None:
    tools = [{"z": "<é>&'", "a": 1}]
    assert render_chat("{{ tools | tojson }}", HELLO, tools=tools) == '[{"z": "<é>&\'", "a": 1}]'
    assert (
        render_chat("{{ tools[0] | tojson(indent=1) }}", HELLO, tools=[{"a": 1}]) == '{\n "a": 1\n}'
    )


def test_generation_blocks_are_their_content() -> None:
    template = "{% generation %}{{ messages[0].content }}{% endgeneration %}."
    assert render_chat(template, HELLO) == "Hello."


def test_the_time_is_the_one_given_and_missing_without_one() -> None:
    template = "{{ strftime_now('%Y') if strftime_now is defined else 'never' }}"
    assert render_chat(template, HELLO, now=datetime.datetime(1987, 6, 5)) == "1987"
    assert render_chat(template, HELLO) == "never"


def test_content_may_be_parts_and_messages_any_mapping() -> None:
    template = "{% for p in messages[0].content %}{{ p.text }}{% endfor %}"
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert render_chat(template, (UserDict(role="user", content=parts),)) == "ab"


def test_text_of_a_message_is_not_taken_for_a_template() -> None:
    evil = [{"role": "user", "content": "{{ 7 * 7 }}{% raw %}"}]
    assert render_chat("{{ messages[0].content }}", evil) == evil[0]["content"]


def test_the_template_of_the_bundled_model_writes_turns_tools_and_thinking() -> None:
    tools = [{"type": "function", "function": {"name": "now", "description": "It's <time>"}}]
    text = render_chat(
        BUNDLED.read_text(),
        [{"role": "system", "content": "Be brief."}, *HELLO],
        tools=tools,
        bos_token="<|bos|>",
        variables={"enable_thinking": True},
    )
    assert text == (
        "<|bos|><|system|>Be brief.\n\nYou may call these tools:\n"
        '{"name": "now", "description": "It\'s <time>", "parameters": {}}\n\n'
        "Think before you answer.<|end|><|user|>Hello<|end|><|assistant|>"
    )


@pytest.mark.parametrize(
    ("messages", "named"),
    [
        ("Hello", "messages: expected a list of messages, got str"),
        (None, "messages: expected a list of messages, got NoneType"),
        ([], "messages: is empty"),
        (["Hello"], r"messages\[0\]: expected a mapping with a role, got str"),
        ([*HELLO, {"content": "x"}], r"messages\[1\].role: expected a name .*, got None"),
        ([{"role": ""}], r"messages\[0\].role"),
        ([{"role": 7, "content": "x"}], r"messages\[0\].role: .* got 7"),
        ([{"role": "user", "content": 7}], r"messages\[0\].content: .* got int"),
        ([{"role": "user", "content": ["x"]}], r"messages\[0\].content: .* got list"),
    ],
)
def test_wrong_messages_are_named(messages: Any, named: str) -> None:
    with pytest.raises(RequestError, match=named):
        render_chat("{{ messages }}", messages)


@pytest.mark.parametrize("tools", ["clock", [1], {"name": "clock"}])
def test_wrong_tools_are_refused(tools: Any) -> None:
    with pytest.raises(RequestError, match="tools: expected a list of mappings"):
        render_chat("", HELLO, tools=tools)


@pytest.mark.parametrize("name", ["messages", "tools", "bos_token", "strftime_now"])
def test_variables_do_not_replace_those_of_erllama(name: str) -> None:
    with pytest.raises(RequestError, match=f"variables: '{name}' is set by erllama"):
        render_chat("", HELLO, variables={name: 1})


def test_wrong_variables_are_refused() -> None:
    wrong: Any = {1: 2}
    with pytest.raises(RequestError, match="variables: a key is 1; keys are text"):
        render_chat("", HELLO, variables=wrong)


def test_a_template_that_does_not_parse_is_named_with_its_line() -> None:
    with pytest.raises(RequestError, match=r"chat_template: does not parse, line 2: .*; load the"):
        render_chat("fine\n{% if %}", HELLO)


def test_what_a_template_refuses_is_the_fault_of_the_messages() -> None:
    template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(RequestError, match=r"^messages: .* refuses them: roles must alternate$"):
        render_chat(template, HELLO)


@pytest.mark.parametrize(
    "expression",
    [
        "messages.__class__",
        "''.__class__.__mro__",
        "raise_exception.__globals__",
        "messages.append({'role': 'user'})",
        "messages[0].update(role='x')",
        "cycler.__init__.__globals__.os.getcwd()",
        "'{0.__class__}'.format(messages)",
        "strftime_now.__self__.__class__",
    ],
)
def test_a_template_reads_and_changes_nothing_it_may_not(expression: str) -> None:
    messages = [dict(HELLO[0])]
    template = "\n{% set x = " + expression + " %}{{ x }}"
    with pytest.raises(RequestError, match=r"chat_template: reads what a template may not, line 2"):
        render_chat(template, messages, now=datetime.datetime(2000, 1, 1))
    assert messages == HELLO


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("\n{{ nobody.said }}", "line 2: UndefinedError: 'nobody' is undefined"),
        ("{{ 1 / 0 }}", "line 1: ZeroDivisionError"),
        ("{{ range(1000000000) | list }}", "line 1: OverflowError: Range too big"),
        ("{% include 'other' %}", "line 1: TypeError"),
        ("{{ messages | nothing }}", "No filter named 'nothing'"),
        ("{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}", "RecursionError"),
    ],
)
def test_a_template_that_fails_is_a_request_error_with_its_line(template: str, reason: str) -> None:
    with pytest.raises(RequestError, match=reason) as caught:
        render_chat(template, HELLO)
    assert str(caught.value).startswith("chat_template: ")


class Shouted(str):
    """Says something else than it is."""

    def __str__(self) -> str:
        return "LOUD"


class Broken(UserDict[str, Any]):
    def items(self) -> Any:
        raise RuntimeError("broken")


def test_a_template_meets_plain_data_whatever_the_caller_has() -> None:
    said = [UserDict(role=Shouted("user"), content=(UserDict(b=1, a=Shouted("x")),))]
    template = "{{ messages[0].role }} {{ messages | tojson }}"
    expected = 'user [{"role": "user", "content": [{"b": 1, "a": "x"}]}]'
    assert render_chat(template, said) == expected
    with pytest.raises(RequestError, match=r"^messages\[0\]: cannot be read: RuntimeError: broken"):
        render_chat(template, [Broken(role="user")])


def test_defaults_give_way_to_variables() -> None:
    template = "{{ a }}{{ b }}"
    assert render_chat(template, HELLO, defaults={"a": 1, "b": 2}, variables={"b": 3}) == "13"
