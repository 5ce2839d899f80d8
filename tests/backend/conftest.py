"""Vocabularies of models whose weights are not loaded."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from erllama import bundled_model
from erllama.backend.llama.library import llama
from erllama.backend.llama.vocabulary import Vocabulary
from tests.models import TINY, TINY_SPM, cached_model


@pytest.fixture(scope="module", params=["bpe", "spm", "bundled"])
def vocabulary(request: pytest.FixtureRequest) -> Iterator[Vocabulary]:
    """Of random models of two kinds, and of the bundled one."""
    shapes = {"bpe": TINY, "spm": TINY_SPM}
    name = request.param
    path = cached_model(shapes[name]) if name in shapes else bundled_model()
    lib = llama()
    parameters = lib.llama_model_default_params()
    parameters.vocab_only = True
    model = lib.llama_model_load_from_file(str(path).encode(), parameters)
    yield Vocabulary(model)
    lib.llama_model_free(model)
