"""The arrows between modules: lower layers know nothing of higher ones."""

from __future__ import annotations

import ast
import pathlib

import pytest

import erllama
from tests.models import run_child

ROOT = pathlib.Path(erllama.__file__).parent
# Each module or package and its layer; the package itself, which only re-exports, is left out.
LAYERS = {
    "errors": 0,
    "types": 0,
    "clock": 0,
    "config": 0,
    "checked": 0,
    "bundled": 0,
    "actor": 1,
    "sampling": 1,
    "text": 1,
    "telemetry": 1,
    "option_types": 2,
    "backend": 2,
    "cache": 2,
    "model": 3,
    "pressure": 3,
    "runtime": 4,
    "server": 5,
    "cluster": 5,
    "cli": 6,
    "__main__": 7,
}
# Siblings of a layer that may import each other, beside the modules of layer 0.
SIBLINGS = {("cache", "backend")}
NATIVE = {"llama_cpp", "ctypes"}
# Modules that call the C library, and nothing else of native code.
LIBC = {"backend.inbox": {"ctypes"}}
PURE = {
    "backend.fairness",
    "backend.llama.header_check",
    "backend.plan_check",
    "cache.monotonic",
    "cache.eviction",
    "cache.index",
    "cache.key",
    "cache.layout",
    "cache.lookup",
    "cache.policy",
    "cache.reservation",
    "cache.row",
    "cache.trie",
    "model.slicing",
    "sampling",
    "text",
    "text.stop",
    "text.utf8",
}
IMPURE_MODULES = {"asyncio", "os", "time"}
HEAVY = ("llama_cpp", "numpy", "jinja2", "llguidance", "rich", "typer")


def modules() -> dict[str, pathlib.Path]:
    """All modules by their dotted name below `erllama`."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:
            found[name] = path
    return found


def imports(source: str) -> set[str]:
    """What a module imports, anywhere in it, as absolute dotted names."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def arrows(name: str, source: str) -> set[tuple[str, str]]:
    """Pairs of units (see LAYERS): a module's own, and one that it imports from."""
    own = name.split(".")[0]
    found = set()
    for imported in imports(source):
        package, _, rest = imported.partition(".")
        if package == "erllama":
            unit = rest.split(".")[0]
            found.add((own, unit if unit in LAYERS else "erllama"))
    return {(a, b) for a, b in found if a != b}


def forbidden(arrow: tuple[str, str]) -> bool:
    own, other = (LAYERS.get(unit, 4) for unit in arrow)  # `import erllama` itself: all up to L4
    if own == other:
        return own != 0 and arrow not in SIBLINGS
    return other > own


MODULES = modules()


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_from_lower_layers_only(name: str) -> None:
    assert name.split(".")[0] in LAYERS, "give the new module a layer"
    found = arrows(name, MODULES[name].read_text())
    assert not [arrow for arrow in found if forbidden(arrow)]


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_absolutely(name: str) -> None:
    imports(MODULES[name].read_text())


@pytest.mark.parametrize("name", MODULES)
def test_only_the_llama_backend_is_native(name: str) -> None:
    roots = {imported.split(".")[0] for imported in imports(MODULES[name].read_text())}
    assert name.startswith("backend.llama") or not roots & NATIVE - LIBC.get(name, set())


def is_pure(name: str) -> bool:
    """Whether a module is in the list above, is of a pure package, or says so itself."""
    doc = ast.get_docstring(ast.parse(MODULES[name].read_text())) or ""
    return name in PURE or name.split(".")[0] == "sampling" or "Pure." in doc.split()


@pytest.mark.parametrize("name", [name for name in MODULES if is_pure(name)])
def test_a_pure_module_knows_neither_time_nor_system(name: str) -> None:
    roots = {imported.split(".")[0] for imported in imports(MODULES[name].read_text())}
    assert not roots & IMPURE_MODULES


def test_the_pure_modules_exist() -> None:
    assert set(MODULES) >= PURE


@pytest.mark.parametrize(
    ("name", "line", "wrong"),
    [
        ("errors", "from erllama.actor import Actor", True),
        ("actor.ref", "from erllama.backend.base import Engine", True),
        ("actor.ref", "from erllama.sampling import SamplingParams", True),
        ("actor.ref", "import erllama", True),
        ("backend.stub", "import erllama.model.actor", True),
        ("backend.stub", "from erllama import runtime", True),
        ("model.actor", "def f():\n    from erllama.runtime import Runtime", True),
        ("backend.stub", "from erllama.config import GRANULE", False),
        ("runtime", "from erllama.model.actor import ModelSpec", False),
        ("cli", "import erllama", False),
        ("config", "from erllama.checked import Checked", False),
    ],
)
def test_the_rule_itself_tells_right_from_wrong(name: str, line: str, wrong: bool) -> None:
    assert any(forbidden(arrow) for arrow in arrows(name, line)) is wrong


def test_importing_erllama_is_light() -> None:
    script = "import sys, json, erllama; print(json.dumps(sorted(sys.modules)))"
    loaded = run_child(script).value
    assert "erllama.runtime" in loaded
    assert not set(HEAVY) & set(loaded)
