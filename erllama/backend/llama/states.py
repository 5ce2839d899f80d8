"""Taking the state of a sequence out of a context and putting one in. On the lane only.

Contract
    State     the shape of this context's states, learned once; a save buffer whose pages stay
              warm (fresh memory costs up to 50 times the copy).
    Invariant nothing is handed to llama.cpp whose every byte outside rows and tensors was not
              written here. A state that llama.cpp does not take completely is removed again.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from erllama.backend.base import Buffer, Family, SavedState
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
_WARM_BYTES = 64 << 20


class Buffers:
    """Keeps one large buffer for the next frame: fresh memory costs more than the copy into it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spare: Bytes | None = None

    def take(self, size: int) -> Bytes:
        """A buffer of at least `size` bytes, with anything in it."""
        with self._lock:
            spare, self._spare = self._spare, None
        if spare is not None and len(spare) >= size:
            return spare
        return np.empty(size + size // 4, np.uint8)

    def give_back(self, buffer: Bytes) -> None:
        """Keep `buffer` if it is the larger one."""
        with self._lock:
            if self._spare is None or len(self._spare) < len(buffer):
                self._spare = buffer


class StateFrame:
    """See `erllama.backend.base.Frame`. Its buffer is used again once the frame is dropped."""

    def __init__(self, state: State, buffers: Buffers) -> None:
        self.state = state
        self._buffers = buffers

    @property
    def nbytes(self) -> int:
        return self.state.size

    def put_rows(self, start: int, rows: Buffer, n_rows: int, n: int) -> None:
        if self.state.full is None:
            raise BadState("this model's state has no rows")
        self.state.full.put(start, np.frombuffer(rows, np.uint8), n_rows, n)

    def segments(self, start: int, stop: int) -> list[memoryview] | None:
        if self.state.full is None:
            return None
        found = self.state.full.segments(start, stop)
        return None if found is None else [memoryview(part.data) for part in found]

    def put_snapshot(self, snapshot: Buffer) -> None:
        self.state.put_snapshot(np.frombuffer(snapshot, np.uint8))

    def __del__(self) -> None:
        self._buffers.give_back(self.state.buffer)


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
        self._buffers = Buffers()
        self.shape: Shape = learn_shape(self._get(seq), n, family)
        self._view(seq, n)
        longest = state_bytes(self.shape, self._llama.llama_n_ctx_seq(context))
        self._warm_up(min(longest, _WARM_BYTES))

    def move_to(self, context: Any) -> None:
        """Go on with a context that was made like the first one."""
        self._context = context

    def _warm_up(self, size: int) -> None:
        """Touch the pages of both buffers now: the first request after a start is a restore."""
        self._buffer = np.full(size, 1, np.uint8)
        self._buffers.give_back(np.full(size, 1, np.uint8))

    def save(
        self, seq: int, n: int, ranges: Sequence[tuple[int, int]], *, snapshot: bool
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
        return SavedState(rows=tuple(rows), snapshot=view.take_snapshot() if snapshot else None)

    def frame(self, seq: int, n: int) -> StateFrame:
        """An empty state of `n` tokens for a sequence, to be filled; from any thread."""
        buffer = self._buffers.take(state_bytes(self.shape, n))
        state = State(self.shape, n, buffer, seq=seq, stream=self._stream(seq))
        state.write_headers()
        return StateFrame(state, self._buffers)

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
