"""Texts that a structure allows, written at random, and whether they are valid."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import jsonschema
import numpy as np

from erllama.sampling.guided import GuidedConstraint
from erllama.sampling.token_bytes import TokenBytes

END = 256
LONGEST = 1_500
PATIENCE = 60  # tokens after which a text is drawn to its end
BYTES = [bytes([byte]) for byte in range(256)]
PAIRS = [bytes([a, b]) for a in b'"{}[],: a1' for b in b'"{}[],: b2']
TOKENS = TokenBytes([*BYTES, b"", *PAIRS, "é".encode(), "😀".encode(), b"true", b"null", b'"a":'])
SPACES = r"\t-\r \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
CLOSING = {b'"': 16, b"@": 14, b"}": 10, b"]": 10}


def walked(rule: GuidedConstraint, tokens: TokenBytes, end: int, seed: int) -> bytes:
    """The text of tokens drawn at random, until it ends."""
    source = np.random.default_rng(seed)
    closing = np.array([CLOSING.get(piece[:1], 0) for piece in tokens.pieces], np.float32)
    closing[end] = 20
    text = b""
    for step in range(LONGEST):
        logits = source.standard_normal(tokens.size).astype(np.float32)
        if step > PATIENCE:
            logits += closing
        rule.apply(logits)
        token = int(logits.argmax())
        assert logits[token] > -np.inf, text
        rule.accept(token)
        if token == end:
            return text
        text += tokens.pieces[token]
    raise AssertionError(f"no end: {text[-100:]!r}")


def _pattern(_: Any, pattern: str, instance: Any, __: Any) -> Iterator[jsonschema.ValidationError]:
    """As ECMA-262 has it, as far as the patterns of these tests go."""
    python = pattern.replace(r"\s", f"[{SPACES}]").replace(r"\S", f"[^{SPACES}]")
    if isinstance(instance, str) and not re.search(python, instance, re.ASCII):
        yield jsonschema.ValidationError(f"{instance!r} does not match {pattern!r}")


_Validator = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"pattern": _pattern})


def check_valid(text: bytes | str, schema: str) -> None:
    """Parsed exactly: a float may round a number over a bound."""
    exact = json.loads(schema, parse_float=Decimal)
    _Validator(exact).validate(json.loads(text, parse_float=Decimal))
