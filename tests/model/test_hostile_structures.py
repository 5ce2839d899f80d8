"""Grammars, schemas and expressions that are meant to do harm: refused, or they work."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from erllama import DecodeFailed, InvalidGrammar, Model, RequestError, Runtime
from erllama.backend.llama.words import Words
from erllama.sampling import SamplerPlan
from erllama.sampling.effort import Pause
from tests.model.staging import PATIENCE_S


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


def fan(keyword: str, width: int, depth: int) -> dict[str, Any]:
    """Definitions of which each has the next one `width` times."""
    each = {str(n): {keyword: [{"$ref": f"#/$defs/{n + 1}"}] * width} for n in range(depth)}
    return {"$ref": "#/$defs/0", "$defs": {**each, str(depth): {"type": "null"}}}


REFUSED: dict[str, dict[str, Any]] = {
    "parentheses, 20,000 deep": {"grammar": "root ::= " + "(" * 20_000 + '"a"' + ")" * 20_000},
    "left recursion": {"grammar": 'root ::= a root "x" | "y"\na ::= b\nb ::= ""'},
    "a thousand million letters": {"grammar": 'root ::= (("a"{1000}){1000}){1000}x'},
    "readings without number": {"grammar": 'root ::= ("a"? "b"?){9000}'},
    "control characters": {"grammar": "\x00\x01"},
    "half a pair": {"grammar": 'root ::= "\ud800"'},
    "a megabyte of grammar": {"grammar": 'root ::= "' + "a" * 1_000_000 + '"'},
    "a schema 5,000 deep": {"json_schema": nested(5_000)},
    "text 10,000 deep": {"json_schema": '{"items":' * 10_000 + "{}" + "}" * 10_000},
    "a megabyte of schema": {"json_schema": json.dumps({"const": "x" * 1_000_000})},
    "a huge enum": {"json_schema": {"enum": list(range(200_000))}},
    "long numbers": {"json_schema": {"enum": [2**999 - n for n in range(2_000)]}},
    "no base": {"json_schema": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}},
    "no end": {"json_schema": {"type": "array", "items": {"$ref": "#"}, "minItems": 1}},
    "a rule that never ends": {"grammar": 'root ::= "a" | b\nb ::= "x" b'},
    "readings by the thousand": {"grammar": "root ::= (" + ".? " * 10 + '){0,140} "z"'},
    "a remote reference": {"json_schema": {"$ref": "http://127.0.0.1:1/schema.json"}},
    "alternatives that multiply": {
        "json_schema": {"allOf": [{"anyOf": [{"enum": [n, n + 1]}] * 20} for n in range(40)]}
    },
    "patterns that multiply": {
        "json_schema": {"allOf": [{"pattern": f".*{n}.*"} for n in range(100)]}
    },
    "NUL in a schema": {"json_schema": {"const": "a\x00"}},
    "half a pair in a schema": {"json_schema": '{"const": "\\ud800"}'},
    "brackets, 4,000 deep": {"regex": "(" * 4_000 + "a" + ")" * 4_000},
    "a megabyte of expression": {"regex": "a" * 1_000_000},
    "half a pair in an expression": {"regex": "\udfff"},
    "nothing": {"regex": r"[^\s\S]"},
    "look-around": {"regex": "(?=a)*"},
}

WORKING: dict[str, dict[str, Any]] = {
    "the least integer": {"json_schema": {"const": -(2**63)}},
    "an integer below all": {"json_schema": {"type": "integer", "enum": [-1e19]}},
    "a chain of 5,000 rules": {
        "grammar": "root ::= r0\n"
        + "\n".join(f'r{n} ::= r{n + 1} "x"' for n in range(5_000))
        + '\nr5000 ::= "a"'
    },
    "a long enum": {"json_schema": {"enum": [f"value {n}" for n in range(8_000)]}},
    "references that fan out": {"json_schema": fan("allOf", 20, 8)},
    "alternatives that fan out": {"json_schema": fan("anyOf", 20, 8)},
    "long arrays of long arrays": {
        "json_schema": {"items": {"minItems": 99_999, "type": "array"}, "minItems": 99_999}
    },
    "a million repetitions": {"regex": "((a{1,100}){1,100}){1,100}"},
    "catastrophic backtracking": {"regex": "(x+x+)+y"},
    "exponentially many states": {"regex": ".*a.{500}"},
    "NUL": {"regex": "\x00+"},
}


@pytest.fixture
async def model(tiny_gguf: Path) -> AsyncIterator[Model]:
    async with asyncio.timeout(PATIENCE_S), Runtime() as runtime:
        yield await runtime.load_model(tiny_gguf, n_ctx=128, n_threads=1, n_seq_max=2)


async def test_what_would_do_harm_is_refused_by_name_and_the_model_goes_on(model: Model) -> None:
    for name, options in REFUSED.items():
        (field,) = options
        with pytest.raises(RequestError) as refused:
            await model.complete("x", max_tokens=2, **options)
        assert field in str(refused.value), name
        assert len(str(refused.value)) < 1_000, name
    assert (await model.complete("x", max_tokens=2, temperature=0)).tokens


@pytest.mark.parametrize("name", WORKING)
async def test_what_only_looks_harmful_works(name: str, model: Model) -> None:
    done = await model.complete("x", max_tokens=8, seed=1, **WORKING[name])
    assert done.tokens


@pytest.mark.parametrize(
    "schema", [{"const": -(2**63)}, {"type": "integer", "enum": [-1e19]}, {"enum": [[3 - 2**63]]}]
)
async def test_integers_near_the_least_of_64_bits_are_written_or_refused(
    schema: dict[str, Any], model: Model
) -> None:
    """llguidance 1.9 ends the process that compiles them."""
    with contextlib.suppress(InvalidGrammar):
        done = await model.complete("x", max_tokens=40, json_schema=schema)
        assert json.loads(done.text) in schema.get("enum", [schema.get("const")])
    assert (await model.complete("x", max_tokens=2)).tokens


async def test_a_text_with_too_many_readings_fails_its_own_request_only(model: Model) -> None:
    ambiguous = 'root ::= s\ns ::= "a" | "a" s s | "a" s s s'
    failed, done = await asyncio.gather(
        model.complete("x", max_tokens=60, grammar=ambiguous, logit_bias={97: 5.0}),
        model.complete("y", max_tokens=8),
        return_exceptions=True,
    )
    assert not isinstance(done, BaseException)
    assert isinstance(failed, DecodeFailed)
    assert "too many ways" in str(failed)


async def test_structures_are_compiled_beside_the_event_loop(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[str] = set()
    prepare = Words.prepare

    def watched(words: Words, plan: SamplerPlan, pause: Pause | None = None) -> None:
        threads.add(threading.current_thread().name)
        prepare(words, plan, pause)

    monkeypatch.setattr(Words, "prepare", watched)
    rules: list[dict[str, Any]] = [{"regex": "a+"}, {"json_schema": {}}, {"grammar": "root ::= ."}]
    for rule in rules:
        await model.complete("x", max_tokens=2, **rule)
    with pytest.raises(InvalidGrammar):
        await model.complete("x", regex="(")
    assert threads
    assert all(name.startswith("erllama-worker") for name in threads)
