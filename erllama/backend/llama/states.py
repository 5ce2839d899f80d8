"""Taking the state of a sequence out of a context and putting one in. On the lane only.

Contract
    State     the shape of this context's states, learned once; a save buffer whose pages stay
              warm (fresh memory costs up to 50 times the copy).
    Invariant nothing is handed to llama.cpp whose every byte outside rows and tensors was not
              written here. A state that llama.cpp does not take completely is removed again.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from erllama.backend.base import Family, SavedState
from erllama.backend.llama.library import capture_log, llama
from erllama.backend.llama.state_blob import (
    BadState,
    Bytes,
    Shape,
    State,
    learn_shape,
    state_bytes,
    window_first,
)
from erllama.errors import DecodeFailed

_U8P = ctypes.POINTER(ctypes.c_uint8)


class States:
    """The states of one context's sequences.

    Args:
        context: the native context.
        seq: a sequence that holds `n` tokens, to learn the shape from.
        n: fewer than any sliding window.

    Raises:
        BadState: this llama.cpp lays states out in a way that is not known here.
    """

    def __init__(self, context: Any, family: Family, *, seq: int, n: int) -> None:
        self._llama = llama()
        self._context = context
        self._buffer: Bytes = np.empty(0, np.uint8)
        self.shape: Shape = learn_shape(self._get(seq), n, family)
        self._view(seq, n)

    def save(
        self, seq: int, n: int, ranges: tuple[tuple[int, int], ...], *, snapshot: bool
    ) -> SavedState:
        """Copies of the rows of token ranges of a sequence that holds `n` tokens.

        Raises:
            DecodeFailed: llama.cpp gave something else than asked for.
        """
        try:
            view = self._view(seq, n)
        except BadState as bad:
            raise DecodeFailed(f"the state of sequence {seq} cannot be read: {bad}") from None
        rows = [view.full.take(start, stop) for start, stop in ranges] if view.full else []
        return SavedState(
            rows=tuple(rows), snapshot=view.take_snapshot() if snapshot else None
        )

    def frame(self, seq: int, n: int, buffer: Bytes | None = None) -> State:
        """An empty state of `n` tokens for a sequence, to be filled; from any thread."""
        size = state_bytes(self.shape, n)
        if buffer is None or len(buffer) < size:
            buffer = np.empty(size, np.uint8)
        state = State(self.shape, n, buffer, seq=seq, stream=self._stream(seq))
        state.write_headers()
        return state

    def restore(self, seq: int, state: State) -> None:
        """Make `state` the state of a sequence.

        Raises:
            DecodeFailed: llama.cpp did not take it; the sequence is empty then.
        """
        data = state.bytes.ctypes.data_as(_U8P)
        with capture_log() as said:
            taken = self._llama.llama_state_seq_set_data(self._context, data, state.size, seq)
        memory = self._llama.llama_get_memory(self._context)
        last = self._llama.llama_memory_seq_pos_max(memory, seq)
        if taken != state.size or last != state.n - 1:
            self._llama.llama_memory_seq_rm(memory, seq, -1, -1)
            raise DecodeFailed(
                f"a state of {state.n} tokens was not taken back ({taken} of {state.size} bytes, "
                f"last position {last}): {said.problems()}"
            )

    def _view(self, seq: int, n: int) -> State:
        data = self._get(seq)
        stream = self._stream(seq)
        first = window_first(self.shape, data, n, stream=stream)
        state = State(self.shape, n, data, seq=seq, stream=stream, first=first)
        if state.size != len(data):
            raise BadState(f"{len(data)} bytes instead of {state.size}")
        state.check_headers()
        return state

    def _get(self, seq: int) -> Bytes:
        size = self._llama.llama_state_seq_get_size(self._context, seq)
        if size > len(self._buffer):
            self._buffer = np.empty(size + size // 4, np.uint8)
        data = self._buffer.ctypes.data_as(_U8P)
        taken = self._llama.llama_state_seq_get_data(self._context, data, size, seq)
        if taken != size or not size:
            raise BadState(f"{taken} of {size} bytes")
        return self._buffer[:size]

    def _stream(self, seq: int) -> int:
        """The KV stream of a sequence: its own, or the only one of a unified cache."""
        section = self.shape.full or self.shape.window
        return seq if section is not None and section.n_stream > 1 else 0
