"""The plainest loop over llama.cpp for several sequences at once.

ctypes calls on one thread, no asyncio, no checks, no erllama; numpy fills the batch. The context
has the parameters that erllama gives it: a KV stream per sequence, batches of 512, flash attention,
one thread per core. Prompts are cut as erllama cuts them, one sequence per call; then each step
computes one row of every sequence, on ids 0 to n-1.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from llama_cpp import llama_cpp as lib

from benchmarks.child import (
    Answer,
    Config,
    Order,
    Orders,
    agent_prompts,
    random_prompt,
    stream_prompts,
)
from benchmarks.plain_loop import GRANULE, N_BATCH, exact_slices

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]


@lib.llama_log_callback  # type: ignore[misc,untyped-decorator,unused-ignore]
def _say_nothing(_level: int, _text: bytes, _data: object) -> None:
    """The log would be in the way of the child's answers."""


class Batch:
    """A `llama_batch` whose arrays are numpy's."""

    def __init__(self, rows: int) -> None:
        self.tokens, self.positions, self.sequences = (np.zeros(rows, np.int32) for _ in range(3))
        self.outputs = np.zeros(rows, np.int8)
        self._one = np.ones(rows, np.int32)
        # each row's list of sequences is one element of `sequences`
        first = self.sequences.ctypes.data
        self._lists = np.arange(first, first + 4 * rows, 4, dtype=np.uintp)
        self.native: Any = lib.llama_batch()
        for name, array in (
            ("token", self.tokens),
            ("pos", self.positions),
            ("n_seq_id", self._one),
            ("seq_id", self._lists),
            ("logits", self.outputs),
        ):
            kind = dict(lib.llama_batch._fields_)[name]
            setattr(self.native, name, ctypes.cast(array.ctypes.data, kind))


class PlainBatch:
    """One model, one context, one greedy sampler.

    Args:
        path: the GGUF file.
        n_ctx: cells of each sequence.
        n_seq: number of sequences.
        flash_attn: on or off.
        n_batch: most rows in one call.
    """

    def __init__(
        self, path: str, n_ctx: int, n_seq: int, *, flash_attn: bool = True, n_batch: int = N_BATCH
    ) -> None:
        lib.llama_log_set(_say_nothing, ctypes.c_void_p(0))
        lib.llama_backend_init()
        self._model: Any = lib.llama_model_load_from_file(
            path.encode(), lib.llama_model_default_params()
        )
        self._vocab: Any = lib.llama_model_get_vocab(self._model)
        self.n_vocab = int(lib.llama_vocab_n_tokens(self._vocab))
        params = _context_params(n_ctx * n_seq, n_seq, flash_attn, n_batch)
        self._context: Any = lib.llama_init_from_model(self._model, params)
        self._memory: Any = lib.llama_get_memory(self._context)
        self._sampler: Any = lib.llama_sampler_init_greedy()
        self._batch = Batch(n_batch)
        self._piece = ctypes.create_string_buffer(256)
        self.step([1] * n_seq, [0] * n_seq)  # the first graph is built and memory touched

    def clear(self) -> None:
        """Forget all sequences."""
        lib.llama_memory_clear(self._memory, False)

    def close(self) -> None:
        """Free the context and the model."""
        lib.llama_free(self._context)
        lib.llama_model_free(self._model)

    def copy(self, source: int, target: int) -> None:
        """Make a sequence the copy of another."""
        lib.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def drop(self, sequence: int) -> None:
        """Forget a sequence."""
        lib.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def truncate(self, sequence: int, position: int) -> None:
        """Forget a sequence's rows from `position` on."""
        lib.llama_memory_seq_rm(self._memory, sequence, position, -1)

    def prefill(self, sequence: int, prompt: Sequence[int], start: int = 0) -> int:
        """Evaluate a prompt from `start` on, cut by the exact-slicing rule; the token after it.

        Args:
            start: rows that the sequence has already, a multiple of 64.
        """
        done = start
        for size in exact_slices(len(prompt) - start):
            self.slice(sequence, prompt[done : done + size], done)
            done += size
        return self.sample(-1)

    def slice(self, sequence: int, tokens: Sequence[int], position: int) -> None:
        """Evaluate tokens of one sequence; the last one has logits."""
        self.slices([sequence], [tokens], [position])

    def slices(
        self,
        sequences: Sequence[int],
        tokens: Sequence[Sequence[int]],
        positions: Sequence[int],
        outputs: int = 1,
    ) -> None:
        """Evaluate tokens of several sequences in one call.

        Args:
            positions: of the first token of each sequence.
            outputs: how many of the last tokens of each sequence have logits.
        """
        batch, end = self._batch, 0
        for sequence, some, position in zip(sequences, tokens, positions, strict=True):
            begin, end = end, end + len(some)
            batch.tokens[begin:end] = some
            batch.positions[begin:end] = np.arange(position, position + len(some))
            batch.sequences[begin:end] = sequence
            batch.outputs[begin:end] = 0
            batch.outputs[max(begin, end - outputs) : end] = 1
        self._decode(end)

    def step(self, tokens: Sequence[int], positions: Sequence[int], *, first: int = 0) -> list[int]:
        """Evaluate one token of each sequence from `first` on; the tokens after them."""
        batch, count = self._batch, len(tokens)
        batch.tokens[:count] = tokens
        batch.positions[:count] = positions
        batch.sequences[:count] = np.arange(first, first + count)
        batch.outputs[:count] = 1
        self._decode(count)
        return [self.sample(row) for row in range(count)]

    def generate(self, first: Sequence[int], starts: Sequence[int], count: int) -> list[list[int]]:
        """Go on after the `first` token of each sequence by `count` steps."""
        texts = [[token] for token in first]
        now = list(first)
        for done in range(count):
            now = self.step(now, [start + done for start in starts])
            for text, token in zip(texts, now, strict=True):
                text.append(token)
        return texts

    def sample(self, row: int) -> int:
        """The likeliest token after a row of the last call that has logits; -1: the last one."""
        token = int(lib.llama_sampler_sample(self._sampler, self._context, row))
        lib.llama_token_to_piece(self._vocab, token, self._piece, 256, 0, False)
        return token

    def logits(self, row: int) -> Floats:
        """A copy of the logits of a row of the last call."""
        found = lib.llama_get_logits_ith(self._context, row)
        return np.ctypeslib.as_array(found, (self.n_vocab,)).copy()

    def state(self, sequence: int) -> bytes:
        """All rows of a sequence, as llama.cpp writes them."""
        size = lib.llama_state_seq_get_size(self._context, sequence)
        buffer = (ctypes.c_uint8 * size)()
        written = lib.llama_state_seq_get_data(self._context, buffer, size, sequence)
        return ctypes.string_at(buffer, written)

    def _decode(self, count: int) -> None:
        self._batch.native.n_tokens = count
        code = lib.llama_decode(self._context, self._batch.native)
        if code:
            raise RuntimeError(f"llama_decode returned {code}")


def _context_params(n_ctx: int, n_seq: int, flash_attn: bool, n_batch: int) -> Any:
    params = lib.llama_context_default_params()
    params.n_ctx = n_ctx
    params.n_batch = n_batch
    params.n_ubatch = N_BATCH
    params.n_seq_max = n_seq
    params.kv_unified = False
    params.n_threads = params.n_threads_batch = len(os.sched_getaffinity(0))
    params.flash_attn_type = int(flash_attn)
    params.no_perf = True
    return params


def side(orders: Orders, config: Config) -> None:
    """Child: does what each order names."""
    loop = PlainBatch(config["path"], config["n_ctx"], config["n_seq"])
    orders.answer({"n_vocab": loop.n_vocab})
    for order in orders:
        loop.clear()
        orders.answer(_TASKS[order["task"]](loop, order))


def _streams(loop: PlainBatch, order: Order) -> Answer:
    """`n` prompts one after the other, then steps of `n` rows."""
    prompts = stream_prompts(order, loop.n_vocab)
    started = time.perf_counter()
    first = [loop.prefill(sequence, prompt) for sequence, prompt in enumerate(prompts)]
    prefilled = time.perf_counter()
    texts = loop.generate(first, [order["prompt"]] * order["n"], order["count"] - 1)
    ended = time.perf_counter()
    return {"seconds": ended - started, "prefill": prefilled - started, "texts": texts}


def _staggered(loop: PlainBatch, order: Order) -> Answer:
    """As `_streams`, but whoever has been read generates while the others are read.

    One step after each prompt: what a bound on the pause of a running stream asks for. The last
    streams end by themselves.
    """
    prompts, texts = stream_prompts(order, loop.n_vocab), list[list[int]]()
    started = time.perf_counter()
    for sequence, prompt in enumerate(prompts):
        texts.append([loop.prefill(sequence, prompt)])
        _step_those_left(loop, texts, order)
    while len(texts[-1]) < order["count"]:
        _step_those_left(loop, texts, order)
    return {"seconds": time.perf_counter() - started, "texts": texts}


def _step_those_left(loop: PlainBatch, texts: list[list[int]], order: Order) -> None:
    """One more token for each that has not all; those that began first have them first."""
    first = sum(len(text) >= order["count"] for text in texts)
    left = texts[first:]
    positions = [order["prompt"] + len(text) - 1 for text in left]
    for text, token in zip(
        left, loop.step([text[-1] for text in left], positions, first=first), strict=True
    ):
        text.append(token)


def _agents(loop: PlainBatch, order: Order) -> Answer:
    """A prefix once, copies of it, the tails one by one, then steps of `n` rows."""
    prompts = agent_prompts(order, loop.n_vocab)
    prefix = prompts[0][: order["prefix"]]
    started = time.perf_counter()
    _prefix_of_all(loop, prefix, order["n"])
    first = [loop.prefill(agent, prompt, len(prefix)) for agent, prompt in enumerate(prompts)]
    prefilled = time.perf_counter()
    texts = loop.generate(first, [len(prompts[0])] * order["n"], order["count"] - 1)
    ended = time.perf_counter()
    return {"seconds": ended - started, "prefill": prefilled - started, "texts": texts}


def _agents_staggered(loop: PlainBatch, order: Order) -> Answer:
    """As `_agents`, but with a step after each tail, as a bound on the pause of a stream asks."""
    prompts, texts = agent_prompts(order, loop.n_vocab), list[list[int]]()
    prefix = prompts[0][: order["prefix"]]
    own = {**order, "prompt": len(prompts[0])}
    started = time.perf_counter()
    _prefix_of_all(loop, prefix, order["n"])
    for sequence, prompt in enumerate(prompts):
        texts.append([loop.prefill(sequence, prompt, len(prefix))])
        _step_those_left(loop, texts, own)
    while len(texts[-1]) < order["count"]:
        _step_those_left(loop, texts, own)
    return {"seconds": time.perf_counter() - started, "texts": texts}


def _prefix_of_all(loop: PlainBatch, prefix: Sequence[int], n: int) -> None:
    """Compute it once, on sequence 0, and copy it to the others."""
    loop.prefill(0, prefix)
    for sequence in range(1, n):
        loop.copy(0, sequence)


def _stall(loop: PlainBatch, order: Order) -> Answer:
    """A long prompt by granules, with a step of a running stream after each.

    Returns:
        steps: seconds of each whole granule and the step after it.
        tail: of what is left of the prompt, filled up to a granule as erllama does with a long
            tail behind a long prompt, and the step after it.
        alone: seconds of another prompt of that length with nothing else running.
    """
    alone, running, long = (
        random_prompt(order[length], order["seed"] + number, loop.n_vocab)
        for number, length in enumerate(("prompt", "short", "prompt"))
    )
    started = time.perf_counter()
    loop.prefill(1, alone)
    seconds = time.perf_counter() - started
    loop.drop(1)
    now = [loop.prefill(0, running)]
    steps: list[float] = []
    for position in range(0, len(long) - GRANULE + 1, GRANULE):
        started = time.perf_counter()
        loop.slice(1, long[position : position + GRANULE], position)
        now = loop.step(now, [len(running) + len(steps)])
        steps.append(time.perf_counter() - started)
    started = time.perf_counter()
    if tail := long[len(steps) * GRANULE :]:
        loop.slice(1, [*tail, *[0] * (GRANULE - len(tail))], len(steps) * GRANULE)
    loop.step(now, [len(running) + len(steps)])
    return {"steps": steps, "tail": time.perf_counter() - started, "alone": seconds}


_TASKS = {
    "streams": _streams,
    "staggered": _staggered,
    "agents": _agents,
    "agents_staggered": _agents_staggered,
    "stall": _stall,
}
