"""Samplers of requests: checked before admission, reported, the same cold and warm."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from erllama import InvalidGrammar, Model, RequestError, Runtime, Text, bundled_model
from tests.model.staging import PATIENCE_S, Stage
from tests.sampling.grammars import JSON

FLAT = 'root ::= "{" pair ("," pair){0,2} "}"\npair ::= "\\"" [a-z]{1,3} "\\":" [1-9] [0-9]?'


@contextlib.asynccontextmanager
async def loaded(path: Path | str, **options: Any) -> AsyncIterator[Model]:
    async with asyncio.timeout(PATIENCE_S), Runtime() as runtime:
        yield await runtime.load_model(path, **{"n_ctx": 512, "n_threads": 1, **options})


@pytest.mark.parametrize("temperature", [0.0, 1.5])
async def test_what_a_grammar_asks_for_is_what_comes(temperature: float, tiny_gguf: Path) -> None:
    async with loaded(tiny_gguf, n_seq_max=3) as model:
        done = await asyncio.gather(
            *(
                model.complete(f"prompt {n}", grammar=FLAT, temperature=temperature, seed=n)
                for n in range(3)
            )
        )
    for completion in done:
        assert completion.finish_reason == "stop"
        assert all(0 <= value < 100 for value in json.loads(completion.text).values())


SCHEMA = {
    "type": "object",
    "properties": {
        "size": {"type": "integer", "minimum": 3, "maximum": 40},
        "on": {"enum": [True]},
    },
    "required": ["size", "on"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("temperature", [0.0, 1.5])
async def test_what_a_schema_or_an_expression_asks_for_is_what_comes(
    temperature: float, tiny_gguf: Path
) -> None:
    for path in (tiny_gguf, bundled_model()):
        async with loaded(path, n_seq_max=2) as model:
            rules: list[dict[str, Any]] = [{"json_schema": SCHEMA}, {"regex": "[a-f]{2,5}"}]
            found, word = await asyncio.gather(
                *(
                    model.complete("x", temperature=temperature, max_tokens=300, **one)
                    for one in rules
                )
            )
        assert found.finish_reason == "stop"
        value = json.loads(found.text)
        assert 3 <= value["size"] <= 40
        assert value["on"] is True
        assert re.fullmatch("[a-f]{2,5}", word.text)


async def test_a_wrong_schema_is_refused_before_anything_is_computed() -> None:
    stage = Stage()
    async with stage.model() as model:
        with pytest.raises(InvalidGrammar, match="json_schema: at /items/not: ") as refused:
            await model.complete("x", json_schema={"items": {"not": {}}})
        assert refused.value.path == "/items/not"
        with pytest.raises(InvalidGrammar, match="regex: line 1, column 1: "):
            await model.complete("x", regex="(")
        assert stage.plans == []


async def test_a_request_with_a_grammar_runs_beside_others(tiny_gguf: Path) -> None:
    async with loaded(tiny_gguf, n_seq_max=2) as model:
        alone = await model.complete("other", max_tokens=20, seed=3)
        with_grammar, other = await asyncio.gather(
            model.complete([5, 6, 7], max_tokens=60, grammar=JSON, seed=4),
            model.complete("other", max_tokens=20, seed=3),
        )
    assert with_grammar.text.lstrip().startswith("{")
    assert other.tokens[:1] == alone.tokens[:1]
    assert len(other.tokens) == 20


@pytest.mark.parametrize("prompt", ["text", [1, 2, 3]])
async def test_a_wrong_grammar_is_refused_before_anything_is_computed(prompt: Any) -> None:
    stage = Stage()
    async with stage.model() as model:
        with pytest.raises(InvalidGrammar, match="line 1, column 10: the rule `x` is not defined"):
            await model.complete(prompt, grammar="root ::= x")
        with pytest.raises(RequestError, match="logit_bias: token id 258 is not in the vocabulary"):
            await model.complete(prompt, logit_bias={258: 1.0})
        assert stage.plans == []
        assert (await model.complete(prompt, max_tokens=1, logit_bias={7: 1.0})).tokens
        assert (await model.prefill(prompt)).context_tokens


async def test_a_sampler_is_begun_with_the_prompt_and_goes_on_with_what_it_drew() -> None:
    stage = Stage()
    async with stage.model() as model:
        await model.complete([1, 2, 3], max_tokens=2, presence_penalty=1.0)
        await model.complete([1, 2, 3], max_tokens=2)
    penalised, plain = (begin for plan in stage.plans for begin in plan.begin)
    assert (penalised.history.tolist(), penalised.grammar_from) == ([1, 2, 3], 3)
    assert not len(plain.history)


@pytest.mark.parametrize(
    "options",
    [
        {"repeat_penalty": 1.5, "repeat_last_n": -1},
        {"dry_multiplier": 9.0, "logit_bias": {5: 9.0, 6: 9.0}},
        {"mirostat": 2},
        {"xtc_probability": 0.5, "typical_p": 0.9},
        {"grammar": "root ::= [a-z ]*", "frequency_penalty": 0.5},
    ],
)
async def test_the_same_seed_draws_the_same_cold_and_warm(
    options: dict[str, Any], tiny_gguf: Path
) -> None:
    prompt = [n % 250 for n in range(200)]
    async with loaded(tiny_gguf) as model:
        cold = await model.complete(prompt, max_tokens=20, seed=5, **options)
        warm = await model.complete(prompt, max_tokens=20, seed=5, **options)
        plain = await model.complete(prompt, max_tokens=20, seed=5)
    assert warm.tokens == cold.tokens
    assert cold.tokens != plain.tokens


async def test_log_probabilities_come_with_each_token_and_each_text(tiny_gguf: Path) -> None:
    async with loaded(tiny_gguf) as model:
        stream = model.stream("hello", max_tokens=8, logprobs=3, temperature=0)
        texts = [event async for event in stream if isinstance(event, Text)]
        completion = await stream.result()
        without = await model.complete("hello", max_tokens=2)
    assert completion.logprobs is not None
    assert [one.token for one in completion.logprobs] == completion.tokens
    for one in completion.logprobs:
        assert one.top[0] == (one.token, one.logprob)  # greedy takes the likeliest
        assert len(one.top) == 3
        assert one.logprob < 0
    reported = [(one.token, one.logprob) for one in completion.logprobs]
    assert texts
    assert all((event.token, event.logprob) in reported for event in texts)
    assert without.logprobs is None


async def test_a_banned_token_does_not_come_and_an_ignored_end_does_not_end(
    tiny_gguf: Path,
) -> None:
    async with loaded(tiny_gguf) as model:
        first = (await model.complete("x", max_tokens=1, temperature=0)).tokens[0]
        ban = {first: -math.inf}
        other = (await model.complete("x", max_tokens=1, temperature=0, logit_bias=ban)).tokens[0]
        assert other != first
    async with loaded(bundled_model()) as model:
        options: dict[str, Any] = {"max_tokens": 400, "temperature": 0}
        ended = await model.complete("Once upon a time", **options)
        assert ended.finish_reason == "stop"
        ignored = await model.complete("Once upon a time", ignore_eos=True, **options)
        assert ignored.finish_reason == "length"


async def test_when_nothing_may_come_only_that_request_fails(tiny_gguf: Path) -> None:
    bans = dict.fromkeys(range(512), -math.inf)
    async with loaded(tiny_gguf, n_seq_max=2) as model:
        refused, done = await asyncio.gather(
            model.complete("x", grammar='root ::= "a"', logit_bias=bans),
            model.complete("y", max_tokens=5),
            return_exceptions=True,
        )
    assert "the grammar allows no token" in str(refused)
    assert not isinstance(done, BaseException)
    assert len(done.tokens) == 5
