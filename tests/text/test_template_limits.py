"""Templates that never end or blow up, and chats that are too much: refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from erllama.errors import RequestError
from erllama.text import render_chat
from erllama.text.template_limits import LONGEST, TooMuch, limited_work, pay, written_length

HELLO = [{"role": "user", "content": "Hello"}]
RANGE = "{% for i in range(99999) %}"
DOUBLED = (
    "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = DOUBLE %}{% endfor %}"
)

ENDLESS = {
    "loops in loops": RANGE * 3 + "{% endfor %}" * 3,
    "a loop with a filter": RANGE * 2 + "{% for j in range(99999) if j < 0 %}{% endfor %}"
    "{% endfor %}{% endfor %}",
    "recursive loop": "{% for i in range(9999) recursive %}"
    "{{ loop(range(9999)) if loop.depth < 9 }}{% endfor %}",
    "recursive macro": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}"
    "{% endmacro %}{{ m(90) }}",
    "slices": "{% set x = 'a' * 9999999 %}" + RANGE + "{% set y = x[1:] %}{% endfor %}",
    "searches": "{% set x = 'a' * 9999999 %}" + RANGE + "{% if 'b' in x %}{% endif %}{% endfor %}",
    "tests": "{% set x = 'a' * 9999999 %}" + RANGE + "{% if 'b' is in x %}{% endif %}{% endfor %}",
    "methods": "{% set x = 'a' * 9999999 %}" + RANGE + "{% if x.count('b') %}{% endif %}"
    "{% endfor %}",
}
HUGE = {
    "product": "{{ 'a' * 999999999 }}",
    "product of lists": "{{ [0] * 9999999999 }}",
    "power": "{{ 9 ** 999999 }}",
    "numbers": "{% set n = namespace(x=9) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}"
    "{% endfor %}",
    "concatenation": DOUBLED.replace("DOUBLE", "n.x ~ n.x"),
    "sum": DOUBLED.replace("DOUBLE", "n.x + n.x"),
    "sum of lists": DOUBLED.replace("'ab'", "[0]").replace("DOUBLE", "n.x + n.x"),
    "lists in lists": DOUBLED.replace("DOUBLE", "[n.x, n.x]") + "{{ n.x }}",
    "lists in lists as JSON": DOUBLED.replace("DOUBLE", "[n.x, n.x]") + "{{ n.x | tojson }}",
    "block": DOUBLED.replace(
        "{% set n.x = DOUBLE %}", "{% set y %}{{ n.x }}{{ n.x }}{% endset %}{% set n.x = y %}"
    ),
    "method join": DOUBLED.replace("DOUBLE", "n.x.join(['a', n.x])"),
    "filter join": DOUBLED.replace("DOUBLE", "[n.x, n.x] | join(n.x)"),
    "join of a generator": DOUBLED.replace("DOUBLE", "[n.x, n.x] | map('upper') | join"),
    "method replace": DOUBLED.replace("DOUBLE", "n.x.replace('a', n.x)"),
    "filter replace": DOUBLED.replace("DOUBLE", "n.x | replace('a', n.x)"),
    "format": "{{ '%999999999d' % 1 }}",
    "format with a width": "{{ '%*d' % (999999999, 1) }}",
    "filter format": "{{ '%999999999d' | format(1) }}",
    "method format": "{{ '{:999999999}'.format(1) }}",
    "method format with a width": "{{ '{:{}}'.format(1, 999999999) }}",
    "center": "{{ 'a' | center(999999999) }}",
    "method center": "{{ 'a'.center(999999999) }}",
    "indent": "{{ 'a' | indent(999999999, true) }}",
    "tabs": "{{ 'a\t'.expandtabs(999999999) }}",
    "batch": "{{ [1] | batch(999999999, 'x') | list }}",
    "JSON": "{{ [1] | tojson(indent=999999999) }}",
    "output": "{% set x = 'a' * 9999999 %}{% for i in range(99) %}{{ x }}{% endfor %}",
}


@pytest.mark.parametrize("template", ENDLESS.values(), ids=ENDLESS)
def test_a_template_that_does_not_end_is_given_up(template: str) -> None:
    with pytest.raises(RequestError, match=r"^chat_template: is given up, line 1, as it does not"):
        render_chat(template, HELLO)


@pytest.mark.parametrize("template", HUGE.values(), ids=HUGE)
def test_a_template_that_blows_up_is_given_up_before(template: str) -> None:
    with pytest.raises(RequestError, match=r"^chat_template: is given up"):
        render_chat(template, HELLO)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{% for i in [3, 4] %}{{ loop.index }}/{{ loop.length }}:{{ i }} {% endfor %}",
         "1/2:3 2/2:4 "),
        ("{% for i in 'ab' %}{{ i }}{{ ',' if not loop.last }}{% endfor %}", "a,b"),
        ("{% for i in [] %}{% else %}none{% endfor %}", "none"),
        ("{% for i in [1, [2, [3]]] recursive %}{{ i if i is number else loop(i) }}{% endfor %}",
         "123"),
        ("{{ 'abcdef'[1:5:2] }}{{ 'abc'[::-1] }}{{ [1, 2, 3][-1:] }}", "bdcba[3]"),
        ("{{ 1 ~ none ~ nothing ~ 'x' }}", "1Nonex"),
        ("{{ 'a' in 'ba' }}{{ 2 ** 10 }}{{ 7 % 4 }}{{ '%03d|%s' % (7, 'x') }}", "True10243007|x"),
        ("{{ '{:>4}|{x}'.format('a', x=1) }}{{ 'a' | center(5) }}|", "   a|1  a  |"),
        ("{{ messages | map(attribute='role') | join(', ') }}", "user"),
        ("{{ 'a\nb' | indent(2, true) }}{{ 'aXa' | replace('a', 'b', 1) }}", "  a\n  bbXa"),
        ("{% macro m(x) %}[{{ x }}{{ caller() }}]{% endmacro %}{% call m(1) %}y{% endcall %}",
         "[1y]"),
        ("{{ [1, {'a': 'é'}] | tojson(indent=1) | length }}{{ range(3) | list }}",
         "24[0, 1, 2]"),
    ],
)  # fmt: skip
def test_what_templates_do_otherwise_is_as_ever(template: str, text: str) -> None:
    assert render_chat(template, HELLO) == text


def test_work_is_counted_where_it_is_limited() -> None:
    pay(10**9)
    with limited_work(3):
        pay(3)
        with pytest.raises(TooMuch):
            pay(1)
    pay(10**9)


def test_the_written_length_of_what_contains_itself_is_too_much() -> None:
    loop: list[Any] = ["x" * 100]
    loop.append(loop)
    with pytest.raises(TooMuch, match=f"{LONGEST:,}"):
        written_length(loop)


# What is rendered


def nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    return value


def message(**fields: Any) -> list[dict[str, Any]]:
    return [{"role": "user", **fields}]


@pytest.mark.parametrize(
    ("messages", "named"),
    [
        (message(content="x" * 10_000_001), "messages: more than 10,000,000 characters"),
        (message(content="x" * 10_000) * 1_001, "messages: more than 10,000,000 characters"),
        (message(x=list(range(1_000_001))), "messages: more than .* 1,000,000 values"),
        (message(x=nested(101)), "messages: nested more than 100 deep"),
        (message(content="a\ud800"), r"messages\[0\].content: has half of a surrogate pair"),
        (message(x={"\udfff": 1}), r"messages\[0\].x: has half of a surrogate pair"),
        (message(x={1: 2}), r"messages\[0\].x: a key is 1"),
        (message(x=[{"y": object()}]), r"messages\[0\].x\[0\].y: expected text, .* got object"),
        (message(x=b"bytes"), r"messages\[0\].x: expected text, .* got bytes"),
    ],
)
def test_too_much_and_what_is_no_data_is_refused_by_name(messages: Any, named: str) -> None:
    with pytest.raises(RequestError, match=f"^{named}"):
        render_chat("{{ messages | length }}", messages)


def test_a_chat_of_nearly_ten_million_characters_is_written() -> None:
    messages = message(content="x" * 99_000) * 100
    template = "{% for m in messages %}<{{ m.role ~ ':' ~ m.content | trim }}>{% endfor %}"
    assert len(render_chat(template, messages)) == 100 * (99_000 + 7)


@pytest.mark.parametrize(
    ("tool", "named"),
    [
        ({"function": "f"}, r"tools\[0\].function: expected a mapping"),
        ({"function": {"name": 7}}, r"tools\[0\].function.name: expected text, got 7"),
        ({"name": "f", "parameters": "none"}, r"tools\[0\].parameters: expected a JSON schema"),
        ({"function": {"name": "f", "parameters": [1]}}, r"tools\[0\].function.parameters: "),
        ({"name": "f", "parameters": {"x": object()}}, r"tools\[0\].parameters.x: expected text"),
    ],
)
def test_a_tool_that_is_none_is_refused_by_name(tool: Any, named: str) -> None:
    with pytest.raises(RequestError, match=f"^{named}"):
        render_chat("{{ tools | length }}", HELLO, tools=[tool])


def test_a_variable_that_is_no_data_is_refused_by_name() -> None:
    with pytest.raises(RequestError, match=r"^variables.mood: expected text"):
        render_chat("", HELLO, variables={"mood": object()})
