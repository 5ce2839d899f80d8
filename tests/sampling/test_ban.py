"""Banning by arithmetic gives what writing where a mask says so gives."""

from __future__ import annotations

import numpy as np
import pytest

from erllama.sampling.ban import leave


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9, 1.0])
def test_what_is_allowed_stays_as_it_is_and_the_rest_is_banned(share: float) -> None:
    rng = np.random.default_rng(0)
    logits = (rng.standard_normal(5_000) * 1e3).astype(np.float32)
    logits[:6] = 0.0, -0.0, 3.4e38, -3.4e38, np.inf, -np.inf
    allowed = rng.random(5_000) < share
    expected = np.where(allowed, logits, np.float32(-np.inf))
    leave(logits, allowed)
    assert logits.tobytes() == expected.tobytes()
