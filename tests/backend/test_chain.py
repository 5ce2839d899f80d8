"""Every setting draws, token for token, what llama.cpp's own chain draws for the same seed."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from erllama.sampling import (
    MinP,
    SamplerPlan,
    SamplingParams,
    Stage,
    Temperature,
    TopK,
    TopP,
    Typical,
    Xtc,
    draw_seed,
    plan_sampler,
)
from erllama.sampling.chain import Chain
from tests.backend.native_chain import native_draw
from tests.sampling.words import SomeWords

OFF: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "temperature": 1.0}

SETTINGS: dict[str, dict[str, Any]] = {
    "the defaults": {},
    "greedy": {"temperature": 0},
    "no stage at all": OFF,
    "temperature alone": {**OFF, "temperature": 1.7},
    "top_k alone": {**OFF, "top_k": 7},
    "a wide top_k": {**OFF, "top_k": 700},
    "top_p alone": {**OFF, "top_p": 0.9},
    "min_p alone": {**OFF, "min_p": 0.02},
    "typical alone": {**OFF, "typical_p": 0.8},
    "typical after top_k": {"typical_p": 0.5},
    "all filters": {"typical_p": 0.9, "xtc_probability": 0.5, "xtc_threshold": 0.05},
    "xtc always": {**OFF, "xtc_probability": 1.0, "xtc_threshold": 0.02},
    "xtc at times": {"xtc_probability": 0.4},
    "biases": {"logit_bias": {3: 5.0, 9: -5.0, 11: float("-inf")}, "top_k": 5},
    "repeat penalty": {"repeat_penalty": 1.3},
    "all penalties": {
        "repeat_penalty": 1.1,
        "frequency_penalty": 0.3,
        "presence_penalty": -0.2,
        "repeat_last_n": 200,
    },
    "penalties over all": {"frequency_penalty": 0.5, "repeat_last_n": -1},
    "penalties and greedy": {"repeat_penalty": 2.0, "temperature": 0},
    "mirostat": {"mirostat": 1},
    "mirostat 2": {"mirostat": 2},
    "mirostat 2, low": {"mirostat": 2, "mirostat_tau": 1.5, "temperature": 1.0},
}


@pytest.mark.parametrize("n_vocab", [50, 5_000])
@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS.keys())
def test_a_setting_draws_what_llama_cpp_draws(options: dict[str, Any], n_vocab: int) -> None:
    rng = np.random.default_rng(n_vocab)
    plan = plan_sampler(SamplingParams(**options))
    drawn = []
    for trial in range(40):
        logits = (rng.standard_normal(n_vocab) * rng.uniform(0.5, 6)).astype(np.float32)
        history = rng.integers(0, min(n_vocab, 60), rng.integers(0, 300)).tolist()
        seed = draw_seed(trial, 5)
        before = logits.copy()
        token = Chain(plan, SomeWords(n_vocab), history).sample(logits, seed)
        assert token == native_draw(plan, logits, seed, history)
        assert np.array_equal(logits, before)
        drawn.append(token)
    assert len(set(drawn)) > 5


def random_options(rng: random.Random) -> dict[str, Any]:
    """Any combination of settings."""
    ranges: dict[str, list[Any]] = {
        "temperature": [0, 0.3, 0.8, 1.0, 2.5],
        "top_k": [0, 1, 3, 40, 1_000, 10**6],
        "top_p": [0.01, 0.5, 0.95, 1.0],
        "min_p": [0, 0.01, 0.2, 1.0],
        "typical_p": [0.2, 0.9, 1.0, 1.0],
        "repeat_penalty": [0.5, 1.0, 1.5],
        "repeat_last_n": [-1, 0, 5, 64],
        "frequency_penalty": [0, 0.5],
        "presence_penalty": [0, 1.0],
        "dry_multiplier": [0, 0, 0.8],
        "xtc_probability": [0, 0.5, 1.0],
        "xtc_threshold": [0.01, 0.1, 0.6],
        "mirostat": [0, 0, 0, 1, 2],
        "logit_bias": [{}, {1: 3.0, 2: float("-inf")}],
    }
    options = {name: rng.choice(values) for name, values in ranges.items()}
    if options["typical_p"] < 1:
        options["logit_bias"] = {}  # llama.cpp's typical sampler makes NaN of a ban
    return {**options, "dry_sequence_breakers": []}


@pytest.mark.parametrize("seed", range(6))
def test_the_filters_may_come_in_any_order_and_more_than_once(seed: int) -> None:
    choose, rng = random.Random(seed), np.random.default_rng(seed)
    kinds: list[Stage] = [Typical(0.8), TopP(0.9), MinP(0.01), Xtc(1.0, 0.02), TopK(500)]
    kinds += [Temperature(0.7), Temperature(1.9)]
    for trial in range(30):
        plan = SamplerPlan(tuple(choose.choices(kinds, k=5)))
        logits = (rng.standard_normal(3_000) * choose.choice([1, 3])).astype(np.float32)
        token = Chain(plan, SomeWords(3_000)).sample(logits, trial)
        assert token == native_draw(plan, logits, trial), plan


@pytest.mark.parametrize("seed", range(6))
def test_random_settings_draw_what_llama_cpp_draws(seed: int) -> None:
    choose, rng = random.Random(seed), np.random.default_rng(seed)
    for trial in range(60):
        n_vocab = choose.choice([3, 30, 700, 9_000])
        options = random_options(choose)
        if n_vocab < 700 and options["mirostat"] == 1:
            options["mirostat"] = 2  # so few tokens overflow the integer in llama.cpp's version 1
        plan = plan_sampler(SamplingParams(**options))
        logits = (rng.standard_normal(n_vocab) * choose.choice([1, 3, 10])).astype(np.float32)
        history = rng.integers(0, min(n_vocab, 8), choose.choice([0, 1, 30, 200])).tolist()
        token = Chain(plan, SomeWords(n_vocab), history).sample(logits, trial)
        assert token == native_draw(plan, logits, trial, history), options
