"""A batch of rows, filled through numpy.

Filling `llama_batch` field by field in Python costs a microsecond a row; one vectorised
assignment per field costs three microseconds in all. The arrays are numpy's, the struct only
points at them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from erllama.backend.base import Prefill, Row
from erllama.backend.llama.library import llama


class Batch:
    """Room for `capacity` rows."""

    def __init__(self, capacity: int) -> None:
        self._token = np.zeros(capacity, np.int32)
        self._pos = np.zeros(capacity, np.int32)
        self._seq = np.zeros(capacity, np.int32)
        self._n_seq = np.ones(capacity, np.int32)
        self._logits = np.zeros(capacity, np.int8)
        # llama_batch.seq_id is an array of pointers, one per row, to that row's sequence ids
        self._seq_pointers = self._seq.ctypes.data + 4 * np.arange(capacity, dtype=np.uintp)
        # single values are set faster through these
        self._first_token, self._first_pos = self._token.data, self._pos.data
        self._lone: int | None = None  # the sequence, if it holds one row with logits
        self.native = self._struct()

    def fill_slices(self, slices: Sequence[Prefill]) -> dict[int, int]:
        """Slices of prompts with their padding; returns the last row of each slice, by sequence."""
        self._lone = None
        last: dict[int, int] = {}
        start = 0
        for one in slices:
            stop = start + len(one.tokens)
            end = stop + one.fill
            self._token[start:stop] = np.frombuffer(one.tokens, np.int32)
            self._token[stop:end] = 0
            self._pos[start:end] = np.arange(one.pos, one.pos + end - start, dtype=np.int32)
            self._seq[start:end] = one.seq
            self._logits[start:end] = 0
            self._logits[stop - one.greedy : stop] = 1
            self._logits[stop - 1] = one.logits or one.greedy > 0
            last[one.seq] = stop - 1
            start = end
        self.native.n_tokens = start
        return last

    def fill_row(self, row: Row) -> None:
        """One token of one sequence, the commonest step of all."""
        self._first_token[0] = row.token
        self._first_pos[0] = row.pos
        if self._lone != row.seq:
            self._seq[0] = self._lone = row.seq
            self._logits[0] = 1
            self.native.n_tokens = 1

    def fill_rows(self, rows: Sequence[Row], unread: Sequence[int] = ()) -> None:
        """One token each of several sequences; of the rows numbered in `unread` no logits."""
        self._lone = None
        n = len(rows)
        self._token[:n] = [row.token for row in rows]
        self._pos[:n] = [row.pos for row in rows]
        self._seq[:n] = [row.seq for row in rows]
        self._logits[:n] = 1
        self._logits[list(unread)] = 0
        self.native.n_tokens = n

    def fill_inputs(self, inputs: Sequence[Sequence[int]], pos: int) -> None:
        """Several inputs on sequences of their own, each from position `pos` on."""
        self._lone = None
        n = 0
        for seq, tokens in enumerate(inputs):
            end = n + len(tokens)
            self._token[n:end] = tokens
            self._pos[n:end] = np.arange(pos, pos + len(tokens), dtype=np.int32)
            self._seq[n:end] = seq
            n = end
        self._logits[:n] = 1
        self.native.n_tokens = n

    def _struct(self) -> Any:
        lib = llama()
        batch = lib.llama_batch()
        batch.token = self._pointer(self._token, ctypes.c_int32)
        batch.embd = None
        batch.pos = self._pointer(self._pos, ctypes.c_int32)
        batch.n_seq_id = self._pointer(self._n_seq, ctypes.c_int32)
        batch.seq_id = ctypes.cast(
            self._seq_pointers.ctypes.data, ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))
        )
        batch.logits = self._pointer(self._logits, ctypes.c_int8)
        return batch

    @staticmethod
    def _pointer(values: np.ndarray[Any, Any], kind: type[Any]) -> Any:
        return values.ctypes.data_as(ctypes.POINTER(kind))
