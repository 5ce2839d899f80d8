"""A request with a JSON schema: white space has an end, and what limits nothing is told of."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest

from erllama import Done, RequestError, Runtime, SamplingParams, bundled_model
from tests.model.staging import PATIENCE_S

TWO = {
    "type": "object",
    "properties": {
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "on": {"type": "boolean"},
    },
    "required": ["age", "on"],
    "additionalProperties": False,
}
WARNED = {"type": "integer", "format": "int64", "minimum": 0, "maximum": 9}
SAID = ["json_schema: at /format: the format 'int64' is not followed, so it limits nothing"]


async def test_white_space_has_an_end_with_default_sampling() -> None:
    async with asyncio.timeout(PATIENCE_S), Runtime() as runtime:
        model = await runtime.load_model(bundled_model(), n_ctx=512, n_seq_max=8, n_threads=1)

        async def write(seed: int, schema: Any, **options: Any) -> str:
            done = await model.complete(
                "A person as JSON:", json_schema=schema, seed=seed, max_tokens=300, **options
            )
            assert done.finish_reason == "stop", done.text
            json.loads(done.text)
            return done.text

        texts = await asyncio.gather(*(write(seed, TWO) for seed in range(8)))
        assert max(longest_gap(text) for text in texts) <= 8
        none = await asyncio.gather(*(write(n, TWO, json_whitespace=0) for n in range(3)))
        assert not any(map(longest_gap, none))


def longest_gap(text: str) -> int:
    """Of white space; no text of these schemas has any inside."""
    return max((len(gap) for gap in re.findall(r"\s+", text)), default=0)


@pytest.mark.parametrize("value", [-1, 1_001, 1.5, "8"])
def test_a_bound_of_white_space_that_makes_no_sense_is_refused(value: Any) -> None:
    with pytest.raises(RequestError, match="json_whitespace"):
        SamplingParams(json_whitespace=value)


async def test_what_limits_nothing_is_told_with_the_result() -> None:
    async with asyncio.timeout(PATIENCE_S), Runtime() as runtime:
        model = await runtime.load_model(bundled_model(), n_ctx=512, n_seq_max=2, n_threads=1)
        options: dict[str, Any] = {"json_schema": WARNED, "max_tokens": 8, "seed": 1}
        done = await model.complete("A number:", **options)
        assert done.warnings == SAID
        assert done.text in map(str, range(10))
        assert (await model.complete("Again:", **options)).warnings == SAID
        events = [event async for event in model.stream("A number:", **options)]
        assert isinstance(events[-1], Done)
        assert events[-1].completion.warnings == SAID
        messages = [{"role": "user", "content": "A number"}]
        assert (await model.chat(messages, **options)).warnings == SAID
        plain = {**options, "json_schema": {"type": "integer", "maximum": 9, "minimum": 0}}
        assert (await model.complete("A number:", **plain)).warnings == []
