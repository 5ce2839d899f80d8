from __future__ import annotations

from pathlib import Path

import pytest

from tests.models.cache import cached_model
from tests.models.shapes import TINY
from tests.models.vocabulary import LLAMA3_CHAT_TEMPLATE


@pytest.fixture(scope="session")
def model_file() -> Path:
    """A random model that goes on until its context is full."""
    return cached_model(TINY, chat_template=LLAMA3_CHAT_TEMPLATE)
