from __future__ import annotations

from pathlib import Path

import pytest

from tests.models.cache import cached_model
from tests.models.shapes import TINY
from tests.models.vocabulary import LLAMA3_CHAT_TEMPLATE


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Child processes leave nothing in the user's own cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def chat_model() -> Path:
    """A random model with a chat template."""
    return cached_model(TINY, chat_template=LLAMA3_CHAT_TEMPLATE)


@pytest.fixture(scope="session")
def plain_model() -> Path:
    """A random model without one."""
    return cached_model(TINY)
