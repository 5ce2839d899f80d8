"""Schemas, expressions and grammars at random that a compiler may stumble over."""

from __future__ import annotations

import json
import random
import string
from collections.abc import Sequence
from typing import Any, TypeVar

from erllama.sampling.plan import Grammar

T = TypeVar("T")

EDGES = [0, 1, 7, 2**7, 2**15, 2**31, 2**32, 2**53, 10**15, 10**18, 2**63, 2**64, 10**19, 10**40]
FLOATS = [0.0, 0.1, 0.5, 1e-7, 1e-15, 5e-324, 1.7976931348623157e308, 1e15, 1e16, 1e19, 1e22, 3.3e7]
COUNTS = [
    0,
    1,
    2,
    3,
    9,
    10,
    99,
    100,
    255,
    256,
    1_000,
    4_096,
    9_999,
    10_000,
    65_536,
    99_999,
    100_000,
]
CHARACTERS = (
    'aZ09 "\\/{}[]()^$.*+?|-&~#:,\n\t\x00\x1f\x7f\x85é߿ࠀ中\u2028\u202e\ufeff\uffff😀\U0010ffff'
)
FORMATS = [
    "date-time",
    "date",
    "time",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "uuid",
    "uri",
]
BELOW = ["items", "additionalProperties"]


class Choices(random.Random):
    """Random choices; `wild` ones go to all extremes, others about as far as requests do."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.wild = self.random() < 0.5

    def among(self, values: Sequence[T], usual: int) -> T:
        return self.choice(values if self.wild else values[:usual])


def number(choose: Choices) -> int | float:
    sign = choose.choice((1, -1))
    if choose.random() < 0.4:
        return sign * choose.among(FLOATS, 3) * choose.choice((1, 1, 1, 1.5, 3))
    return sign * choose.among(EDGES, 9) + choose.randint(-2, 2)


def text(choose: Choices) -> str:
    length = choose.choice((0, 1, 1, 2, 3, 5, 8, 40, 300))
    return "".join(choose.choices(CHARACTERS, k=length))


def value(choose: Choices, depth: int = 0) -> Any:
    kind = choose.random()
    if kind < 0.5:
        return number(choose)
    if kind < 0.75 or depth > 3:
        return choose.choice((text(choose), True, False, None, "é" * choose.choice(COUNTS[:10])))
    if kind < 0.88:
        return [value(choose, depth + 1) for _ in range(choose.randint(0, 4))]
    return {text(choose): value(choose, depth + 1) for _ in range(choose.randint(0, 4))}


def schema(choose: Choices, names: list[str], depth: int = 0) -> Any:
    made: dict[str, Any] = {}
    for _ in range(choose.choice((1, 1, 2, 3))):
        _add(choose, made, names, depth)
    return made


def _add(choose: Choices, made: dict[str, Any], names: list[str], depth: int) -> None:
    def below() -> Any:
        return schema(choose, names, depth + 1)

    flat = depth > 4
    match choose.randrange(9 if flat else 14):
        case 0:
            made["const"] = value(choose)
        case 1:
            made["enum"] = [value(choose) for _ in range(choose.choice((1, 2, 5, 40)))]
        case 2:
            made["type"] = choose.choice(("integer", "number"))
            for key in choose.sample(("minimum", "maximum", "exclusiveMinimum", "multipleOf"), 2):
                made[key] = abs(number(choose)) if key == "multipleOf" else number(choose)
        case 3:
            made["type"] = "string"
            made["minLength"], made["maxLength"] = sorted(
                choose.among(COUNTS, 10) for _ in range(2)
            )
        case 4:
            made["pattern"] = expression(choose)
        case 5:
            made["format"] = choose.choice(FORMATS)
        case 6:
            made["type"] = choose.choice(("integer", "number", "string", "object", "array", "null"))
            made["minItems"], made["maxItems"] = sorted(choose.among(COUNTS, 10) for _ in range(2))
        case 7:
            made["$ref"] = f"#/$defs/{choose.choice(names)}"
        case 8:
            made["type"] = choose.choice(("integer", "number"))
            made[choose.choice(("enum", "enum", "const"))] = [number(choose)]
            if "const" in made:
                made["const"] = number(choose)
        case 9:
            made["properties"] = {text(choose): below() for _ in range(choose.randint(0, 5))}
            made["required"] = list(made["properties"])[: choose.randint(0, 5)]
        case 10:
            made[choose.choice(("allOf", "anyOf", "oneOf"))] = [
                below() for _ in range(choose.choice((1, 2, 3, 8)))
            ]
        case 11:
            made["prefixItems"] = [below() for _ in range(choose.randint(0, 4))]
        case 12:
            made["patternProperties"] = {expression(choose): below()}
        case 13:
            chain = below()
            for _ in range(choose.among((1, 1, 2, 30, 90), 3)):
                chain = {choose.choice(BELOW): chain}
            made.update(chain)


def expression(choose: Choices, depth: int = 0) -> str:
    """A regular expression."""
    match choose.randrange(6 if depth > 4 else 12):
        case 0:
            return "".join(choose.choices(string.ascii_letters + "é中😀", k=choose.randint(1, 6)))
        case 1:
            return choose.choice((".", r"\d", r"\w", r"\s", r"\S", r"\p{L}", r"\p{Lu}", r"[^\s\S]"))
        case 2:
            return f"[{choose.choice(('', '^'))}a-{choose.choice('z中😀')}]"
        case 3:
            return choose.choice(
                (r"[a-z&&[^aeiou]]", r"[\p{L}--x]", r"(?i)k", r"(?s).", r"\x{10FFFF}")
            )
        case 4:
            return "".join(choose.choices(CHARACTERS, k=choose.randint(1, 5)))
        case 5:
            return choose.choice((r"\b", "^", "$", "", r"\B", "(?:)", "()", r"\A", r"\z"))
        case 6 | 7:
            return "".join(expression(choose, depth + 1) for _ in range(choose.randint(2, 5)))
        case 8:
            ways = choose.choice((2, 3, 5, 60))
            return "(" + "|".join(expression(choose, depth + 1) for _ in range(ways)) + ")"
        case 9:
            return f"({expression(choose, depth + 1)}){choose.choice('*+?')}"
        case 10:
            least, most = sorted(choose.among(COUNTS, 10) for _ in range(2))
            end = choose.choice((f"{{{least},{most}}}", f"{{{least}}}", f"{{{least},}}"))
            return f"({expression(choose, depth + 1)}){end}"
    deep = choose.among((2, 20, 200, 2_000), 1)
    return "(" * deep + expression(choose, depth + 1) + ")" * deep


def gbnf(choose: Choices) -> str:
    names = ["root", *"abc"]
    return "\n".join(f"{name} ::= {_ways(choose, names, 0)}" for name in names)


def _ways(choose: Choices, names: list[str], depth: int) -> str:
    return " | ".join(
        " ".join(_element(choose, names, depth) for _ in range(choose.randint(1, 4)))
        for _ in range(choose.choice((1, 1, 2, 3)))
    )


def _element(choose: Choices, names: list[str], depth: int) -> str:
    kinds = ['"a"', '"ab"', "[a-z]", ".", '""', "[^\\x01-\\x20]", *names[1:], "(", "(", "("]
    made = choose.choice(kinds)
    if made == "(":
        made = f"({_ways(choose, names, depth + 1)})" if depth < 4 else "[0-9]"
    if choose.random() < 0.4:
        least, most = sorted(choose.choices(COUNTS[:14], k=2))
        made += choose.choice(
            ("*", "+", "?", "?", f"{{{least},{most}}}", f"{{{least}}}", f"{{{least},}}")
        )
    return made


def stage(choose: Choices) -> Grammar:
    """A schema in half of the cases, an expression or a grammar."""
    kind = choose.random()
    if kind < 0.55:
        names = ["a", "b", "c"]
        made = schema(choose, names)
        made["$defs"] = {name: schema(choose, names) for name in names}
        return Grammar(json.dumps(made), "json_schema")
    if kind < 0.85:
        return Grammar(expression(choose), "regex")
    return Grammar(gbnf(choose))
