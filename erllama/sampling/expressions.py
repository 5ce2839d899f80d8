"""Regular expressions, and what llguidance says of them. Pure."""

from __future__ import annotations

import bisect
import json
import re
from typing import Any

HEADER = '%llguidance {"no_forcing": true}\nstart: '
"""Of each grammar: every token that may come is allowed, also if the text can be no other."""

_LONGEST_MESSAGE = 300
_OUR_TEXT = re.compile(r"\n *\d+ \| (%llguidance|start: |[a-zA-Z]\d+: ).*", re.DOTALL)
_PLACE = re.compile(
    r"^at \d+\(\d+\): (failed to compile JSON schema: |invalid regex .*? \(in regex\): )?", re.S
)
_EXPRESSION = re.compile(r"regex parse error:\n.*\nerror: ", re.DOTALL)
_CARETS = re.compile(r"\n {4}( *)\^+\nerror: ")
_MEANT = {
    "NoExtensionBias": "no text can match",
    "lexer precomputation failed": "too complicated to follow; make it simpler or shorter",
}


def limits() -> Any:
    """Of what the library may use: 100 MB for one grammar, 500 at worst; 15 ms for one token."""
    import llguidance

    return llguidance.LLParserLimits(max_lexer_states=50_000, verbose_errors=False)


def said(error: str) -> str:
    """A message of the library without the grammar or the expression that it is about."""
    for beginning, meaning in _MEANT.items():
        if error.startswith(beginning):
            return meaning
    short = " ".join(_EXPRESSION.sub("", _PLACE.sub("", _OUR_TEXT.sub("", error))).split())
    return short if len(short) <= _LONGEST_MESSAGE else f"{short[:_LONGEST_MESSAGE]}…"


def lark(expression: str) -> str:
    r"""An expression as the library wants it; \d and \w are ASCII.

    Raises:
        ValueError: it ends in the middle of an escape, which the library would leave out.
    """
    import llguidance

    if (len(expression) - len(expression.rstrip("\\"))) % 2:
        raise ValueError("a backslash with nothing behind it")
    return str(llguidance.regex_to_lark(expression, "dw"))


def place(error: str, expression: str) -> int:
    """Where in an expression the library sees the fault; 0 if it does not say."""
    carets = _CARETS.search(error)
    if carets is None:
        return 0
    places = range(len(expression) + 1)
    return bisect.bisect_left(places, len(carets[1]), key=lambda n: _length(expression, n))


def _length(expression: str, n: int) -> int:
    """How long the first `n` characters are as the library shows them."""
    import llguidance

    return len(llguidance.regex_to_lark(expression[:n], "dw"))


def pattern_error(pattern: str) -> str:
    """What is wrong with a `pattern` of a schema; nothing if it can be used."""
    return schema_error(json.dumps({"type": "string", "pattern": pattern}))


def schema_error(schema: str) -> str:
    """What is wrong with a JSON schema, as text; nothing if llguidance can follow it."""
    import llguidance

    wrong = llguidance.LLMatcher.validate_grammar(f"{HEADER}%json {schema}\n", limits=limits())
    return "" if wrong.startswith("WARNING") else said(wrong)
