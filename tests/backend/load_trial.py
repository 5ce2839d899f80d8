"""Loads with some options, and a little use of what was loaded. For a child.

Each trial runs in a fork of a process that never computed, so that one that dies or hangs is known
by its options, and the others go on.
"""

from __future__ import annotations

import array
import itertools
import os
import resource
import signal
import traceback
from collections.abc import Sequence
from typing import Any

import numpy as np

from erllama.backend.base import Begin, Draw, EmbedPlan, Engine, Prefill, Row, StepPlan
from erllama.backend.llama import LlamaBackend
from erllama.backend.llama.library import llama
from erllama.config import GRANULE, ContextConfig, ModelConfig
from erllama.errors import ConfigError, ErllamaError
from erllama.sampling import SamplingParams, plan_sampler
from tests.backend.load_options import SMALL, Options

GREEDY = plan_sampler(SamplingParams(temperature=0))
HANGS_AFTER_S = 240  # 512 threads on two cores that others want too take minutes
MOST_BYTES = 4 << 30
_MODEL_OPTIONS = frozenset(ModelConfig.__struct_fields__)


class Memory:
    """A fingerprint memory that knows nothing."""

    def recall(self, key: str) -> str | None:
        return None

    def remember(self, key: str, fingerprint: str) -> None:
        pass


def run_trials(trials: Sequence[tuple[str, Options]]) -> list[str]:
    """How each trial ended: a path with the options to load it with.

    Returns:
        for each "works"; "refused: " and erllama's error; or anything else, which is a fault.
    """
    llama()  # before the forks, which then need not load it
    return [_in_fork(path, options) for path, options in trials]


def _in_fork(path: str, options: Options) -> str:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        resource.setrlimit(resource.RLIMIT_DATA, (MOST_BYTES, MOST_BYTES))
        for number in (signal.SIGABRT, signal.SIGSEGV, signal.SIGFPE, signal.SIGBUS, signal.SIGILL):
            signal.signal(number, signal.SIG_DFL)
        signal.alarm(HANGS_AFTER_S)
        os.write(writer, _described(path, options).encode()[:4_000])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode("utf-8", "replace")
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        ended_by = signal.Signals(os.WTERMSIG(status))
        return "hangs" if ended_by == signal.SIGALRM else ended_by.name
    return said or f"exit status {os.WEXITSTATUS(status)}"


def _described(path: str, options: Options) -> str:
    try:
        return _trial(path, options)
    except BaseException:
        return "raised: " + traceback.format_exc()[-1_500:]


def _trial(path: str, options: Options) -> str:
    given = SMALL | options
    try:
        model = ModelConfig(**{k: v for k, v in given.items() if k in _MODEL_OPTIONS})
        context = ContextConfig(**{k: v for k, v in given.items() if k not in _MODEL_OPTIONS})
    except ConfigError as error:
        return f"refused: {error!r}"
    loading = LlamaBackend().open(path, model, context)
    try:
        loading.fingerprint(Memory(), lambda _: True)
        loading.load(lambda _: True)
        engine = loading.warm_up()
    except ErllamaError as error:
        loading.discard()
        return f"refused: {error!r}"
    use(engine)
    engine.close()
    return "works"


def use(engine: Engine) -> None:
    """Everything that the engine says it can, once, at the limits that it gives itself."""
    numbers = itertools.count(1)
    tokens = engine.tokenize("Hello world", add_special=True, parse_special=True)
    engine.detokenize(tokens)
    if engine.capabilities.generate:
        for n in (70, engine.capabilities.n_batch):
            _generate(engine, min(n, 600), numbers)
        _keep_and_go_on(engine, numbers)
        _fill_up(engine, numbers)
    if engine.capabilities.embed is not None:
        _embed(engine, numbers)


def _ids(n: int) -> array.array[int]:
    return array.array("i", [7 + 5 * i % 89 for i in range(n)])


def _step(engine: Engine, numbers: Any, **parts: Any) -> Any:
    outcome = engine.step(StepPlan(number=next(numbers), **parts))
    assert outcome.status == "done", (outcome.status, outcome.detail)
    assert not outcome.failures, outcome.failures
    return outcome


def _prompt(engine: Engine, seq: int, n: int, numbers: Any) -> None:
    """A prompt of `n` tokens on a sequence, cut as the scheduler would cut it."""
    longest = max(GRANULE, engine.capabilities.n_batch // GRANULE * GRANULE)
    _step(engine, numbers, begin=(Begin(seq, GREEDY),))
    for at in range(0, n, longest):
        part = _ids(n)[at : at + longest]
        draws = (Draw(seq, 0),) if at + len(part) == n else ()
        prefill = Prefill(seq, at, part, logits=bool(draws))
        _step(engine, numbers, slices=(prefill,), draws=draws)


def _generate(engine: Engine, n: int, numbers: Any) -> None:
    """A prompt on the first and on the last sequence, and a decode row of every sequence."""
    can = engine.capabilities
    n = min(n, can.n_ctx - 1)
    last = can.n_seq_max - 1
    for seq in {0, last}:
        _prompt(engine, seq, n, numbers)
    others = range(1, last)
    if others:
        _step(engine, numbers, begin=tuple(Begin(seq, GREEDY) for seq in others))
    at = dict.fromkeys(others, 0) | {0: n, last: n}
    rows = tuple(Row(seq, at[seq], 5) for seq in sorted(at))[: can.n_batch]
    _step(engine, numbers, rows=rows, draws=tuple(Draw(row.seq, 0) for row in rows))
    _step(engine, numbers, end=tuple(range(can.n_seq_max)))


def _keep_and_go_on(engine: Engine, numbers: Any) -> None:
    """A state taken out of the first sequence, put into the last one, and used there."""
    state = engine.capabilities.state
    if state is None:
        return
    last = engine.capabilities.n_seq_max - 1
    n = min(GRANULE, engine.capabilities.n_ctx - 2)
    _prompt(engine, 0, n, numbers)
    ranges = [(0, n)] if state.layers else []
    saved = engine.save(0, ranges, snapshot=state.snapshot)
    frame = engine.frame(last, n)
    for rows in saved.rows:
        frame.put_rows(0, rows, n, n)
    if saved.snapshot is not None:
        frame.put_snapshot(saved.snapshot)
    engine.restore(last, frame)
    begin = (Begin(last, GREEDY, keep=n),)
    _step(engine, numbers, begin=begin, rows=(Row(last, n, 5),), draws=(Draw(last, 0),))
    _step(engine, numbers, end=(0, last) if last else (0,))


def _fill_up(engine: Engine, numbers: Any) -> None:
    """Two contexts full to the last token, where that is quick."""
    can = engine.capabilities
    if can.n_ctx > 1_024:
        return
    for seq in {0, can.n_seq_max - 1}:
        _prompt(engine, seq, can.n_ctx, numbers)
    _step(engine, numbers, end=tuple(range(can.n_seq_max)))


def _embed(engine: Engine, numbers: Any) -> None:
    can = engine.capabilities.embed
    assert can is not None
    longest = min(can.n_input, can.n_rows, 1_100)
    several = [_ids(1) for _ in range(min(can.n_inputs, can.n_rows))]
    even = [_ids(max(1, min(longest, can.n_rows // len(several))))] * len(several)
    for inputs in ([_ids(1)], [_ids(longest)], several, even):
        outcome = engine.embed(EmbedPlan(number=next(numbers), inputs=tuple(inputs)))
        assert outcome.status == "done", (outcome.status, outcome.detail)
        assert len(outcome.vectors) == len(inputs)
        for vector in outcome.vectors:
            assert np.isfinite(np.frombuffer(vector, np.float32)).all()
