"""What llama.cpp makes of a model file; for a child process, as each function computes."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from erllama.backend.llama.library import llama

llama_cpp = llama()  # without AMX, which may end the process (backend/llama/amx.py)

Logits = npt.NDArray[np.float32]

N_CTX = 512
GREEDY_TOKENS = 8


class DecoderReport(TypedDict):
    """What `probe_decoder` found.

    Keys:
        recurrent, hybrid, n_swa, has_memory: llama.cpp's answers about the family.
        n_vocab: number of tokens.
        finite: whether all logits were finite.
        std: standard deviation of the last row of logits.
        greedy: the tokens that followed greedily.
        state_error: the greatest difference of the next logits after the state of the sequence
            was put into a new context, relative to `std`; 0 means bit-equal.
        context_effect: the greatest difference of logits when only the first token is another,
            relative to `std`.
    """

    recurrent: bool
    hybrid: bool
    n_swa: int
    has_memory: bool
    n_vocab: int
    finite: bool
    std: float
    greedy: list[int]
    state_error: float
    context_effect: float


class EncoderReport(TypedDict):
    """What `probe_encoder` found: the family, and an embedding of each of two inputs."""

    has_memory: bool
    pooling_type: int
    embeddings: list[list[float]]


class TokenizerReport(TypedDict):
    """What `probe_tokenizer` found: the tokens of each text, and the text they stand for."""

    tokens: list[list[int]]
    pieces: list[list[str]]
    texts: list[str]
    special: dict[str, int]
    end_of_generation: list[int]
    chat_template: str | None


def load_model(path: str, *, vocab_only: bool = False) -> Any:
    """The model, or None where llama.cpp refuses the file."""
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = vocab_only
    return llama_cpp.llama_model_load_from_file(path.encode(), params)


def is_loadable(path: str) -> bool:
    """Whether llama.cpp loads the file."""
    return load_model(path) is not None


def decode_once(path: str) -> bool:
    """Load the file, decode one token; whether the logits were finite."""
    context = _new_context(_loaded(path))
    return bool(np.isfinite(_decode(context, [1], first_position=0)).all())


def probe_decoder(path: str, n_tokens: int) -> DecoderReport:
    """Decode `n_tokens`, go on greedily, and move the state to another context."""
    model = _loaded(path)
    context = _new_context(model)
    tokens = _some_tokens(model, n_tokens)
    logits = first = _decode(context, tokens, first_position=0)
    greedy: list[int] = []
    finite = bool(np.isfinite(first).all())
    for position in range(n_tokens, n_tokens + GREEDY_TOKENS):
        greedy.append(int(logits.argmax()))
        logits = _decode(context, greedy[-1:], first_position=position)
        finite = finite and bool(np.isfinite(logits).all())

    restored = _new_context(model)
    _copy_sequence(context, restored)
    position = n_tokens + GREEDY_TOKENS
    expected = _decode(context, [7], first_position=position)
    actual = _decode(restored, [7], first_position=position)

    changed = _decode(_new_context(model), [tokens[0] + 1, *tokens[1:]], first_position=0)
    return {
        "recurrent": bool(llama_cpp.llama_model_is_recurrent(model)),
        "hybrid": bool(llama_cpp.llama_model_is_hybrid(model)),
        "n_swa": int(llama_cpp.llama_model_n_swa(model)),
        "has_memory": bool(llama_cpp.llama_get_memory(context)),
        "n_vocab": len(first),
        "finite": finite,
        "std": float(first.std()),
        "greedy": greedy,
        "state_error": _difference(expected, actual),
        "context_effect": _difference(first, changed),
    }


def probe_encoder(path: str, n_tokens: int) -> EncoderReport:
    """Embed two inputs of `n_tokens` in one call, the second with one other token."""
    model = _loaded(path)
    context = _new_context(model, embeddings=True)
    tokens = _some_tokens(model, n_tokens)
    inputs = [tokens, [*tokens[:-1], tokens[-1] + 1]]
    batch = llama_cpp.llama_batch_init(2 * n_tokens, 0, 1)
    for sequence, row in enumerate(inputs):
        _add_rows(batch, row, first_position=0, sequence=sequence)
    status = llama_cpp.llama_encode(context, batch)
    if status:
        raise RuntimeError(f"llama_encode returned {status}")
    n_embd = llama_cpp.llama_model_n_embd(model)
    return {
        "has_memory": bool(llama_cpp.llama_get_memory(context)),
        "pooling_type": int(llama_cpp.llama_pooling_type(context)),
        "embeddings": [
            llama_cpp.llama_get_embeddings_seq(context, sequence)[:n_embd] for sequence in (0, 1)
        ],
    }


def probe_tokenizer(path: str, texts: Sequence[str]) -> TokenizerReport:
    """Tokenize each text without special tokens, and put its pieces together again."""
    model = _loaded(path, vocab_only=True)
    vocab = llama_cpp.llama_model_get_vocab(model)
    tokens = [_tokenize(vocab, text.encode()) for text in texts]
    pieces = [[_piece(vocab, token) for token in row] for row in tokens]
    n_vocab = llama_cpp.llama_vocab_n_tokens(vocab)
    template = llama_cpp.llama_model_chat_template(model, None)
    return {
        "tokens": tokens,
        "pieces": [[piece.decode(errors="replace") for piece in row] for row in pieces],
        "texts": [b"".join(row).decode() for row in pieces],
        "special": {
            name: getattr(llama_cpp, f"llama_vocab_{name}")(vocab) for name in ("bos", "eos", "eot")
        },
        "end_of_generation": [
            token for token in range(n_vocab) if llama_cpp.llama_vocab_is_eog(vocab, token)
        ],
        "chat_template": template.decode() if template else None,
    }


def _loaded(path: str, *, vocab_only: bool = False) -> Any:
    model = load_model(path, vocab_only=vocab_only)
    if model is None:
        raise RuntimeError(f"llama.cpp refuses {path}")
    return model


def _new_context(model: Any, *, embeddings: bool = False) -> Any:
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = N_CTX
    params.n_seq_max = 2 if embeddings else 1
    # One thread: barriers between two cost more than they gain at this size.
    params.n_threads = params.n_threads_batch = 1
    params.embeddings = embeddings
    return llama_cpp.llama_init_from_model(model, params)


def _some_tokens(model: Any, count: int) -> list[int]:
    vocab = llama_cpp.llama_model_get_vocab(model)
    n_vocab = llama_cpp.llama_vocab_n_tokens(vocab)
    return [1 + 37 * index % (n_vocab - 16) for index in range(1, count + 1)]


def _add_rows(batch: Any, tokens: Sequence[int], *, first_position: int, sequence: int) -> None:
    for offset, token in enumerate(tokens):
        row = batch.n_tokens + offset
        batch.token[row] = token
        batch.pos[row] = first_position + offset
        batch.n_seq_id[row] = 1
        batch.seq_id[row][0] = sequence
        batch.logits[row] = True
    batch.n_tokens += len(tokens)


def _decode(context: Any, tokens: Sequence[int], *, first_position: int) -> Logits:
    batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
    _add_rows(batch, tokens, first_position=first_position, sequence=0)
    status = llama_cpp.llama_decode(context, batch)
    llama_cpp.llama_batch_free(batch)
    if status:
        raise RuntimeError(f"llama_decode returned {status}")
    vocab = llama_cpp.llama_model_get_vocab(llama_cpp.llama_get_model(context))
    n_vocab = llama_cpp.llama_vocab_n_tokens(vocab)
    row = llama_cpp.llama_get_logits_ith(context, -1)
    return np.ctypeslib.as_array(row, (n_vocab,)).copy()


def _copy_sequence(source: Any, destination: Any) -> None:
    size = llama_cpp.llama_state_seq_get_size(source, 0)
    buffer = (ctypes.c_uint8 * size)()
    written = llama_cpp.llama_state_seq_get_data(source, buffer, size, 0)
    read = llama_cpp.llama_state_seq_set_data(destination, buffer, written, 0)
    if not 0 < written == read:
        raise RuntimeError(f"the state is {written} bytes, of which {read} were read")


def _difference(a: Logits, b: Logits) -> float:
    return float(np.abs(a - b).max() / a.std())


def _tokenize(vocab: Any, text: bytes) -> list[int]:
    tokens = (ctypes.c_int32 * (len(text) + 8))()
    count = llama_cpp.llama_tokenize(vocab, text, len(text), tokens, len(tokens), False, False)
    return tokens[:count]


def _piece(vocab: Any, token: int) -> bytes:
    buffer = ctypes.create_string_buffer(256)
    length = llama_cpp.llama_token_to_piece(vocab, token, buffer, len(buffer), 0, True)
    return buffer.raw[:length]
