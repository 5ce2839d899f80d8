"""What kills a process through ctypes, bare; and what erllama says to the same. For a child.

Each bare call runs in a fork of the child, so that one interpreter start serves them all.
"""

from __future__ import annotations

import array
import ctypes
import os
import signal
from collections.abc import Callable
from typing import Any

import msgspec

from erllama.backend.base import Begin, Draw, Prefill, Row, StepPlan
from erllama.backend.llama import LlamaBackend
from erllama.backend.llama.library import llama
from erllama.config import ContextConfig, ModelConfig
from erllama.errors import ErllamaError
from erllama.sampling import SamplingParams, plan_sampler

CONTEXT = ContextConfig(n_ctx=256, n_seq_max=2, n_batch=64, n_ubatch=64, n_threads=1)
GREEDY = plan_sampler(SamplingParams(temperature=0))


def in_forks(bare: dict[str, Callable[[], object]]) -> dict[str, str]:
    """How each call ended: the name of a signal, or "lived"."""
    return {name: _in_fork(call) for name, call in bare.items()}


def _in_fork(call: Callable[[], object]) -> str:
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        for number in (signal.SIGABRT, signal.SIGSEGV):
            signal.signal(number, signal.SIG_DFL)
        call()
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else "lived"


def bare_calls(path: str) -> dict[str, str]:
    """The bare calls on a plain model."""
    lib = llama()
    model = lib.llama_model_load_from_file(path.encode(), lib.llama_model_default_params())
    vocab = lib.llama_model_get_vocab(model)
    buffer = ctypes.create_string_buffer(64)
    bad_ids = (ctypes.c_int32 * 1)(1_000_000)

    def context(n_seq_max: int = 2) -> Any:
        parameters = lib.llama_context_default_params()
        parameters.n_ctx, parameters.n_batch, parameters.n_ubatch = 256, 64, 64
        parameters.n_seq_max, parameters.n_threads = n_seq_max, 1
        return lib.llama_init_from_model(model, parameters)

    def decode(n: int) -> Any:
        tokens = (ctypes.c_int32 * n)(*([5] * n))
        made = context()
        lib.llama_decode(made, lib.llama_batch_get_one(tokens, n))
        return made

    def sample_without_logits() -> None:
        lib.llama_sampler_sample(lib.llama_sampler_init_greedy(), decode(4), 0)

    def seq_rm(seq: int) -> None:
        lib.llama_memory_seq_rm(lib.llama_get_memory(context()), seq, -1, -1)

    return in_forks(
        {
            "token_to_piece with a bad id": lambda: lib.llama_token_to_piece(
                vocab, 1_000_000, buffer, 64, 0, True
            ),
            "detokenize with a bad id": lambda: lib.llama_detokenize(
                vocab, bad_ids, 1, buffer, 64, False, True
            ),
            "more rows than n_batch": lambda: decode(65),
            "sampling without logits": sample_without_logits,
            "sequence id out of range": lambda: seq_rm(2),
            "more sequences than rows": lambda: context(n_seq_max=65),
        }
    )


def guarded_calls(path: str) -> dict[str, str]:
    """What erllama says to the same, all in one process that lives on."""
    engine = _engine(path)
    tokens = array.array("i", [5] * 65)
    prompt = Prefill(0, 0, tokens[:4], True)
    unasked = Prefill(0, 0, tokens[:4], False)
    begin = (Begin(0, GREEDY),)

    def step(**parts: Any) -> Callable[[], object]:
        return lambda: engine.step(StepPlan(number=1, **parts))

    calls: dict[str, Callable[[], object]] = {
        "detokenize with a bad id": lambda: engine.detokenize([1_000_000]),
        "a prompt with a bad id": step(rows=(Row(0, 0, 1_000_000),)),
        "more rows than n_batch": step(slices=(Prefill(0, 0, tokens, True),)),
        "sampling without logits": step(begin=begin, slices=(unasked,), draws=(Draw(0, 0),)),
        "sequence id out of range": step(end=(2,)),
        "position gap": step(rows=(Row(0, 7, 5),)),
    }
    said = {name: _error(call) for name, call in calls.items()}
    lives = engine.step(StepPlan(number=2, begin=begin, slices=(prompt,), draws=(Draw(0, 0),)))
    said["afterwards"] = lives.status
    engine.close()
    return said


def beyond_n_ctx(path: str) -> dict[str, str]:
    """A recurrent model past its context: bare, and through erllama."""
    engine = _engine(path)
    piece = array.array("i", [5] * 64)
    for pos in range(0, 256, 64):
        engine.step(StepPlan(number=1, slices=(Prefill(0, pos, piece, False),)))
    refused = _error(lambda: engine.step(StepPlan(number=2, rows=(Row(0, 256, 5),))))
    engine.capabilities = msgspec.structs.replace(engine.capabilities, n_ctx=1_000)  # no guard
    bare = engine.step(StepPlan(number=3, rows=(Row(0, 256, 5),))).status
    return {"guarded": refused, "bare": bare}


def load_and_draw(path: str) -> str:
    """Load a file through erllama and draw a token; what came of it."""
    try:
        engine = _engine(path)
    except ErllamaError as error:
        return f"{type(error).__name__}: {error}"
    prompt = Prefill(0, 0, array.array("i", [5] * 4), True)
    plan = StepPlan(number=1, begin=(Begin(0, GREEDY),), slices=(prompt,), draws=(Draw(0, 0),))
    try:
        outcome = engine.step(plan)
    except ErllamaError as error:
        return f"{type(error).__name__}: {error}"
    finally:
        engine.close()
    return f"{outcome.status}: {outcome.failures}"


def load_all(paths: list[str]) -> list[tuple[str, str]]:
    """For each file: how llama.cpp alone ended, and what erllama says, all in one process."""
    ends = [_load_bare(path) for path in paths]  # first, as a fork must not inherit a computation
    return list(zip(ends, [load_and_draw(path) for path in paths], strict=True))


def _load_bare(path: str) -> str:
    lib = llama()

    def load() -> None:
        model = lib.llama_model_load_from_file(path.encode(), lib.llama_model_default_params())
        if not model:
            return
        parameters = lib.llama_context_default_params()
        parameters.n_ctx, parameters.n_threads = 64, 1
        context = lib.llama_init_from_model(model, parameters)
        token = (ctypes.c_int32 * 1)(5)
        lib.llama_decode(context, lib.llama_batch_get_one(token, 1))
        sampler = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        lib.llama_sampler_chain_add(sampler, lib.llama_sampler_init_dist(1))
        lib.llama_sampler_sample(sampler, context, -1)

    return _in_fork(load)


def _engine(path: str) -> Any:
    loading = LlamaBackend().open(path, ModelConfig(), CONTEXT)
    try:
        loading.load(lambda _: True)
        return loading.warm_up()
    except ErllamaError:
        loading.discard()
        raise


def _error(call: Callable[[], object]) -> str:
    try:
        return f"nothing: {call()!r}"
    except ErllamaError as error:
        return type(error).__name__
