"""The types of keyword arguments: those of the structs, and what mypy makes of them."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import types
import typing
from collections.abc import Callable
from typing import Any

import pytest

import erllama
from erllama.checked import Checked
from erllama.model.handle import Model
from erllama.option_types import LoadOptions, RequestOptions, RuntimeOptions

ROOT = pathlib.Path(erllama.__file__).parent
REQUEST = (erllama.Request, erllama.SamplingParams)
LOAD = (erllama.ModelConfig, erllama.ContextConfig, erllama.CachePolicy)

# A public call, the structs that its keyword arguments go to, and the fields that it has not.
CALLS: list[tuple[Callable[..., Any], tuple[type[Checked], ...], set[str]]] = [
    (erllama.Runtime.__init__, (erllama.RuntimeConfig,), set()),
    (erllama.Runtime.load_model, LOAD, set()),
    (erllama.load, LOAD, set()),
    (Model.complete, REQUEST, set()),
    (Model.stream, REQUEST, set()),
    (Model.chat, REQUEST, set()),
    (Model.stream_chat, REQUEST, set()),
    (Model.prefill, REQUEST, set()),
    (Model.completions, REQUEST, {"session_id"}),
    (Model.verify, REQUEST, {"session_id"}),
    (Model.draft, REQUEST, {"session_id", "max_tokens"}),
]


def options_of(call: Callable[..., Any]) -> tuple[set[str], set[str]]:
    """The named parameters of a call, and the keys of the TypedDict behind its `**`."""
    hints = typing.get_type_hints(call)
    (unpacked,) = (hint for hint in hints.values() if typing.get_origin(hint) is typing.Unpack)
    (given,) = typing.get_args(unpacked)
    named = {name for name, hint in hints.items() if hint is not unpacked}
    return named, set(given.__optional_keys__)


def test_the_module_is_what_the_structs_say() -> None:
    maker = pathlib.Path(__file__).parents[1] / "docs" / "make_option_types.py"
    done = subprocess.run(
        [sys.executable, str(maker), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("call", "structs", "left_out"), CALLS)
def test_a_call_has_the_options_of_its_structs(
    call: Callable[..., Any], structs: tuple[type[Checked], ...], left_out: set[str]
) -> None:
    fields = {field for struct in structs for field in struct.__struct_fields__}
    named, given = options_of(call)
    assert given == fields - left_out, (
        f"{call.__qualname__}: add {sorted(fields - left_out - given)} to its TypedDict and take "
        f"{sorted(given - fields | given & left_out)} out: docs/make_option_types.py says which "
        "of them has what"
    )
    assert not named & given, "a keyword argument cannot be in both"


def wide(kind: Any) -> Any:
    """A value of a type that the struct holds as another one; None: it is held as it is."""
    for part in typing.get_args(kind) if typing.get_origin(kind) is not tuple else ():
        origin = typing.get_origin(part) or part
        if origin is list:
            (item,) = typing.get_args(part)
            numbers = {float: [1.0], int: [1]}
            return numbers.get(item) or [*typing.get_args(item), "a", "b"][:2]
        if "PathLike" in str(part):
            return pathlib.Path("/folder")
    if "Mapping" in str(kind):
        return types.MappingProxyType({} if "int" in str(kind) else {"type": "null"})
    return None


WIDE = [
    (struct, name, value)
    for given, structs in [
        (RuntimeOptions, (erllama.RuntimeConfig,)),
        (LoadOptions, LOAD),
        (RequestOptions, REQUEST),
    ]
    for name, kind in typing.get_type_hints(given).items()
    if (value := wide(kind)) is not None
    for struct in structs
    if name in struct.__struct_fields__
]


def test_wider_types_were_found() -> None:
    names = {name for _, name, _ in WIDE}
    assert {"cache_dir", "tiers", "tensor_split", "stop", "logit_bias", "json_schema"} <= names


@pytest.mark.parametrize(("struct", "name", "value"), WIDE)
def test_the_structs_take_what_the_types_allow(
    struct: type[Checked], name: str, value: Any
) -> None:
    assert getattr(struct(**{name: value}), name) is not value, "is held as another type"


# A user's program

GOOD = """
import asyncio, pathlib
from typing import Unpack
import erllama

async def mine(model: erllama.Model, **options: Unpack[erllama.RequestOptions]) -> str:
    return (await model.complete("a", **options)).text

async def main() -> None:
    async with erllama.Runtime(cache_dir=pathlib.Path("kv"), shutdown_s=1) as runtime:
        model = await runtime.load_model("a.gguf", n_ctx=512, type_k="q8_0", tiers=["ram"])
        await mine(model, max_tokens=3, stop=["a"], temperature=0, session_id="s")
        await model.completions("a", n=2, seed=1, logit_bias={3: -1})
        await model.chat([{"role": "user", "content": "a"}], tools=[], thinking=True)
        async for _ in model.stream([1, 2], json_schema={"type": "object"}, priority="high"):
            pass
        model.stream_chat([], timeout=1, sampling=erllama.SamplingParams(top_k=1))
        await model.prefill("a", cache_salt="mine")
    async with erllama.load("a.gguf", model_id="a", context=erllama.ContextConfig()) as model:
        await model.draft([1], 3, seed=2)
"""
BAD = [
    ("call-arg", 'erllama.Runtime(cachedir="kv")'),
    ("arg-type", 'erllama.Runtime(ram_bytes="1 GiB")'),
    ("call-arg", 'erllama.load("a.gguf", nctx=512)'),
    ("arg-type", 'runtime.load_model("a.gguf", type_k="q9")'),
    ("arg-type", 'model.complete("a", max_tokens="many")'),
    ("call-arg", 'model.stream("a", temprature=1)'),
    ("arg-type", 'model.chat([], priority="urgent")'),
    ("call-arg", "model.stream_chat([], topk=1)"),
    ("call-arg", 'model.completions("a", n=2, session_id="s")'),
    ("arg-type", 'model.prefill("a", stop=3)'),
    ("call-arg", "model.draft([1], 3, max_tokens=3)"),
    ("call-arg", 'model.verify([1], [2], session_id="s")'),
]
# The public calls and what their types are made of; of all other modules mypy needs to know
# nothing, which makes it take a tenth of the time.
SEEN = [
    *("__init__", "option_types", "config", "checked", "errors", "runtime"),
    *("model/handle", "model/request", "model/stream", "sampling/__init__", "sampling/params"),
]


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What mypy says of a program that is right, with wrong calls from its line 101 on."""
    program = tmp_path_factory.mktemp("typed") / "program.py"
    head = GOOD + "\n" * (98 - GOOD.count("\n"))
    names = "def wrong(runtime: erllama.Runtime, model: erllama.Model) -> None:\n"
    program.write_text(head + "\n" + names + "".join(f"    {call}\n" for _, call in BAD))
    command = [sys.executable, "-m", "mypy", "--follow-imports=skip", "--config-file="]
    command += ["--cache-dir", os.devnull]  # reading one takes half as long as all of this
    sources = [f"{ROOT / name}.py" for name in SEEN]
    ended = subprocess.run(
        [*command, *sources, str(program)], capture_output=True, text=True, cwd=ROOT.parent
    )
    assert not ended.stderr
    return [line for line in ended.stdout.splitlines() if str(program) in line]


def test_mypy_takes_a_program_that_is_right(verdicts: list[str]) -> None:
    assert [line for line in verdicts if int(line.split(":")[1]) <= 100] == []


@pytest.mark.parametrize("n", range(len(BAD)), ids=[call for _, call in BAD])
def test_mypy_refuses_a_wrong_option(verdicts: list[str], n: int) -> None:
    code, _ = BAD[n]
    found = [line for line in verdicts if int(line.split(":")[1]) == 101 + n]
    assert any("error: " in line and f"[{code}]" in line for line in found)
