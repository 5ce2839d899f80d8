"""Regular expressions, and what llguidance says of them. Pure."""

from __future__ import annotations

import json
import re
from typing import Any

HEADER = '%llguidance {"no_forcing": true}\nstart: '
"""Of each grammar: every token that may come is allowed, also if the text can be no other."""

_OUR_TEXT = re.compile(r"\n *\d+ \| %llguidance.*", re.DOTALL)
_PLACE = re.compile(
    r"^at \d+\(\d+\): (failed to compile JSON schema: |invalid regex .*? \(in regex\): )?", re.S
)


def limits() -> Any:
    """Of what the library may use: about 100 MB for one grammar, 15 ms for one token."""
    import llguidance

    return llguidance.LLParserLimits(max_lexer_states=50_000, verbose_errors=False)


def said(error: str) -> str:
    """A message of the library without the grammar that was made of a schema."""
    return " ".join(_PLACE.sub("", _OUR_TEXT.sub("", error)).split())


def pattern_error(pattern: str) -> str:
    """What is wrong with a `pattern` of a schema; nothing if it can be used."""
    import llguidance

    schema = json.dumps({"type": "string", "pattern": pattern})
    wrong = llguidance.LLMatcher.validate_grammar(f"{HEADER}%json {schema}\n", limits=limits())
    return "" if wrong.startswith("WARNING") else said(wrong)
