"""Whether a text is one that a JSON schema lets a model write."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from erllama.sampling import Grammar
from erllama.sampling.chain import NothingToDraw
from erllama.sampling.guided import Guide
from erllama.sampling.params import JSON_WHITESPACE
from erllama.sampling.token_bytes import TokenBytes

END = 256
TOKENS = TokenBytes([*(bytes([byte]) for byte in range(256)), b""])
_GUIDE = Guide(TOKENS)

Takes = Callable[[str], bool]


def taker(schema: Any, whitespace: int = JSON_WHITESPACE) -> Takes:
    """Tells of a text, byte by byte, whether it may be written, and end.

    Args:
        schema: as text or as an object.
        whitespace: how many characters of it may stand between two tokens of JSON.
    """
    text = schema if isinstance(schema, str) else json.dumps(schema)
    stage = Grammar(text, "json_schema", whitespace)
    compiled = _GUIDE.compiled(stage)

    def takes(written: str) -> bool:
        rule = _GUIDE.constraint(stage, compiled, [END])
        try:
            for byte in [*written.encode(), END]:
                rule.accept(byte)
        except NothingToDraw:
            return False
        return True

    return takes


def string(text: str) -> str:
    """A text as JSON has it."""
    return json.dumps(text, ensure_ascii=False)
