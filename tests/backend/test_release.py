"""Releases of llama-cpp-python: which are known, and what is said of others."""

from __future__ import annotations

import doctest
import logging
import pathlib
import re
import tomllib

import erllama
from erllama.backend.llama import build, release
from tests.models.child import run_child

Said = tuple[list[str], str, bool]


def load_as(version: str) -> Said:
    """Load a model as if the bindings were of a release; the warnings, and what `info` says."""
    import asyncio

    import llama_cpp

    llama_cpp.__version__ = version
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("erllama.llama").addHandler(handler)

    async def load() -> erllama.ModelInfo:
        async with erllama.load(erllama.bundled_model(), n_ctx=64) as model:
            return model.info()

    info = asyncio.run(load())
    return said, info.backend, info.backend_tested


def test_a_release_that_was_not_tested_is_told_of() -> None:
    said, backend, tested = run_child(load_as, "0.3.99").value
    assert not tested
    assert backend.endswith(", llama-cpp-python 0.3.99")
    (warning,) = said
    assert "llama-cpp-python 0.3.99 was not tested" in warning
    assert all(version in warning for version in release.TESTED)


def test_of_a_tested_release_nothing_is_said() -> None:
    said, backend, tested = run_child(load_as, release.TESTED[0]).value
    assert (said, tested) == ([], True)
    # llama.cpp keeps one version for many commits; rows of one are of no use to another
    told = rf"llama\.cpp \S+ \([0-9a-f]+(-dirty)?\), llama-cpp-python {release.TESTED[0]}"
    assert re.fullmatch(told, backend)


def test_the_way_a_release_was_compiled_does_not_matter() -> None:
    assert release.is_tested(f"{release.TESTED[-1]}+cu124")
    assert not release.is_tested(f"{release.TESTED[-1]}1")
    assert not release.is_tested("")


def test_the_package_allows_the_tested_releases_and_no_others() -> None:
    project = pathlib.Path(erllama.__file__).parents[1] / "pyproject.toml"
    dependencies = tomllib.loads(project.read_text())["project"]["dependencies"]
    first, last = release.TESTED[0], release.TESTED[-1]
    assert f"llama-cpp-python>={first},<={last}" in dependencies


def test_the_examples_in_the_docstrings() -> None:
    for module in (build, release):
        assert doctest.testmod(module).attempted > 0
        assert doctest.testmod(module).failed == 0


def test_features_are_told_by_backend() -> None:
    told = "CPU : AVX2 = 1 | AVX512 = 0 | AMX_INT8 = 1 | CUDA : ARCHS = 890 | USE_GRAPHS = 1 | "
    assert build.features(told, amx=True) == {
        "CPU": ["AVX2", "AMX_INT8"],
        "CUDA": ["ARCHS = 890", "USE_GRAPHS"],
    }
    assert build.features(told, amx=False)["CPU"] == ["AVX2"]
    assert build.features("", amx=True) == {}
