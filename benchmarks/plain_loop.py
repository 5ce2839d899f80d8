"""The plainest loop over llama.cpp: what the hardware and the library give without erllama.

ctypes calls on one thread, nothing else: no asyncio, no checks, no numpy, no erllama. The context
has the parameters that erllama gives it.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

from llama_cpp import llama_cpp as lib

from benchmarks.child import Config, Orders, Rate, random_prompt

GRANULE = 64  # the exact-slicing rule's
N_BATCH = 512


@lib.llama_log_callback  # type: ignore[misc,untyped-decorator,unused-ignore]
def _say_nothing(_level: int, _text: bytes, _data: object) -> None:
    """The log would be in the way of the child's answers."""


class PlainLoop:
    """One model, one context, one sampler.

    Args:
        n_threads: that compute; None: one for each core.
    """

    def __init__(self, path: str, n_ctx: int, n_threads: int | None = None) -> None:
        lib.llama_log_set(_say_nothing, ctypes.c_void_p(0))
        lib.llama_backend_init()
        self._model: Any = lib.llama_model_load_from_file(
            path.encode(), lib.llama_model_default_params()
        )
        self._vocab: Any = lib.llama_model_get_vocab(self._model)
        self.n_vocab = int(lib.llama_vocab_n_tokens(self._vocab))
        self._context: Any = lib.llama_init_from_model(
            self._model, _context_params(n_ctx, n_threads)
        )
        self._memory: Any = lib.llama_get_memory(self._context)
        self._sampler: Any = None
        self._piece = ctypes.create_string_buffer(256)
        self._decode((ctypes.c_int32 * 1)(1), 1)  # the first graph is built and memory touched

    def choose(self, sampling: str) -> None:
        """Sample greedily, or by erllama's default chain ("default")."""
        params = lib.llama_sampler_chain_default_params()
        params.no_perf = True
        chain: Any = lib.llama_sampler_chain_init(params)
        if sampling == "greedy":
            stages = [lib.llama_sampler_init_greedy()]
        else:
            stages = [
                lib.llama_sampler_init_top_k(40),
                lib.llama_sampler_init_top_p(0.95, 1),
                lib.llama_sampler_init_min_p(0.05, 1),
                lib.llama_sampler_init_temp(0.8),
                lib.llama_sampler_init_dist(1),
            ]
        for stage in stages:
            lib.llama_sampler_chain_add(chain, stage)
        self._sampler = chain

    def first_token(self, prompt: Sequence[int], sizes: Sequence[int]) -> int:
        """Evaluate a prompt from position 0 in slices of `sizes`; the token after it."""
        lib.llama_memory_clear(self._memory, False)
        done = 0
        for size in sizes:
            slice_ = (ctypes.c_int32 * size)(*prompt[done : done + size])
            self._decode(slice_, size)
            done += size
        return self._sample()

    def generate(self, first: int, count: int, times: list[float] | None = None) -> list[int]:
        """Go on after `first` by `count` tokens, or until one ends the text.

        Args:
            times: gets the time of each token.
        """
        tokens = [first]
        times = [] if times is None else times
        for token in self.tokens(first, count):
            times.append(time.perf_counter())
            tokens.append(token)
        return tokens

    def tokens(self, first: int, count: int) -> Iterator[int]:
        """The tokens after `first`, one by one as they are drawn; the last one may end the text."""
        row = (ctypes.c_int32 * 1)(first)
        for _ in range(0 if lib.llama_vocab_is_eog(self._vocab, first) else count):
            self._decode(row, 1)
            token = self._sample()
            yield token
            if lib.llama_vocab_is_eog(self._vocab, token):
                return
            row[0] = token

    def close(self) -> None:
        """Free what was loaded."""
        lib.llama_free(self._context)
        lib.llama_model_free(self._model)

    def _sample(self) -> int:
        token = int(lib.llama_sampler_sample(self._sampler, self._context, -1))
        lib.llama_token_to_piece(self._vocab, token, self._piece, 256, 0, False)
        return token

    def _decode(self, tokens: Any, count: int) -> None:
        code = lib.llama_decode(self._context, lib.llama_batch_get_one(tokens, count))
        if code:
            raise RuntimeError(f"llama_decode returned {code}")


def exact_slices(length: int) -> list[int]:
    """Slice sizes by erllama's rule: cut at multiples of 64, the rest by itself.

    >>> exact_slices(1000)
    [512, 448, 40]
    """
    tail = length % GRANULE
    return [*batch_slices(length - tail), *([tail] if tail else [])]


def batch_slices(length: int) -> list[int]:
    """Slice sizes without the rule: as much as fits a batch.

    >>> batch_slices(1000)
    [512, 488]
    """
    return [min(N_BATCH, length - done) for done in range(0, length, N_BATCH)]


def rate_side(orders: Orders, config: Config) -> None:
    """Child: the rate of the loop's tokens after the first one."""
    loop = PlainLoop(config["path"], config["n_ctx"], config.get("n_threads"))
    orders.answer({"n_vocab": loop.n_vocab})
    for order in orders:
        loop.choose(order["sampling"])
        rate = Rate()
        while rate.tokens < order["at_least"]:
            prompt = random_prompt(order["prompt"], rate.seed(order), loop.n_vocab)
            first = loop.first_token(prompt, exact_slices(len(prompt)))
            times = [time.perf_counter()]
            text = loop.generate(first, order["count"] - 1, times)
            rate.add(text, len(text) - 1, times)
        orders.answer(rate.answer())


def first_token_side(orders: Orders, config: Config) -> None:
    """Child: the time to the first token, prompts cut by the rule (side "exact") or not."""
    loop = PlainLoop(config["path"], config["n_ctx"])
    loop.choose("greedy")
    cut = exact_slices if config["side"] == "exact" else batch_slices
    orders.answer({"n_vocab": loop.n_vocab})
    for order in orders:
        prompt = random_prompt(order["prompt"], order["seed"], loop.n_vocab)
        started = time.perf_counter()
        first = loop.first_token(prompt, cut(len(prompt)))
        seconds = time.perf_counter() - started
        # as with erllama, the text goes on for a few tokens
        loop.generate(first, order["count"] - 1)
        orders.answer({"seconds": seconds, "first": first})


def _context_params(n_ctx: int, n_threads: int | None) -> Any:
    params = lib.llama_context_default_params()
    params.n_ctx = n_ctx
    params.n_batch = params.n_ubatch = N_BATCH
    params.n_seq_max = 1
    params.n_threads = params.n_threads_batch = n_threads or len(os.sched_getaffinity(0))
    params.flash_attn_type = -1  # LLAMA_FLASH_ATTN_TYPE_AUTO
    params.no_perf = True
    return params
