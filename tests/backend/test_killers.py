"""What llama.cpp answers by ending the process, erllama refuses."""

from __future__ import annotations

import pathlib

from tests.backend import killers
from tests.models import (
    KILLED_AT_DECODE,
    KILLED_AT_LOAD,
    TINY,
    TINY_BERT,
    TINY_MAMBA2,
    break_model,
    cached_model,
    run_child,
)

ENV = {"GGML_NO_BACKTRACE": "1"}


def test_bare_calls_do_kill_the_process() -> None:
    ends = run_child(killers.bare_calls, str(cached_model(TINY)), env=ENV).value
    assert ends == dict.fromkeys(ends, "SIGABRT")
    assert len(ends) == 6


def test_erllama_refuses_the_same_calls_and_lives() -> None:
    said = run_child(killers.guarded_calls, str(cached_model(TINY)), env=ENV).value
    assert said == {
        "detokenize with a bad id": "RequestError",
        "a prompt with a bad id": "DecodeFailed",
        "more rows than n_batch": "DecodeFailed",
        "sampling without logits": "DecodeFailed",
        "sequence id out of range": "DecodeFailed",
        "position gap": "DecodeFailed",
        "afterwards": "done",
    }


def test_a_recurrent_model_is_kept_within_its_context() -> None:
    said = run_child(killers.beyond_n_ctx, str(cached_model(TINY_MAMBA2)), env=ENV).value
    assert said == {"guarded": "DecodeFailed", "bare": "done"}


def test_an_encoder_asked_to_generate_is_refused() -> None:
    said = run_child(killers.load_and_draw, str(cached_model(TINY_BERT)), env=ENV).value
    assert said == "DecodeFailed: this model cannot generate"


def test_weights_that_are_not_numbers_fail_the_draw_and_not_the_process(
    tmp_path: pathlib.Path,
) -> None:
    path = break_model(cached_model(TINY), tmp_path / "nan.gguf", "nan_weights")
    said = run_child(killers.load_and_draw, str(path), env=ENV).value
    assert said.startswith("done: {0: 'the logits are not finite")


def test_files_that_kill_llama_cpp_are_refused(tmp_path: pathlib.Path) -> None:
    kinds = sorted(KILLED_AT_LOAD | KILLED_AT_DECODE)
    source = cached_model(TINY)
    paths = [str(break_model(source, tmp_path / f"{how}.gguf", how)) for how in kinds]
    for path, (end, said) in zip(
        paths, run_child(killers.load_all, paths, env=ENV).value, strict=True
    ):
        assert said.startswith(f"ModelLoadError: {path}: ")
        assert "again" in said or "convert" in said
        assert end in ("SIGABRT", "SIGSEGV"), path
