"""Inputs to vectors, in a context of their own.

Contract
    State     the input that was begun in parts: how many tokens of it the context holds, the sum
              of their vectors and the first one. Between inputs the context is empty.
    Writer    the lane thread alone; `abort` only touches `_aborts`, which has a lock.
    Invariant every native call gets checked arguments (`erllama.backend.embed_check`). The context
              that generates is never touched: asked for vectors too, it would compute an output
              for every row of a prompt, and in another graph.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from erllama.backend.aborts import Aborts
from erllama.backend.base import EmbedOutcome, EmbedPlan, StepStatus
from erllama.backend.embed_check import check_embed
from erllama.backend.llama.abort import AbortFlag
from erllama.backend.llama.adapters import Adapters
from erllama.backend.llama.batch import Batch
from erllama.backend.llama.embed_shape import EmbedShape
from erllama.backend.llama.library import capture_log, llama
from erllama.errors import DecodeFailed, ModelLoadError

_ABORTED = 2  # llama_decode, llama.h


class Embedder:
    """See `erllama.backend.base.Engine.embed`. Owns its context.

    Args:
        largest: least and greatest of some ids.
    """

    def __init__(
        self,
        *,
        context: Any,
        shape: EmbedShape,
        flag: AbortFlag,
        n_vocab: int,
        largest: Callable[[Sequence[int]], tuple[int, int]],
    ) -> None:
        self._llama = llama()
        self.context = context
        self._memory = self._llama.llama_get_memory(context)
        self._shape = shape
        self._flag = flag
        self._aborts = Aborts(flag)
        self._n_vocab = n_vocab
        self._largest = largest
        self._batch = Batch(shape.can.n_rows)
        self.can = shape.can
        self._forget()

    def embed(self, plan: EmbedPlan, adapters: Adapters) -> EmbedOutcome:
        started = time.perf_counter_ns()
        if not self.context:
            raise DecodeFailed("the engine is closed")
        check_embed(
            plan,
            can=self.can,
            n_vocab=self._n_vocab,
            held=self._held,
            adapters=adapters,
            largest=self._largest,
        )
        if self._aborts.enter(plan.number):
            self._forget()
            return EmbedOutcome(number=plan.number, status="aborted", detail="aborted before")
        adapters.put_in_force(self.context, plan.adapters)
        status, detail = self._compute(plan)
        vectors = self._vectors(plan) if status == "done" else []
        if not plan.more or status != "done":
            self._forget()
        return EmbedOutcome(
            number=plan.number,
            status=status,
            vectors=tuple(vectors),
            detail=detail,
            elapsed_ns=time.perf_counter_ns() - started,
        )

    def abort(self, number: int) -> None:
        self._aborts.abort(number)

    def try_out(self, token: int) -> None:
        """Compute once, and find out whether a computation can be aborted.

        Raises:
            ModelLoadError: the model cannot compute.
        """
        with capture_log() as said:
            self._flag.set()
            can_abort = self._run([[token]], 0) == _ABORTED
            self._flag.clear()
            code = self._run([[token]], 0)
        self._forget()
        if code != 0:
            raise ModelLoadError(
                "the model cannot embed; download or convert it again "
                f"(llama_decode returned {code}: {said.problems()})"
            )
        self.can = msgspec.structs.replace(self.can, abort=can_abort)

    def close(self) -> None:
        """Free the context; a second call does nothing."""
        if self.context:
            self._llama.llama_free(self.context)
        self.context = self._memory = None

    def _compute(self, plan: EmbedPlan) -> tuple[StepStatus, str]:
        if plan.pos == 0:
            self._forget()
        with capture_log() as said:
            code = self._run(plan.inputs, plan.pos)
        if code == 0:
            return "done", ""
        status: StepStatus = "aborted" if code == _ABORTED else "failed"
        return status, f"llama_decode returned {code}: {said.problems()}"

    def _run(self, inputs: Sequence[Sequence[int]], pos: int) -> int:
        self._batch.fill_inputs(inputs, pos)
        # without a memory this encodes; llama_encode of a decoder would end the process
        return int(self._llama.llama_decode(self.context, self._batch.native))

    def _forget(self) -> None:
        self._held = 0
        self._sum: Any = 0.0
        self._first: Any = None
        if self._memory:
            self._llama.llama_memory_clear(self._memory, False)

    def _vectors(self, plan: EmbedPlan) -> list[Any]:
        if self._shape.pooled:
            return [self._view(self._of_input(i), 1)[0].copy() for i in range(len(plan.inputs))]
        lengths = [len(tokens) for tokens in plan.inputs]
        rows = self._view(self._llama.llama_get_embeddings(self.context), sum(lengths))
        ends = np.cumsum(lengths)
        if plan.more:
            self._keep(rows)
            return []
        return [self._pool(rows[end - n : end]) for end, n in zip(ends, lengths, strict=True)]

    def _of_input(self, seq: int) -> Any:
        return self._llama.llama_get_embeddings_seq(self.context, seq)

    def _keep(self, rows: Any) -> None:
        """Remember of a part what the vector of its input will need."""
        self._held += len(rows)
        self._sum = self._sum + rows.sum(axis=0, dtype=np.float64)
        if self._first is None:
            self._first = rows[0].copy()

    def _pool(self, rows: Any) -> Any:
        """The vector of an input from the rows of its last part, and what was kept."""
        if self.can.pooling == "cls":
            return rows[0].copy() if self._first is None else self._first
        if self.can.pooling == "last":
            return rows[-1].copy()
        total = self._sum + rows.sum(axis=0, dtype=np.float64)
        return (total / (self._held + len(rows))).astype(np.float32)

    def _view(self, pointer: Any, n: int) -> Any:
        """Vectors where llama.cpp has them, until its next call."""
        if not pointer:
            raise DecodeFailed("llama.cpp gave no vectors")
        return np.ctypeslib.as_array(pointer, (n, self.can.n_out))
