"""Taking the state of a sequence out of a context and putting one in. On the lane only.

`States` cuts and joins; `WholeStates` is for a llama.cpp that lays states out in a way that is
not known here: what it gave is given back to it as it came.

Contract
    State     the shape of this context's states, learned once; a save buffer whose pages stay
              warm (fresh memory costs up to 50 times the copy).
    Invariant `States` hands nothing to llama.cpp whose every byte outside rows and tensors was
              not written here. A state that llama.cpp does not take completely is removed again.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from erllama.backend.base import Buffer, Family, Frame, SavedState
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
_SECOND_BYTES = 256 << 20


class Buffers:
    """Keeps large buffers for the next frames: fresh memory costs more than the copy into it.

    One of any size, and besides it one that is not very large, as two states are often filled at
    the same time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spare: list[Bytes] = []

    def take(self, size: int) -> Bytes:
        """A buffer of at least `size` bytes, with anything in it."""
        with self._lock:
            for i, spare in enumerate(self._spare):
                if len(spare) >= size:
                    return self._spare.pop(i)
        return np.empty(size + size // 4, np.uint8)

    def give_back(self, buffer: Bytes) -> None:
        """Keep `buffer`, if it is larger than what is kept already."""
        with self._lock:
            *small, large = sorted([*self._spare, buffer], key=len)
            fitting = [spare for spare in small if len(spare) <= _SECOND_BYTES]
            self._spare = [*fitting[-1:], large]


class StateFrame:
    """See `erllama.backend.base.Frame`. Its buffer is used again once the frame is dropped."""

    def __init__(self, state: State, buffers: Buffers) -> None:
        self.state = state
        self._buffers = buffers

    @property
    def n(self) -> int:
        """Tokens of the state."""
        return self.state.n

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


class WholeFrame:
    """See `erllama.backend.base.Frame`: a state that cannot be cut, of `n` tokens."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.bytes: Bytes = np.empty(0, np.uint8)

    @property
    def nbytes(self) -> int:
        return len(self.bytes)

    def put_rows(self, start: int, rows: Buffer, n_rows: int, n: int) -> None:
        raise BadState("this model's state has no rows")

    def segments(self, start: int, stop: int) -> list[memoryview] | None:
        return None

    def put_snapshot(self, snapshot: Buffer) -> None:
        self.bytes = np.frombuffer(snapshot, np.uint8)


class _Access:
    """Gets and sets states, whatever is in them."""

    def __init__(self, context: Any) -> None:
        self._llama = llama()
        self._context = context
        self._buffer: Bytes = np.empty(0, np.uint8)

    def move_to(self, context: Any) -> None:
        """Go on with another context."""
        self._context = context

    def get(self, seq: int) -> Bytes:
        """The state of a sequence, in a buffer that the next call uses again.

        Raises:
            BadState: llama.cpp gave less than it said.
        """
        size = self._llama.llama_state_seq_get_size(self._context, seq)
        if size > len(self._buffer):
            self._buffer = np.empty(size + size // 4, np.uint8)
        data = self._buffer.ctypes.data_as(_U8P)
        taken = self._llama.llama_state_seq_get_data(self._context, data, size, seq)
        if taken != size or not size:
            raise BadState(f"{taken} of {size} bytes")
        return self._buffer[:size]

    def set(self, seq: int, state: Bytes, n: int) -> None:
        """Make `state`, of `n` tokens, that of a sequence.

        Raises:
            DecodeFailed: llama.cpp did not take it; the sequence is empty then.
        """
        data = state.ctypes.data_as(_U8P)
        with capture_log() as said:
            taken = self._llama.llama_state_seq_set_data(self._context, data, len(state), seq)
        memory = self._llama.llama_get_memory(self._context)
        last = self._llama.llama_memory_seq_pos_max(memory, seq)
        if taken != len(state) or last != n - 1:
            self._llama.llama_memory_seq_rm(memory, seq, -1, -1)
            raise DecodeFailed(
                f"a state of {n} tokens was not taken back ({taken} of {len(state)} bytes, "
                f"last position {last}): {said.problems()}"
            )

    def warm_up(self, size: int) -> None:
        """Touch the pages of a buffer of `size` bytes."""
        self._buffer = np.full(size, 1, np.uint8)


class WholeStates:
    """The states of one context's sequences, as llama.cpp writes them, never looked into.

    They serve contexts of the same number of streams only, and are put back at the length that
    they were taken at.

    Args:
        seq: a sequence that holds one token.

    Raises:
        BadState: llama.cpp gives no state at all.
    """

    def __init__(self, context: Any, *, seq: int) -> None:
        self._access = _Access(context)
        self.size_at_most = len(self._access.get(seq)) * int(llama().llama_n_ctx_seq(context))

    def move_to(self, context: Any) -> None:
        """Go on with a context that was made like the first one."""
        self._access.move_to(context)

    def save(
        self, seq: int, _n: int, _ranges: Sequence[tuple[int, int]], *, snapshot: bool
    ) -> SavedState:
        """A copy of the state of a sequence.

        Raises:
            DecodeFailed: llama.cpp gave less than it said.
        """
        try:
            state = self._access.get(seq).copy() if snapshot else None
        except BadState as bad:
            raise DecodeFailed(f"the state of sequence {seq} cannot be read: {bad}") from None
        return SavedState(rows=(), snapshot=state)

    def frame(self, _seq: int, n: int) -> WholeFrame:
        """An empty state of `n` tokens; from any thread."""
        return WholeFrame(n)

    def restore(self, seq: int, frame: Frame) -> None:
        """Make a frame's state that of a sequence.

        Raises:
            DecodeFailed: llama.cpp did not take it; the sequence is empty then.
        """
        if not isinstance(frame, WholeFrame):
            raise DecodeFailed(f"a frame of another engine, for sequence {seq}")
        self._access.set(seq, frame.bytes, frame.n)


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
        self._access = _Access(context)
        self._buffers = Buffers()
        self.shape: Shape = learn_shape(self._access.get(seq), n, family)
        self._view(seq, n)
        longest = state_bytes(self.shape, llama().llama_n_ctx_seq(context))
        self._warm_up(min(longest, _WARM_BYTES))

    def move_to(self, context: Any) -> None:
        """Go on with a context that was made like the first one."""
        self._access.move_to(context)

    def _warm_up(self, size: int) -> None:
        """Touch the pages of both buffers now: the first request after a start is a restore."""
        self._access.warm_up(size)
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

    def restore(self, seq: int, frame: Frame) -> None:
        """Make a frame's state that of a sequence.

        Raises:
            DecodeFailed: llama.cpp did not take it; the sequence is empty then.
        """
        if not isinstance(frame, StateFrame):
            raise DecodeFailed(f"a frame of another engine, for sequence {seq}")
        self._access.set(seq, frame.state.bytes, frame.n)

    def _view(self, seq: int, n: int) -> State:
        data = self._access.get(seq)
        stream = self._stream(seq)
        first = window_first(self.shape, data, n, stream=stream)
        state = State(self.shape, n, data, seq=seq, stream=stream, first=first)
        if state.size != len(data):
            raise BadState(f"{len(data)} bytes instead of {state.size}")
        state.sort_cells()
        state.check_headers()
        return state

    def _stream(self, seq: int) -> int:
        """The KV stream of a sequence: its own, or the only one of a unified cache."""
        section = self.shape.full or self.shape.window
        return seq if section is not None and section.n_stream > 1 else 0
