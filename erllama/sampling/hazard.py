"""Which schemas and expressions the native compiler was not seen to survive. Pure.

What is within these bounds is compiled at once. They lie within those of tens of thousands of
random schemas and expressions (`tests/sampling/hostile.py`), of which the only ones that ended the
process had integers near the least of 64 bits, or below; and beyond what is usual, as what lies
outside is compiled twice.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from erllama.sampling.plan import Grammar

MAX_SCHEMA = 20_000
MAX_EXPRESSION = 2_000
MAX_DEPTH = 40
LEAST_NUMBER = -9 * 10**18
MOST_NUMBER = 10**20
SMALLEST_NUMBER = 1e-12
MAX_MULTIPLE = 1_000
MAX_COUNT = 10_000

_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_REPEATED = re.compile(r"\{\s*(\d+)\s*(?:,\s*(\d*)\s*)?\}")


def needs_trial(stage: Grammar) -> bool:
    """Whether to compile it in another process first; takes less than a millisecond."""
    if stage.kind == "regex":
        return _hazardous_expression(stage.text)
    if stage.kind == "grammar":  # followed by code of our own
        return False
    if len(stage.text) > MAX_SCHEMA:
        return True
    try:
        schema = json.loads(stage.text)
    except (ValueError, RecursionError):
        return False  # which is refused before it is compiled
    return _hazardous_schema(schema)


def _hazardous_schema(schema: Any) -> bool:
    level: list[tuple[str, Any]] = [("", schema)]
    for _ in range(MAX_DEPTH):
        below: list[tuple[str, Any]] = []
        for key, value in level:
            if _hazardous_value(key, value):
                return True
            if isinstance(value, dict):
                below += value.items()
                if any(map(_hazardous_expression, _patterns(value))):
                    return True
            elif isinstance(value, list):
                below += [("", one) for one in value]
        level = below
    return bool(level)


def _patterns(schema: dict[str, Any]) -> list[str]:
    named = schema.get("patternProperties")
    found = [schema.get("pattern"), *(named if isinstance(named, dict) else ())]
    return [one for one in found if isinstance(one, str)]


def _hazardous_value(key: str, value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if key == "multipleOf" and value > MAX_MULTIPLE:
        return True
    if key in _COUNTS and value > MAX_COUNT:
        return True
    return not LEAST_NUMBER < value < MOST_NUMBER or 0 < abs(value) < SMALLEST_NUMBER


def _hazardous_expression(expression: str) -> bool:
    if len(expression) > MAX_EXPRESSION or expression.count("(") > MAX_DEPTH or "&&" in expression:
        return True
    times = 1.0
    for least, most in _REPEATED.findall(expression):
        times *= max(_number(least), _number(most), 1)
    return times > MAX_COUNT


def _number(digits: str) -> float:
    return int(digits or 0) if len(digits) < 9 else math.inf
