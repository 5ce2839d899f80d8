"""The engine: one model, one context, on the lane.

Contract
    State     per sequence: how many cells it holds (`_held`), its sampler, and how short it can
              be cut (`_least`); where in the latest batch its logits are (`_rows`).
    Writer    the lane thread alone, through `step`, `rebuild` and `close`. `abort` only touches
              `_aborts`, which has a lock; `tokenize` and `detokenize` read the vocabulary, which
              is immutable.
    Invariant every native call gets checked arguments: llama.cpp answers bad ones by ending the
              process. `_held[seq]` is the number of cells that llama.cpp holds for `seq`;
              padding rows are gone when `step` returns, however the call ended.
    Context   `rebuild` makes another one in place of the first, with the same parameters. While
              none could be made there is none, and every step fails.
    Embedding has a context of its own (`Embedder`); an encoder has no other.
    Freeing   samplers, contexts, model, in this order, once, on the lane.
"""

from __future__ import annotations

import array
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from erllama.backend.aborts import Aborts
from erllama.backend.base import (
    Begin,
    Buffer,
    Capabilities,
    Draw,
    EmbedOutcome,
    EmbedPlan,
    EngineInfo,
    Frame,
    Row,
    Sampled,
    SavedState,
    StepOutcome,
    StepPlan,
    StepStatus,
)
from erllama.backend.llama.abort import AbortFlag
from erllama.backend.llama.adapters import Adapters
from erllama.backend.llama.batch import Batch
from erllama.backend.llama.embedder import Embedder
from erllama.backend.llama.library import LogLines, capture_log, llama
from erllama.backend.llama.logits import LogitRows, Logits, are_finite
from erllama.backend.llama.native_sampler import NativeSampler
from erllama.backend.llama.readers import Readers
from erllama.backend.llama.room import Room, padded_rows
from erllama.backend.llama.rows import Layout, pad_gaps, pad_to
from erllama.backend.llama.sampler import NOT_FINITE, GreedySampler, Sampler, choose, make_sampler
from erllama.backend.llama.states import StateFrame, States, WholeFrame, WholeStates
from erllama.backend.llama.vocabulary import Vocabulary
from erllama.backend.llama.words import Words
from erllama.backend.plan_check import check_plan, sequences
from erllama.errors import DecodeFailed, NotSupported
from erllama.sampling import SamplerPlan
from erllama.sampling.effort import Pause

_NO_CONTEXT = "the engine has no context; rebuild it"
_STATUS: dict[int, StepStatus] = {0: "done", 1: "no_slot", 2: "aborted"}  # llama_decode, llama.h


class LlamaEngine:
    """See `erllama.backend.base.Engine`."""

    def __init__(
        self,
        *,
        model: Any,
        context: Any,
        make_context: Callable[[], Any],
        vocabulary: Vocabulary,
        abort_flag: AbortFlag,
        capabilities: Capabilities,
        info: EngineInfo,
        states: States | WholeStates | None,
        embedder: Embedder | None,
        adapters: Adapters,
        room: Room,
        unified: bool,
    ) -> None:
        self._llama = llama()
        self._model = model
        self._context = context
        self._make_context = make_context
        self._memory = self._llama.llama_get_memory(context) if context else None
        self._vocabulary = vocabulary
        self._words = Words(vocabulary)
        self._aborts = Aborts(abort_flag)
        self._closed = False
        self._readers = Readers()
        self._batch = Batch(capabilities.n_batch) if context else None
        self._held = [0] * room.n_seq
        self._least = [0] * room.n_seq
        self._room = room
        self._unified = unified
        self._logit_rows = LogitRows(vocabulary.size)
        self._rows: dict[int, int] = {}
        self._window = self._llama.llama_model_n_swa(model)
        self._samplers: dict[int, Sampler] = {}
        self.capabilities = capabilities
        self.info = info
        self._states = states
        self._embedder = embedder
        self._adapters = adapters

    # The lane's side

    def step(self, plan: StepPlan) -> StepOutcome:
        started = time.perf_counter_ns()
        self._check(plan)
        aborted = self._aborts.enter(plan.number)
        for seq in plan.end:
            self._end(seq)
        for begin in plan.begin:
            self._begin(begin)
        status: StepStatus = "aborted" if aborted else "done"
        detail = ""
        sampled: tuple[Sampled, ...] = ()
        greedy: tuple[int, ...] = ()
        failures: dict[int, str] = {}
        if status == "done" and (plan.slices or plan.rows):
            with capture_log() as said:
                status, detail = self._compute(plan, said)
        if status == "done":
            sampled = self._sample(plan, failures)
            greedy = self._greedy(plan, failures)
        return StepOutcome(
            number=plan.number,
            status=status,
            positions={seq: self._held[seq] for seq in sequences(plan)},
            sampled=sampled,
            failures=failures,
            greedy=greedy,
            detail=detail,
            elapsed_ns=time.perf_counter_ns() - started,
            logits=self._kept_logits(plan) if plan.keep_logits and status == "done" else {},
        )

    def embed(self, plan: EmbedPlan) -> EmbedOutcome:
        if self._embedder is None:
            raise NotSupported("this model was not loaded to embed; load it with embeddings=True")
        return self._embedder.embed(plan, self._adapters)

    def save(
        self,
        seq: int,
        ranges: Sequence[tuple[int, int]],
        *,
        snapshot: bool,
        end: int | None = None,
        drop: bool = False,
    ) -> SavedState:
        started = time.perf_counter_ns()
        states = self._checked_states(seq)
        if drop and end and self.capabilities.truncate and end >= self._least[seq]:
            self._cut(seq, end)
        held = self._held[seq]
        snapshot = snapshot and end in (None, held)
        for start, stop in ranges:
            if not 0 <= start < stop <= held:
                raise DecodeFailed(f"sequence {seq} holds {held} tokens, not {start} to {stop}")
        if not held:
            raise DecodeFailed(f"sequence {seq} holds nothing to save")
        saved = states.save(seq, held, ranges, snapshot=snapshot)
        return msgspec.structs.replace(saved, elapsed_ns=time.perf_counter_ns() - started)

    def restore(self, seq: int, frame: Frame) -> None:
        states = self._checked_states(seq)
        if not isinstance(frame, StateFrame | WholeFrame) or frame.n > self.capabilities.n_ctx:
            raise DecodeFailed(f"a frame of another engine, or over n_ctx, for sequence {seq}")
        self._clear(seq)
        states.restore(seq, frame)
        self._held[seq] = frame.n
        # a state has the rows of the window alone, and zeros before them
        in_window = self.capabilities.family != "sliding_window" or frame.n < self._window
        self._least[seq] = 0 if in_window else frame.n

    def load_adapter(self, number: int, path: str) -> None:
        if self._closed:
            raise DecodeFailed("the engine is closed")
        self._adapters.load(number, path)

    def free_adapter(self, number: int) -> None:
        if not self._closed:
            self._adapters.free(number)

    def rebuild(self) -> None:
        if self._closed:
            raise DecodeFailed("the engine is closed")
        if self._batch is None:
            return
        self._free_context()
        self._held = [0] * len(self._held)
        self._least = [0] * len(self._least)
        self._context = self._make_context()
        self._memory = self._llama.llama_get_memory(self._context)
        if self._states is not None:
            self._states.move_to(self._context)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._readers.shut()  # nobody tokenizes with a freed vocabulary
        self._free_context()
        if self._embedder is not None:
            self._embedder.close()
        self._llama.llama_model_free(self._model)
        self._model = None

    def _free_context(self) -> None:
        self._samplers.clear()
        if self._context:
            self._adapters.context_is_over(self._context)
            self._llama.llama_free(self._context)
        self._context = self._memory = None

    # Any thread

    def abort(self, number: int) -> None:
        self._aborts.abort(number)

    def abort_embed(self, number: int) -> None:
        if self._embedder is not None:
            self._embedder.abort(number)

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> array.array[int]:
        with self._readers:
            return self._vocabulary.tokenize(
                text, add_special=add_special, parse_special=parse_special
            )

    def prepare(self, sampler: SamplerPlan, pause: Pause | None = None) -> None:
        with self._readers:
            self._words.prepare(sampler, pause)

    def check_adapter(self, path: str) -> None:
        if not self.capabilities.adapters:
            raise NotSupported("this model does not generate, so it takes no adapters")
        self._adapters.check(path)

    def detokenize(self, tokens: Sequence[int]) -> str:
        with self._readers:
            return self._vocabulary.detokenize(tokens)

    def frame(self, seq: int, n: int) -> Frame:
        return self._checked_states(seq).frame(seq, n)

    # Inside a step

    def _check(self, plan: StepPlan) -> None:
        if self._closed:
            raise DecodeFailed("the engine is closed")
        check_plan(
            plan,
            capabilities=self.capabilities,
            n_vocab=self._vocabulary.size,
            held=self._held,
            samplers=self._samplers,
            least=self._least,
            adapters=self._adapters,
            largest=bounds,
        )

    def _begin(self, begin: Begin) -> None:
        self._cut(begin.seq, begin.keep)
        self._samplers[begin.seq] = make_sampler(begin, self._words)

    def _end(self, seq: int) -> None:
        self._samplers.pop(seq, None)
        self._clear(seq)

    def _cut(self, seq: int, n: int) -> None:
        """Drop what a sequence holds behind its first `n` tokens."""
        if n == 0:
            self._clear(seq)
        elif n < self._held[seq]:
            self._llama.llama_memory_seq_rm(self._memory, seq, n, -1)
            self._held[seq] = n

    def _clear(self, seq: int) -> None:
        if self._memory is None:
            return
        self._llama.llama_memory_seq_rm(self._memory, seq, -1, -1)
        self._held[seq] = self._least[seq] = 0
        if not any(self._held):
            # as new: the next prompt lands on the same cells as in a fresh context
            self._llama.llama_memory_clear(self._memory, False)

    def _compute(self, plan: StepPlan, said: LogLines) -> tuple[StepStatus, str]:
        batch = self._batch
        if batch is None or self._context is None:
            return "failed", _NO_CONTEXT
        self._adapters.put_in_force(self._context, plan.adapters)
        padding = self._fill(batch, plan)
        code = self._llama.llama_decode(self._context, batch.native)
        for seq, pos in padding:
            self._llama.llama_memory_seq_rm(self._memory, seq, pos, -1)
        if code == 0:
            self._advance(plan)
            return "done", ""
        status = _STATUS.get(code, "failed")
        if status != "no_slot":
            self._recover(plan)
        return status, f"llama_decode returned {code}: {said.problems()}"

    def _fill(self, batch: Batch, plan: StepPlan) -> Sequence[tuple[int, int]]:
        """Fill the batch; returns where in which sequences its padding rows begin; -1: at once."""
        if plan.slices:
            self._rows = batch.fill_slices(plan.slices)
            return [(one.seq, one.pos + len(one.tokens)) for one in plan.slices if one.fill]
        if len(plan.rows) == 1 and not self.capabilities.deterministic:
            batch.fill_row(plan.rows[0])
            self._rows = {plan.rows[0].seq: 0}
            return ()
        layout = self._lay_out(plan.rows)
        self._rows = {row.seq: i for i, row in enumerate(layout.rows)}
        if self.capabilities.deterministic:
            batch.fill_rows(layout.rows)  # the output layer too shall have always as many rows
        else:
            batch.fill_rows(layout.rows, [self._rows[seq] for seq in layout.padding])
        return [(seq, self._held[seq] or -1) for seq in layout.padding]

    def _lay_out(self, rows: Sequence[Row]) -> Layout:
        if self.capabilities.deterministic:
            n = padded_rows(1 + max(row.seq for row in rows))
            return pad_to(rows, n, self._spare)
        if self._unified:
            return Layout(rows)  # one stream: the order of ids is all the same
        return pad_gaps(rows, self._spare)

    def _spare(self, seq: int) -> int | None:
        """The position of a padding row in an idle sequence, if it can take and drop one.

        What cannot be truncated takes one only where it is emptied afterwards.
        """
        held = self._held[seq]
        if held == 0 or (self.capabilities.truncate and held < self._room.cells):
            return held
        return None

    def _advance(self, plan: StepPlan) -> None:
        for one in plan.slices:
            self._held[one.seq] += len(one.tokens)
        for row in plan.rows:
            self._held[row.seq] += 1

    def _recover(self, plan: StepPlan) -> None:
        """Find out what an interrupted call left in the cells.

        Finished micro-batches stay valid in attention caches. A recurrent state that was half
        advanced cannot be rolled back, so there the sequence starts anew.
        """
        for seq in sequences(plan):
            if self.capabilities.family in ("recurrent", "hybrid"):
                self._clear(seq)
            else:
                last = self._llama.llama_memory_seq_pos_max(self._memory, seq)
                self._held[seq] = last + 1

    def _sample(self, plan: StepPlan, failures: dict[int, str]) -> tuple[Sampled, ...]:
        sampled = []
        for draw in plan.draws:
            try:
                sampled.append(self._draw(draw, self._rows.get(draw.seq, -1)))
            except Exception as error:  # whatever it is, it concerns this sequence alone
                failures[draw.seq] = str(error)
        return tuple(sampled)

    def _greedy(self, plan: StepPlan, failures: dict[int, str]) -> tuple[int, ...]:
        """The likeliest token at each of the last rows of a slice, which is alone then."""
        if plan.prefill is None or not plan.prefill.greedy:
            return ()
        end = len(plan.prefill.tokens)
        rows = [self._logits(row) for row in range(end - plan.prefill.greedy, end)]
        if not all(are_finite(logits) for logits in rows):
            failures[plan.prefill.seq] = NOT_FINITE
            return ()
        return tuple(int(logits.argmax()) for logits in rows if logits is not None)

    def _checked_states(self, seq: int) -> States | WholeStates:
        if self._states is None:
            raise NotSupported("the state of this model's sequences cannot be saved")
        if self._closed:
            raise DecodeFailed("the engine is closed")
        if self._context is None:
            raise DecodeFailed(_NO_CONTEXT)
        if not 0 <= seq < self.capabilities.n_seq_max:
            raise DecodeFailed(
                f"sequence {seq}: ids go from 0 to {self.capabilities.n_seq_max - 1}"
            )
        return self._states

    def _kept_logits(self, plan: StepPlan) -> dict[int, Buffer]:
        ends = [one.seq for one in plan.slices if one.logits]
        found = {seq: self._logits(self._rows[seq]) for seq in ends}
        return {seq: logits.copy() for seq, logits in found.items() if logits is not None}

    def _draw(self, draw: Draw, row: int) -> Sampled:
        sampler = self._samplers[draw.seq]
        given = None if draw.logits is None else np.frombuffer(draw.logits, np.float32)
        logits = self._logits(row) if given is None else given
        if logits is None or not (isinstance(sampler, GreedySampler) or are_finite(logits)):
            raise DecodeFailed(NOT_FINITE)
        free = not draw.greedy and draw.forced is None
        if given is None and free and isinstance(sampler, NativeSampler):
            token, logprobs = sampler.sample_row(self._context, row, draw.seed), None
        else:
            token, logprobs = choose(sampler, logits, draw)
        piece, end, special = self._vocabulary.sampled(token)
        return Sampled(draw.seq, token, piece, end, logprobs, sampler.mu, special)

    def _logits(self, row: int) -> Logits | None:
        return self._logit_rows.row(self._context, row)


def bounds(ids: Sequence[int]) -> tuple[int, int]:
    """Least and greatest of some ids."""
    if len(ids) == 1:
        return ids[0], ids[0]
    values = np.frombuffer(ids, np.int32) if isinstance(ids, array.array) else np.asarray(ids)
    return int(values.min()), int(values.max())
