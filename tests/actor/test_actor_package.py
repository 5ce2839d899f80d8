"""The public surface of the kernel."""

import ast
import importlib
import pkgutil
import re
import sys
from pathlib import Path

import pytest

import erllama.actor


def test_all_is_sorted_and_complete() -> None:
    public = {
        name
        for name, value in vars(erllama.actor).items()
        if not name.startswith("_") and not isinstance(value, type(erllama.actor))
    }
    assert set(erllama.actor.__all__) == public
    constants = [name for name in erllama.actor.__all__ if name.isupper()]
    classes = [n for n in erllama.actor.__all__ if n[0].isupper() and n not in constants]
    functions = [name for name in erllama.actor.__all__ if name[0].islower()]
    assert erllama.actor.__all__ == sorted(constants) + sorted(classes) + sorted(functions)


def test_everything_public_is_documented() -> None:
    for name in erllama.actor.__all__:
        value = getattr(erllama.actor, name)
        if callable(value):
            assert value.__doc__, name


def test_the_kernel_knows_nothing_of_the_rest() -> None:
    allowed = {"erllama.errors", "erllama.clock"}
    for module in pkgutil.iter_modules(erllama.actor.__path__, "erllama.actor."):
        path = importlib.import_module(module.name).__file__
        assert path is not None
        for node in ast.walk(ast.parse(Path(path).read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                known = name in allowed or name.startswith("erllama.actor")
                assert known or name.split(".")[0] in sys.stdlib_module_names, (module.name, name)


def test_the_example_in_the_documentation_runs(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[2] / "docs" / "actor-kernel.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(example, "actor-kernel.md", "exec"), {"__name__": "example"})
    printed = capsys.readouterr().out.splitlines()
    assert printed == ["3", "crashed: the total is wrong now", "a new one: 1"]
    assert "It prints `3`, `crashed: the total is wrong now` and `a new one: 1`" in text
