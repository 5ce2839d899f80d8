"""Penalties and DRY against plain references, and what a chain keeps of its history."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erllama.sampling import Dry, Penalties
from erllama.sampling.history import Breakers, DryPenalty, History, Repetition

N_VOCAB = 6
TOKENS = st.lists(st.integers(0, N_VOCAB - 1), max_size=25)
WINDOWS = st.sampled_from([-1, 1, 5, 20, 100])


def random_logits(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(N_VOCAB).astype(np.float32)


@given(st.lists(st.integers(0, 2**31 - 1), max_size=700), st.integers(0, 300), st.integers(-1, 600))
def test_a_history_grows_and_gives_its_end(tokens: list[int], cut: int, n: int) -> None:
    history = History(tokens[:cut])
    for token in tokens[cut:]:
        history.append(token)
    assert history.ids.tolist() == tokens
    wanted = tokens if n < 0 else tokens[len(tokens) - min(n, len(tokens)) :]
    assert history.last(n).tolist() == wanted


def penalised(logits: np.ndarray, stage: Penalties, tokens: list[int]) -> list[float]:
    """By the formula in the documentation of llama.cpp's penalties."""
    window = tokens if stage.last_n < 0 else tokens[-stage.last_n :]
    found = logits.astype(np.float64)
    for token, count in Counter(window).items():
        value = found[token]
        value = value * stage.repeat if value <= 0 else value / stage.repeat
        found[token] = value - count * stage.frequency - stage.presence
    return [float(value) for value in found]


@given(
    TOKENS,
    TOKENS,
    WINDOWS,
    st.sampled_from([0.5, 1.0, 1.3]),
    st.sampled_from([0.0, 0.4]),
    st.sampled_from([0.0, -1.0]),
)
def test_penalties_are_what_the_formula_says_also_as_the_text_goes_on(
    before: list[int],
    after: list[int],
    last_n: int,
    repeat: float,
    frequency: float,
    presence: float,
) -> None:
    stage = Penalties(last_n, repeat, frequency, presence)
    history = History(before)
    repetition = Repetition(stage, history, N_VOCAB)
    for i, token in enumerate([*after, 0]):
        logits = random_logits(i)
        expected = penalised(logits, stage, [*before, *after[:i]])
        repetition.apply(logits)
        assert logits.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-5)
        history.append(token)


def dry_penalties(tokens: list[int], stage: Dry, breakers: Breakers) -> dict[int, float]:
    """By trying, for every token, the longest repetition that it would extend."""
    window = tokens if stage.last_n < 0 else tokens[-stage.last_n :]
    limit = len(window)
    for at in range(len(window) - 1, -1, -1):
        tails = [
            tail
            for tail in breakers.get(window[at], ())
            if tuple(window[at + 1 : at + 1 + len(tail)]) == tail
        ]
        if tails:
            limit = len(window) - 1 - at - max(map(len, tails))
            break
    found: dict[int, float] = {}
    for token in range(N_VOCAB):
        longest = 0
        for end in range(1, len(window)):
            n = 0
            while n < end and window[end - 1 - n] == window[len(window) - 1 - n]:
                n += 1
            if window[end] == token:
                longest = max(longest, min(n, limit))
        if longest >= stage.allowed_length and () not in breakers.get(token, ()):
            found[token] = stage.multiplier * stage.base ** (longest - stage.allowed_length)
    return found


@settings(max_examples=150)
@given(
    TOKENS,
    TOKENS,
    WINDOWS,
    st.integers(1, 3),
    st.sampled_from([1.0, 1.5]),
    st.sampled_from([{}, {5: [()]}, {4: [(3,)], 5: [(), (5,)]}]),
)
def test_dry_is_what_trying_everything_says_also_as_the_text_goes_on(
    before: list[int],
    after: list[int],
    last_n: int,
    allowed: int,
    base: float,
    breakers: Breakers,
) -> None:
    stage = Dry(2.0, base, allowed, last_n, ())
    history = History(before)
    dry = DryPenalty(stage, history, breakers, N_VOCAB)
    for i, token in enumerate([*after[:8], 0]):
        logits = random_logits(i)
        expected = logits.copy()
        for penalty_of, penalty in dry_penalties([*before, *after[:i]], stage, breakers).items():
            expected[penalty_of] -= penalty
        dry.apply(logits)
        assert logits.tolist() == pytest.approx(expected.tolist(), rel=1e-5)
        history.append(token)


def test_dry_stays_within_floats_over_a_text_of_one_token() -> None:
    dry = DryPenalty(Dry(100.0, 100.0, 1, -1, ()), History([1] * 3_000), {}, N_VOCAB)
    logits = np.zeros(N_VOCAB, np.float32)
    dry.apply(logits)
    assert np.isfinite(logits).all()
    assert logits[1] < -1e29
