"""Greedy decoding of a GGUF file in llama.cpp, through llama-cpp-python's low-level bindings."""

from __future__ import annotations

import ctypes
from pathlib import Path

import llama_cpp
import numpy as np


class Runner:
    """One model with one context of one sequence. Use it from one thread only."""

    def __init__(self, path: Path, n_ctx: int = 2048, n_threads: int = 2) -> None:
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(
            str(path).encode(), llama_cpp.llama_model_default_params()
        )
        if not self.model:
            raise OSError(f"llama.cpp cannot load {path}")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = n_ctx
        params.n_threads = params.n_threads_batch = n_threads
        self.n_ctx = n_ctx
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(self.vocab)

    def tokenize(self, text: str, add_special: bool = False) -> list[int]:
        data = text.encode()
        room = (llama_cpp.llama_token * (len(data) + 8))()
        n = llama_cpp.llama_tokenize(
            self.vocab, data, len(data), room, len(room), add_special, True
        )
        return list(room[:n])

    def text(self, tokens: list[int]) -> str:
        """The text of tokens; `llama_detokenize` would take out spaces before punctuation."""
        return b"".join(map(self._piece, tokens)).decode(errors="replace")

    def _piece(self, token: int) -> bytes:
        out = ctypes.create_string_buffer(256)
        n = llama_cpp.llama_token_to_piece(self.vocab, token, out, len(out), 0, True)
        return out.raw[:n]

    def clear(self) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def logits(self, tokens: list[int], position: int = 0, every: bool = True) -> np.ndarray:
        """Decode `tokens` from `position` on; logits of each of them, or of the last."""
        if position + len(tokens) > self.n_ctx:
            raise ValueError(f"{position + len(tokens)} tokens, the context holds {self.n_ctx}")
        batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i] = token, position + i
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            batch.logits[i] = every or i == len(tokens) - 1
        status = llama_cpp.llama_decode(self.context, batch)
        llama_cpp.llama_batch_free(batch)
        if status:
            raise RuntimeError(f"llama_decode answered {status}")
        rows = len(tokens) if every else 1
        found = llama_cpp.llama_get_logits(self.context)
        return np.ctypeslib.as_array(found, (rows, self.n_vocab)).copy()

    def greedy(self, prompt: list[int], most: int = 400) -> tuple[list[int], bool]:
        """The likeliest continuation of at most `most` tokens; and whether it ended by itself."""
        self.clear()
        row = self.logits(prompt, every=False)
        reply: list[int] = []
        while len(reply) < most and len(prompt) + len(reply) < self.n_ctx:
            token = int(row[-1].argmax())
            if llama_cpp.llama_vocab_is_eog(self.vocab, token):
                return reply, True
            reply.append(token)
            row = self.logits([token], len(prompt) + len(reply) - 1, every=False)
        return reply, False

    def choices(self, tokens: list[int]) -> np.ndarray:
        """The likeliest next token after each of `tokens`."""
        self.clear()
        found: np.ndarray = self.logits(tokens).argmax(-1)
        return found
