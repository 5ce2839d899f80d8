"""Anything at all given for a request: refused by the name of its field, and the model goes on."""

from __future__ import annotations

import array
import asyncio
import math
import random
import re
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import erllama
from erllama import (
    CallTimeout,
    Completion,
    Model,
    ModelLoadError,
    NotSupported,
    PromptTooLong,
    RequestError,
    Runtime,
    SamplingParams,
)
from erllama.model.request import Request

ASKED = [{"role": "user", "content": "Hello"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
SHORT: dict[str, Any] = {"max_tokens": 2, "temperature": 0}
OWN = tuple(name for name in Request.__struct_fields__ if name != "sampling")
FIELDS = (*OWN, *SamplingParams.__struct_fields__)


class Liar(Mapping[str, Any]):
    """Says that it has a key, and has not."""

    def __getitem__(self, key: str) -> Any:
        raise RuntimeError("a liar")

    def __iter__(self) -> Iterator[str]:
        return iter(("role", "content", "name"))

    def __len__(self) -> int:
        return 3


class Sly(str):
    """A text that is not what it seems."""

    def __len__(self) -> int:
        return 1

    def encode(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("sly")


def endless() -> list[Any]:
    """A list in itself."""
    own: list[Any] = []
    own.append(own)
    return own


def deep(kind: type, n: int = 3_000) -> Any:
    found: Any = {} if kind is dict else []
    for _ in range(n):
        found = {"a": found} if kind is dict else [found]
    return found


ODD: dict[str, Callable[[], Any]] = {
    "object": object,
    "type": lambda: dict,
    "function": lambda: len,
    "generator": lambda: (x for x in "ab"),
    "range": lambda: range(3),
    "set": lambda: {1, "a"},
    "bytes": lambda: b"\xff\0",
    "memoryview": lambda: memoryview(b"ab"),
    "numpy": lambda: np.array([1.5, math.nan]),
    "array": lambda: array.array("d", [1.5]),
    "liar": Liar,
    "liars": lambda: [Liar()],
    "sly": lambda: Sly("\ud800"),
    "slies": lambda: [{"role": "user", "content": Sly("x" * 9)}],
    "sly word": lambda: Sly("word"),
    "sly words": lambda: [Sly("word")],
    "endless": endless,
    "endless message": lambda: [{"role": "user", "content": "x", "more": endless()}],
    "deep list": lambda: deep(list),
    "deep dict": lambda: deep(dict),
    "huge": lambda: 10**400,
    "long": lambda: "(" * 300_000,
    "nul": lambda: "\0",
    "half": lambda: "\ud800",
    "complex": lambda: 1j,
    "nan": lambda: math.nan,
    "sub": lambda: type("Sub", (int,), {})(3),
}

DEEP = {"deep list", "deep dict"}  # too deep for hypothesis to print

texts = st.text(st.characters(codec=None), max_size=12)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts | st.binary(max_size=4)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(
            texts | st.integers() | st.sampled_from(["role", "content"]), inner, max_size=4
        )
    ),
    max_leaves=12,
) | st.sampled_from(sorted(set(ODD) - DEEP)).map(lambda name: ODD[name]())


class Seat:
    """A model on llama.cpp, in an event loop that goes on from example to example."""

    def __init__(self, runner: asyncio.Runner, runtime: Runtime) -> None:
        self._runner = runner
        self._runtime = runtime
        self.model = model = self.load()
        self._before = self.run(model.complete("Once", **SHORT)).tokens

    def load(self, template: str | None = None) -> Model:
        """The bundled model, perhaps with another template."""
        loading = self._runtime.load_model(
            erllama.bundled_model(),
            chat_template=template,
            n_ctx=256,
            n_threads=1,
            model_id="other" if template else "bundled",
        )
        model: Model = self.run(loading)
        return model

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(work)

    def refusal(self, *args: Any, chat: bool, **options: Any) -> RequestError | None:
        """What a request is refused with; None: it is not. Nothing else may come."""
        try:
            self.run(self._ask(*args, chat=chat, **options))
        except RequestError as refused:
            return refused
        except CallTimeout:
            assert options.get("timeout") is not None
        return None

    def outcome(self, work: Coroutine[Any, Any, Any]) -> Exception | None:
        """What a call raises that may; None: nothing."""
        try:
            self.run(work)
        except (RequestError, NotSupported, ModelLoadError) as refused:
            return refused
        return None

    def goes_on(self) -> None:
        """It answers as before, and was never loaded again."""
        self.run(self._goes_on())

    async def _goes_on(self) -> None:
        assert (await self.model.complete("Once", **SHORT)).tokens == self._before
        assert self.model.status().restarts == 0

    async def _ask(
        self, *args: Any, chat: bool, model: Model | None = None, **options: Any
    ) -> Completion:
        asked, chosen = model or self.model, {**SHORT, **options}
        if not chat:
            return await asked.complete(*args, **chosen)
        if random.random() < 0.5:
            return await asked.chat(*args, **chosen)
        return await asked.stream_chat(*args, **chosen).result()


@pytest.fixture(scope="module")
def seat() -> Iterator[Seat]:
    with asyncio.Runner() as runner:
        runtime = Runtime()
        runner.run(runtime.start())
        yield Seat(runner, runtime)
        runner.run(runtime.stop())


fuzzed = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@fuzzed
@given(name=st.sampled_from(FIELDS), value=anything, chat=st.booleans())
def test_an_option_that_cannot_be_used_is_refused_by_its_name(
    seat: Seat, name: str, value: Any, chat: bool
) -> None:
    prompt = ASKED if chat else "Hello"
    error = seat.refusal(prompt, chat=chat, **{name: value})
    seat.goes_on()
    if error is not None:
        assert name in str(error)


@pytest.mark.parametrize("name", FIELDS)
def test_no_odd_thing_for_an_option_does_harm(seat: Seat, name: str) -> None:
    for odd, make in ODD.items():
        error = seat.refusal("Hello", chat=False, **{name: make()})
        assert error is None or name in str(error), odd
    seat.goes_on()


@pytest.mark.parametrize("place", ["messages", "tools", "variables", "value", "prompt"])
def test_no_odd_thing_in_a_chat_does_harm(seat: Seat, place: str) -> None:
    field = "variables" if place == "value" else place
    for odd, make in ODD.items():
        thing = make()
        if place in ("messages", "prompt"):
            error = seat.refusal(thing, chat=place == "messages")
        else:
            options = {"variables": {"value": thing}} if place == "value" else {place: thing}
            error = seat.refusal(ASKED, chat=True, **options)
        assert error is None or str(error).startswith((field, "chat_template")), odd
    seat.goes_on()


@fuzzed
@given(options=st.dictionaries(st.sampled_from(FIELDS), anything, max_size=6), chat=st.booleans())
def test_no_mixture_of_options_does_harm(seat: Seat, options: dict[str, Any], chat: bool) -> None:
    error = seat.refusal(ASKED if chat else "Hello", chat=chat, **options)
    seat.goes_on()
    if error is not None:
        assert any(name in str(error) for name in options)


@fuzzed
@given(prompt=anything)
def test_a_prompt_that_cannot_be_used_is_refused_by_name(seat: Seat, prompt: Any) -> None:
    error = seat.refusal(prompt, chat=False)
    seat.goes_on()
    assert error is None or str(error).startswith("prompt")


roles = st.sampled_from(["user", "assistant", "system", "tool", "critic", "", "\0"]) | anything
messages = st.lists(
    st.dictionaries(
        st.sampled_from(["role", "content", "tool_calls", "reasoning_content", "name"]),
        anything,
        max_size=4,
    )
    | st.fixed_dictionaries(
        {"role": roles, "content": texts | anything},
        optional={"tool_calls": anything, "reasoning_content": anything},
    ),
    max_size=4,
)


@fuzzed
@given(given_messages=messages | anything)
def test_messages_that_cannot_be_used_are_refused_by_name(seat: Seat, given_messages: Any) -> None:
    error = seat.refusal(given_messages, chat=True)
    seat.goes_on()
    assert error is None or str(error).startswith(("messages", "chat_template", "prompt"))


schemas = st.fixed_dictionaries(
    {"name": texts | anything},
    optional={"description": anything, "parameters": anything, "type": anything},
)


@fuzzed
@given(tools=st.lists(schemas | schemas.map(lambda one: {"function": one}), max_size=3) | anything)
def test_tools_that_cannot_be_used_are_refused_by_name(seat: Seat, tools: Any) -> None:
    error = seat.refusal(ASKED, chat=True, tools=tools)
    seat.goes_on()
    assert error is None or str(error).startswith(("tools", "chat_template", "prompt"))


@fuzzed
@given(variables=st.dictionaries(texts, anything, max_size=4) | anything)
def test_variables_that_cannot_be_used_are_refused_by_name(seat: Seat, variables: Any) -> None:
    error = seat.refusal(ASKED, chat=True, variables=variables)
    seat.goes_on()
    assert error is None or str(error).startswith(("variables", "chat_template", "prompt"))


ERRANDS: dict[str, Callable[[Model, Any], Coroutine[Any, Any, Any]]] = {
    "text": lambda model, odd: model.tokenize(odd),
    "tokens": lambda model, odd: model.detokenize(odd),
    "session_id": lambda model, odd: model.end_session(odd),
    "tokens cached": lambda model, odd: model.cached_prefix(odd),
    "prompt": lambda model, odd: model.prefill(odd),
    "prompt embedded": lambda model, odd: model.embed(odd),
    "timeout": lambda model, odd: model.embed("a", timeout=odd),
    "tokens drafted": lambda model, odd: model.draft(odd, 2),
    "n drafted": lambda model, odd: model.draft([1], odd),
    "tokens verified": lambda model, odd: model.verify(odd, [2]),
    "candidates": lambda model, odd: model.verify([1], odd),
    "n": lambda model, odd: model.completions("a", n=odd, max_tokens=1),
    "path": lambda model, odd: model.load_adapter(odd),
    "scale": lambda model, odd: model.load_adapter("a.gguf", scale=odd),
    "adapter": lambda model, odd: model.unload_adapter(odd),
    "adapter scaled": lambda model, odd: model.set_adapter_scale(odd, 1.0),
    "messages": lambda model, odd: model.apply_chat_template(odd),
    "tools": lambda model, odd: model.apply_chat_template(ASKED, tools=odd),
    "variables": lambda model, odd: model.apply_chat_template(ASKED, variables=odd),
}


@pytest.mark.parametrize("errand", ERRANDS)
def test_no_odd_thing_given_to_another_method_does_harm(seat: Seat, errand: str) -> None:
    for odd, make in ODD.items():
        error = seat.outcome(ERRANDS[errand](seat.model, make()))
        if isinstance(error, RequestError):
            assert errand.split()[0] in str(error), odd
        elif error is not None:  # it cannot embed; there is no such file
            assert errand in ("prompt embedded", "timeout", "path", "scale")
    seat.goes_on()


# Chats that are too much, and templates that are no good


# Ten megabytes are tokenized at low priority, which beside busy processes takes minutes.
@pytest.mark.timeout(900)
def test_ten_megabytes_of_messages_are_refused_or_too_long(seat: Seat) -> None:
    for n in (1, 10_000):
        said = [{"role": "user", "content": "x" * (10_000_001 // n + 1)}] * n
        assert str(seat.refusal(said, chat=True)).startswith("messages: more than 10,000,000")
    fits = [{"role": "user", "content": "word " * 1_900_000}]
    assert isinstance(seat.refusal(fits, chat=True), PromptTooLong)
    many = [{"role": "user", "content": "x"}] * 1_000_001
    assert str(seat.refusal(many, chat=True)).startswith("messages: more than")
    tools = [{"name": "f", "description": "x" * 10_000_001}]
    assert str(seat.refusal(ASKED, chat=True, tools=tools)).startswith("tools: more than")
    seat.goes_on()


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ messages.__class__.__mro__ }}",
        "{{ messages[0].update({'role': 'x'}) }}",
        "{{ 'a' * 999999999 }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ nobody.said }}",
        "{{ raise_exception('no') }}",
        "{% if %}",
        "{{ '\\ud800' }}",
    ],
)
def test_a_template_that_cannot_be_used_is_named_and_the_model_goes_on(
    seat: Seat, template: str
) -> None:
    model = seat.load(template)
    error = seat.refusal(ASKED, chat=True, model=model)
    assert re.search("chat_template|refuses them: no|surrogate", str(error))
    with pytest.raises(RequestError):
        seat.run(model.apply_chat_template(ASKED))
    assert seat.run(model.complete("Once", **SHORT)).tokens
    seat.run(model.unload())
    seat.goes_on()
