"""Random models load in llama.cpp, compute, and are what their shape says."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from . import probe
from .cache import GENERATOR_VERSION
from .child import run_child
from .gguf_layout import Layout
from .quantize import KQuant, quantize_model
from .random_gguf import Quant, write_random_model
from .shapes import (
    M125,
    PRESETS,
    TINY,
    TINY_BERT,
    TINY_SPM,
    WIDE,
    Bert,
    Llama,
    Shape,
)
from .tensors import Tensor
from .vocabulary import LLAMA3_CHAT_TEMPLATE, make_vocabulary

QUANTS: tuple[Quant, ...] = get_args(Quant)
DECODERS = [name for name, shape in PRESETS.items() if shape not in (TINY_BERT, M125)]
RECURRENT = {"tiny-mamba2"}
HYBRID = {"tiny-falcon-h1", "tiny-lfm2"}
N_TOKENS = 70

DIGESTS = {
    "tiny": (1, "cf15473480796b83"),
    "tiny-spm": (1, "3abbb9dd2d345999"),
    "tiny-bert": (1, "e8e19d2b845b097c"),
}

# Each preset in one type, so that all presets and all types are covered; `long` has the product.
SPREAD = list(zip(DECODERS, QUANTS * len(DECODERS), strict=False))


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, probe.DecoderReport]:
    """What one child process found about each preset of SPREAD."""
    folder = tmp_path_factory.mktemp("spread")
    paths = [
        write_random_model(folder / f"{preset}.gguf", PRESETS[preset], quant=quant)
        for preset, quant in SPREAD
    ]
    found = run_child(_probe_decoders, [str(path) for path in paths]).value
    return dict(zip(DECODERS, found, strict=True))


def _probe_decoders(paths: list[str]) -> list[probe.DecoderReport]:
    return [probe.probe_decoder(path, N_TOKENS) for path in paths]


def check_report(preset: str, report: probe.DecoderReport) -> None:
    shape = PRESETS[preset]
    assert report["recurrent"] == (preset in RECURRENT)
    assert report["hybrid"] == (preset in HYBRID)
    assert report["n_swa"] == getattr(shape, "sliding_window", 0)
    assert report["has_memory"]
    assert report["n_vocab"] == shape.n_vocab
    assert report["finite"]
    assert 1.5 < report["std"] < 2.5
    assert len(set(report["greedy"])) > 2
    assert not {*report["greedy"]} & {*shape.make_vocabulary().end_of_generation}
    assert report["state_error"] == 0
    assert report["context_effect"] > 0.01


@pytest.mark.parametrize("preset", DECODERS)
def test_decoder_computes_and_its_state_moves(
    reports: dict[str, probe.DecoderReport], preset: str
) -> None:
    check_report(preset, reports[preset])


@pytest.mark.long
@pytest.mark.parametrize("quant", QUANTS)
@pytest.mark.parametrize("preset", DECODERS)
def test_every_decoder_computes_in_every_type(tmp_path: Path, preset: str, quant: Quant) -> None:
    path = write_random_model(tmp_path / "model.gguf", PRESETS[preset], quant=quant)
    check_report(preset, run_child(probe.probe_decoder, str(path), N_TOKENS).value)


@pytest.mark.parametrize("quant", ["F16", "Q8_0"])
def test_encoder_embeds(tmp_path: Path, quant: Quant) -> None:
    path = write_random_model(tmp_path / "bert.gguf", TINY_BERT, quant=quant)
    report = run_child(probe.probe_encoder, str(path), N_TOKENS).value
    assert not report["has_memory"]
    assert report["pooling_type"] == 1
    first, second = report["embeddings"]
    assert len(first) == len(second) == TINY_BERT.n_embd
    assert max(abs(a - b) for a, b in zip(first, second, strict=True)) > 0.001


def test_encoder_says_how_it_pools(tmp_path: Path) -> None:
    path = write_random_model(tmp_path / "bert.gguf", Bert(pooling="cls"))
    assert run_child(probe.probe_encoder, str(path), 8).value["pooling_type"] == 2


@pytest.mark.parametrize("quant", get_args(KQuant))
def test_k_quants_compute(tmp_path: Path, quant: KQuant) -> None:
    source = write_random_model(tmp_path / "f16.gguf", WIDE)
    path = quantize_model(source, tmp_path / "k.gguf", quant)
    assert path.stat().st_size < source.stat().st_size / 2
    report = run_child(probe.probe_decoder, str(path), N_TOKENS).value
    assert report["finite"]
    assert report["state_error"] == 0


@pytest.mark.parametrize(("preset", "quant"), [*SPREAD, ("tiny-bert", "F16")])
def test_same_seed_gives_same_bytes(tmp_path: Path, preset: str, quant: Quant) -> None:
    shape = PRESETS[preset]
    first = write_random_model(tmp_path / "1.gguf", shape, quant=quant, seed=5).read_bytes()
    again = write_random_model(tmp_path / "2.gguf", shape, quant=quant, seed=5).read_bytes()
    other = write_random_model(tmp_path / "3.gguf", shape, quant=quant, seed=6).read_bytes()
    assert first == again
    assert first != other


def test_another_process_writes_the_same_bytes(tmp_path: Path) -> None:
    here = write_random_model(tmp_path / "here.gguf", TINY)
    run_child(_write, tmp_path / "there.gguf").check()
    assert here.read_bytes() == (tmp_path / "there.gguf").read_bytes()


def _write(path: Path) -> None:
    write_random_model(path, TINY)


@pytest.mark.parametrize("preset", sorted(DIGESTS))
def test_other_contents_need_another_version_of_the_cache(tmp_path: Path, preset: str) -> None:
    """When this fails on purpose, raise cache.GENERATOR_VERSION and put the new digests here."""
    layout = Layout.read(write_random_model(tmp_path / "model.gguf", PRESETS[preset]))
    tensors = [(tensor.name, tensor.dims, tensor.type, tensor.data) for tensor in layout.tensors]
    contents = repr((sorted(layout.metadata.items()), tensors))
    version, digest = DIGESTS[preset]
    assert hashlib.sha256(contents.encode()).hexdigest()[:16] == digest
    assert version == GENERATOR_VERSION


def test_double_precision_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"output_norm\.weight is float64"):
        write_random_model(tmp_path / "model.gguf", _DoublePrecision())
    assert not list(tmp_path.iterdir())


class _DoublePrecision(Llama):
    def output_tensors(self) -> Iterator[Tensor]:
        for tensor in super().output_tensors():
            yield dataclasses.replace(tensor, fill=lambda _, count: np.ones(count))  # type: ignore[arg-type, return-value]


def test_the_smallest_vocabulary_knows_bytes(tmp_path: Path) -> None:
    path = write_random_model(tmp_path / "model.gguf", Llama(n_vocab=262))
    report = run_child(probe.probe_tokenizer, str(path), ["word"]).value
    assert report["pieces"] == [["w", "o", "r", "d"]]


def test_writing_leaves_no_temporary_file(tmp_path: Path) -> None:
    write_random_model(tmp_path / "model.gguf", TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


def test_a_failed_write_keeps_the_file_that_was_there(tmp_path: Path) -> None:
    path = write_random_model(tmp_path / "model.gguf", TINY)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"multiples of 32"):
        write_random_model(path, Llama(n_ff=100), quant="Q8_0")
    assert path.read_bytes() == before


TEXTS = [
    "",
    'The quick brown fox said: "I can\'t understand".\n\nOnce upon a time, in 2024...',
    "  two  spaces, a\ttab and\r\na line; {'code': [1, 2]} ",
    "žluťoučký kůň 世界 🙂👩‍👩‍👧 \x00 ﷽ שלום नमस्ते",
]


@pytest.mark.parametrize("shape", [TINY, TINY_SPM, M125], ids=["bpe", "spm", "bpe-32000"])
def test_any_text_survives_tokenization(tmp_path: Path, shape: Shape) -> None:
    # Only the vocabulary is loaded, so the rest may be small.
    narrow = dataclasses.replace(
        TINY, n_embd=32, vocabulary=shape.vocabulary, n_vocab=shape.n_vocab
    )
    path = write_random_model(tmp_path / "model.gguf", narrow)
    report = run_child(probe.probe_tokenizer, str(path), TEXTS).value
    assert report["texts"] == TEXTS
    english = 1
    assert len(report["tokens"][english]) < 0.7 * len(TEXTS[english])
    vocabulary = narrow.make_vocabulary()
    assert report["special"] == vocabulary.special_ids("bos", "eos", "eot")
    assert report["end_of_generation"] == sorted(vocabulary.end_of_generation)


def test_word_pieces_of_known_letters_survive(tmp_path: Path) -> None:
    path = write_random_model(tmp_path / "bert.gguf", TINY_BERT)
    texts = ["The quick brown fox", "žluťoučký", "世界"]
    report = run_child(probe.probe_tokenizer, str(path), texts).value
    assert report["texts"] == [" the quick brown fox", " zlutoucky", "[UNK][UNK]"]


def test_chat_template_is_stored(tmp_path: Path) -> None:
    path = write_random_model(tmp_path / "m.gguf", TINY, chat_template=LLAMA3_CHAT_TEMPLATE)
    report = run_child(probe.probe_tokenizer, str(path), []).value
    assert report["chat_template"] == LLAMA3_CHAT_TEMPLATE


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert"])
def test_vocabulary_too_small_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match=r"at least \d+ tokens, not 10"):
        make_vocabulary(kind, 10)


def test_m125_has_125_million_parameters() -> None:
    counts = [math.prod(tensor.dims) for tensor in M125.tensors()]
    assert 124e6 < sum(counts) < 126e6


def test_impossible_heads_are_refused() -> None:
    with pytest.raises(ValueError, match="must divide"):
        Llama(n_head=4, n_head_kv=3)


def test_importing_the_models_does_not_load_llama_cpp() -> None:
    package = __package__ or ""
    done = run_child(f"import sys, {package}; print('llama_cpp' in sys.modules)")
    assert done.stdout.strip() == "False"
