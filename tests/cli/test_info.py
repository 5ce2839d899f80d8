"""`erllama info`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from tests.cli.child import run_erllama
from tests.models.cache import cached_model
from tests.models.shapes import TINY, TINY_BERT, TINY_FALCON_H1
from tests.models.vocabulary import LLAMA3_CHAT_TEMPLATE


def info_of(path: Path) -> dict[str, object]:
    child = run_erllama("info", path, "--json", "-q")
    assert (child.process.returncode, child.seen("stderr")) == (0, "")
    (line,) = child.seen("stdout").splitlines()
    facts: dict[str, object] = json.loads(line)
    return facts


def test_json_is_one_object_with_what_the_file_holds(chat_model: Path) -> None:
    facts = info_of(chat_model)
    assert facts["architecture"] == "llama"
    assert facts["family"] == "plain"
    assert facts["quantization"] == "F16"
    assert (facts["n_layer"], facts["n_embd"]) == (TINY.n_layer, TINY.n_embd)
    assert (facts["n_head"], facts["n_head_kv"]) == (4, 2)
    assert (facts["n_vocab"], facts["n_ctx_train"]) == (TINY.n_vocab, TINY.n_ctx_train)
    assert (facts["bos_token"], facts["eos_token"]) == ("<|begin_of_text|>", "<|end_of_text|>")
    assert facts["chat_template"] == LLAMA3_CHAT_TEMPLATE
    assert facts["fingerprint"] == hashlib.sha256(chat_model.read_bytes()).hexdigest()
    assert facts["can_generate"] is True
    assert facts["backend_tested"] is True


def test_families_and_quantizations_are_told_apart() -> None:
    hybrid = info_of(cached_model(TINY_FALCON_H1, "Q8_0"))
    assert (hybrid["family"], hybrid["quantization"]) == ("hybrid", "Q8_0")
    encoder = info_of(cached_model(TINY_BERT))
    assert (encoder["family"], encoder["can_generate"]) == ("encoder", False)


def test_text_is_a_line_per_fact(chat_model: Path, plain_model: Path) -> None:
    child = run_erllama("info", chat_model, "-q")
    facts = dict(line.split(maxsplit=1) for line in child.seen("stdout").splitlines())
    assert facts["architecture"] == "llama (plain)"
    assert facts["quantization"] == "F16"
    assert facts["context"] == "8,192 tokens"
    assert facts["fingerprint"] == hashlib.sha256(chat_model.read_bytes()).hexdigest()
    assert facts["chat"] == "template  yes"
    assert "chat template  no\n" in run_erllama("info", plain_model, "-q").seen("stdout")


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "no such file"), (b"", "is empty"), (b"PK\3\4 not one", "is not a GGUF file")],
)
def test_a_file_that_is_no_model_exits_with_1_and_the_reason(
    content: bytes | None, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "broken.gguf"
    if content is not None:
        path.write_bytes(content)
    child = run_erllama("info", path, "-q")
    assert child.process.returncode == 1
    assert f"{path}: {reason}" in child.seen("stderr")
    assert (child.seen("stdout"), "Traceback" in child.seen("stderr")) == ("", False)


def test_a_damaged_file_exits_with_1_and_the_reason(tmp_path: Path, chat_model: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(chat_model.read_bytes()[:-1_000])
    child = run_erllama("info", path, "-q")
    assert child.process.returncode == 1
    assert "is truncated" in child.seen("stderr")


def test_the_hash_of_a_file_is_remembered_between_runs(tmp_path: Path, chat_model: Path) -> None:
    run_erllama("info", chat_model, "-q", XDG_CACHE_HOME=str(tmp_path))
    remembered = json.loads((tmp_path / "erllama" / "fingerprints.json").read_text())
    assert hashlib.sha256(chat_model.read_bytes()).hexdigest() in remembered.values()
