"""No combination of load options ends the process, hangs, or raises what is not erllama's."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest

from tests.backend.load_options import MODELS, Options, edges, mixed, path_of
from tests.backend.load_trial import run_trials
from tests.models import run_child

# llama.cpp would start a debugger at every abort; and threads that spin hang on a busy machine
ENV = {"GGML_NO_BACKTRACE": "1", "OMP_WAIT_POLICY": "passive"}
AT_ONCE = 200
ENCODERS = [name for name in MODELS if name.startswith("encoder")]


def ends_of(trials: Iterable[tuple[str, Options]]) -> list[tuple[str, Options, str]]:
    """Each model and its options, with how loading and using it ended."""
    found = []
    rest = iter(trials)
    while some := list(itertools.islice(rest, AT_ONCE)):
        paths = [(path_of(name), options) for name, options in some]
        ends = run_child(run_trials, paths, timeout=AT_ONCE * 60, env=ENV).value
        found += [(*trial, end) for trial, end in zip(some, ends, strict=True)]
    return found


def check(trials: Iterable[tuple[str, Options]]) -> None:
    ends = ends_of(trials)
    assert [one for one in ends if not one[2].startswith(("works", "refused: "))] == []
    works = sum(end == "works" for _, _, end in ends)
    assert works > len(ends) // 2


def test_an_encoder_loads_with_any_number_of_sequences() -> None:
    some = [{"n_seq_max": n, "n_batch": 320, "n_ubatch": 320} for n in (3, 7, 12, 33, 100, 256)]
    trials = [("encoder, mean", options) for options in (*some, {"n_seq_max": 24, "n_ctx": 512})]
    assert [end for _, _, end in ends_of(trials)] == ["works"] * len(trials)


def test_a_hybrid_model_computes_numbers_for_many_sequences_at_once() -> None:
    """With weights laid out for the tiles of a CPU (AMX) they were not finite."""
    options = {"n_seq_max": 33}
    ((_, _, end),) = ends_of([("hybrid, convolutions", options)])
    assert end == "works"


def test_options_at_random_load_or_are_refused() -> None:
    check(itertools.islice(mixed(seed=3), len(MODELS)))


def test_what_a_model_or_machine_cannot_have_is_refused_by_name() -> None:
    trials: list[tuple[str, Options]] = [
        ("heads of 24", {"type_k": "q8_0"}),
        ("heads of 24", {"type_v": "q4_0", "flash_attn": True}),
        ("heads of 16", {"type_k": "q4_1", "flash_attn": False}),
        ("plain", {"n_threads_batch": 512}),  # more than a trial's memory has room for
        ("plain", {"split_mode": "tensor", "gpu_layers": 0}),
    ]
    key, value, no_flash, threads, split = [end for _, _, end in ends_of(trials)]
    assert 'ConfigError("ContextConfig.type_k: q8_0 stores blocks of 32 values, which' in key
    assert "heads of 24; use f16" in key
    assert 'ConfigError("ContextConfig.type_v: q4_0 stores blocks of 32' in value
    assert 'ConfigError("ContextConfig.type_k: q4_1 stores blocks of 32' in no_flash
    assert threads == "works" or "ContextConfig.n_threads_batch: of 512 threads only" in threads
    assert split == "works" or "ModelConfig.split_mode: 'tensor' needs a GPU" in split


@pytest.mark.long
@pytest.mark.timeout(7_200)
def test_every_option_at_its_edges_loads_or_is_refused() -> None:
    check(edges())


@pytest.mark.long
@pytest.mark.timeout(7_200)
def test_thousands_of_combinations_load_or_are_refused() -> None:
    check(itertools.islice(mixed(seed=1), 4_000))
