"""The public surface: what `erllama` names, says about itself, and refuses."""

from __future__ import annotations

import ast
import importlib
import inspect
import pathlib
import typing
from typing import Any

import msgspec
import pytest

import erllama
from erllama.checked import Checked, describe

PACKAGE = pathlib.Path(erllama.__file__).parent


def imported_names() -> set[str]:
    """What `erllama/__init__.py` imports: the surface as it was meant."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    return {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def public_classes() -> list[type[Any]]:
    things = [getattr(erllama, name) for name in erllama.__all__]
    return [thing for thing in things if isinstance(thing, type)]


def errors() -> list[type[Exception]]:
    module = importlib.import_module("erllama.errors")
    return [
        thing
        for thing in vars(module).values()
        if isinstance(thing, type) and issubclass(thing, Exception)
    ]


def test_all_is_sorted_and_has_no_doubles() -> None:
    assert erllama.__all__ == sorted(set(erllama.__all__))


def test_all_is_what_the_package_imports() -> None:
    assert set(erllama.__all__) == imported_names()


def test_every_name_is_there() -> None:
    for name in erllama.__all__:
        assert getattr(erllama, name) is not None


def test_every_error_is_public_and_an_erllama_error() -> None:
    for error in errors():
        assert error.__name__ in erllama.__all__
        assert issubclass(error, erllama.ErllamaError)


def test_the_tree_of_errors_in_the_module_is_the_tree_of_classes() -> None:
    text = importlib.import_module("erllama.errors").__doc__ or ""
    for error in errors():
        assert error.__name__ in text


def test_errors_are_also_what_python_programs_expect() -> None:
    assert issubclass(erllama.ConfigError, ValueError)
    assert issubclass(erllama.RequestError, ValueError)
    assert issubclass(erllama.ModelNotFound, KeyError)
    assert issubclass(erllama.CallTimeout, TimeoutError)
    assert issubclass(erllama.PromptTooLong, erllama.RequestError)
    assert issubclass(erllama.QueueFull, erllama.Busy)
    assert issubclass(erllama.EngineCrashed, erllama.EngineError)
    assert str(erllama.ModelNotFound("no such model")) == "no such model"


def test_every_public_name_has_a_docstring() -> None:
    aliases = {"Event", "FinishReason"}
    for name in set(erllama.__all__) - aliases:
        thing = getattr(erllama, name)
        assert inspect.getdoc(thing), name
        # not the one of a base class
        assert not isinstance(thing, type) or thing.__dict__.get("__doc__"), name


@pytest.mark.parametrize("owner", [erllama.Model, erllama.Runtime, erllama.Stream])
def test_every_public_method_has_a_docstring(owner: type[Any]) -> None:
    for name, method in vars(owner).items():
        if not name.startswith("_") and callable(method):
            assert inspect.getdoc(method), f"{owner.__name__}.{name}"


@pytest.mark.parametrize("kind", [kind for kind in public_classes() if issubclass(kind, Checked)])
def test_every_option_says_what_it_means(kind: type[Checked]) -> None:
    described = describe(kind)
    for field in kind.__struct_fields__:
        assert described.get(field) or field == "sampling", f"{kind.__name__}.{field}"


def test_results_and_events_are_frozen_structs() -> None:
    structs = [kind for kind in public_classes() if issubclass(kind, msgspec.Struct)]
    assert {erllama.Completion, erllama.Text, erllama.Done, erllama.RuntimeStatus} <= set(structs)
    assert all(kind.__struct_config__.frozen for kind in structs)


def test_events_are_one_tagged_union() -> None:
    events: list[erllama.Event] = [erllama.Text("a", 1), erllama.PrefillProgress(1, 2)]
    data = msgspec.json.encode(events)
    assert msgspec.json.decode(data, type=list[erllama.Event]) == events
    assert set(typing.get_args(erllama.Event)) == {
        erllama.Text,
        erllama.ThinkingDelta,
        erllama.ThinkingEnd,
        erllama.ToolCallDelta,
        erllama.ToolCallEnd,
        erllama.PrefillProgress,
        erllama.Done,
    }


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()


def test_the_version_is_a_version() -> None:
    assert all(part.isdigit() for part in erllama.__version__.split("."))


# Unknown keywords


def test_an_unknown_option_of_a_runtime_names_the_nearest() -> None:
    with pytest.raises(TypeError, match="did you mean 'cache_dir'"):
        erllama.Runtime(cachedir="here")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="did you mean 'shutdown_s'"):
        erllama.RuntimeConfig(shutdown=1)  # type: ignore[call-arg]


def test_a_bad_option_of_a_runtime_is_named() -> None:
    with pytest.raises(erllama.ConfigError, match="shutdown_s"):
        erllama.Runtime(shutdown_s=-1)
    with pytest.raises(erllama.ConfigError, match="RuntimeConfig"):
        erllama.Runtime({"shutdown_s": 1})  # type: ignore[arg-type]


async def test_an_unknown_option_of_load_names_the_nearest() -> None:
    with pytest.raises(TypeError, match="did you mean 'n_batch'"):
        async with erllama.load("a.gguf", nbatch=64):  # type: ignore[call-arg]
            raise AssertionError("an unknown option was taken")


@pytest.mark.parametrize(
    ("kind", "wrong", "right"),
    [
        (erllama.ContextConfig, "nctx", "n_ctx"),
        (erllama.ModelConfig, "mmap", "use_mmap"),
        (erllama.SamplingParams, "topp", "top_p"),
        (erllama.Request, "max_new_tokens", "max_tokens"),
    ],
)
def test_an_unknown_field_of_a_struct_names_the_nearest(
    kind: type[Any], wrong: str, right: str
) -> None:
    with pytest.raises(TypeError, match=f"{kind.__name__} has no option '{wrong}'.*'{right}'"):
        kind(**{wrong: 1})


@pytest.mark.parametrize("method", [erllama.Model.complete, erllama.Model.stream])
def test_the_options_of_a_request_are_those_of_its_structs(method: Any) -> None:
    own = set(inspect.signature(method).parameters)
    assert own == {"self", "prompt", "options"}
    text = inspect.getdoc(erllama.Model) or ""
    for field in (*erllama.Request.__struct_fields__, *erllama.SamplingParams.__struct_fields__):
        assert f"`{field}" in text or f"{field}=" in text, field
