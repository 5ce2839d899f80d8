"""The grammar that llguidance is given for a JSON schema. Pure."""

from __future__ import annotations

import functools
import json
from typing import Any

from erllama.sampling.expressions import HEADER
from erllama.sampling.json_schema import read_schema
from erllama.sampling.schema_grammar import dumped, grammar

_SPACE = r"[\x20\x0A\x0D\x09]"
_ESCAPES = 'nrbtf\\"'
"""Without \\u a property of another name cannot be a spelling of a named one."""


def schema_source(text: str, whitespace: int) -> str:
    """The grammar of a schema.

    Args:
        text: the schema as JSON.
        whitespace: how many characters of white space may stand between two tokens of JSON.

    Raises:
        InvalidGrammar: with the JSON pointer of what cannot be used, and why.
    """
    schema = _read(text).schema
    options = _options(whitespace)
    exact = grammar(schema, options)
    if exact is None:
        return f"{HEADER}%json {dumped({'x-guidance': options, **schema})}\n"
    rules, start = exact
    # once: else what is ignored may be repeated, and would have no bound
    head = json.dumps({"no_forcing": True, "ignore_once": True})
    ignored = f"%ignore /{_SPACE}{{1,{whitespace}}}/\n" if whitespace else ""
    return f"%llguidance {head}\nstart: {start}\n{rules}\n{ignored}"


def _options(whitespace: int) -> dict[str, Any]:
    if not whitespace:
        return {"json_allowed_escapes": _ESCAPES, "whitespace_flexible": False}
    pattern = f"{_SPACE}{{1,{whitespace}}}"
    return {"json_allowed_escapes": _ESCAPES, "whitespace_pattern": pattern}


@functools.lru_cache(32)
def schema_warnings(text: str) -> tuple[str, ...]:
    """What of a schema limits nothing though it may have been meant to, each with its place.

    Raises:
        InvalidGrammar: with the JSON pointer of what cannot be used, and why.
    """
    return _read(text).warnings


_read = functools.lru_cache(2)(read_schema)
"""A request reads its schema twice: for its grammar, and for what to warn of."""
