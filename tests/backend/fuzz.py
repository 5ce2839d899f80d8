"""Damaged model files, loaded one per fork. For a child."""

from __future__ import annotations

import os
import pathlib
import random
import signal
import sys

from erllama.backend.llama import LlamaBackend
from erllama.backend.llama.gguf_file import read_header
from erllama.backend.llama.library import llama
from erllama.config import ContextConfig, ModelConfig
from erllama.errors import ConfigError, ModelLoadError

CONTEXT = ContextConfig(n_ctx=64, n_threads=1, n_batch=64, n_ubatch=64)
HANGS_AFTER_S = 20
_LOADED, _REFUSED, _WRONG_ERROR = 0, 1, 2


def load_damaged(source: str, folder: str, seed: int, count: int) -> dict[str, object]:
    """Load `count` damaged copies of `source`.

    Returns:
        how many were loaded and how many refused, and for every other end the damage that did it.
    """
    llama()  # before the forks, which then need not load it
    good = pathlib.Path(source).read_bytes()
    n_header = read_header(pathlib.Path(source)).data_offset
    path = pathlib.Path(folder) / "damaged.gguf"
    numbers = random.Random(seed)
    ends = {_LOADED: 0, _REFUSED: 0}
    bad: list[str] = []
    for _ in range(count):
        damage = _choose(numbers, good, n_header)
        path.write_bytes(_damaged(good, damage))
        end = _load_in_fork(str(path))
        if end in ends:
            ends[end] += 1
        else:
            bad.append(f"{damage} ended with {end}")
    return {"loaded": ends[_LOADED], "refused": ends[_REFUSED], "bad": bad}


def _choose(numbers: random.Random, good: bytes, n_header: int) -> int | list[tuple[int, int]]:
    """A length to cut the file to, or bytes to set, as (offset, value)."""
    if numbers.random() < 0.1:
        return numbers.randrange(n_header + 2_000)
    # hyperparameters, token lists and the tensor table alike, though they differ in size
    tokens = good.find(b"tokenizer.ggml.tokens")
    last = good.rfind(b"tokenizer.ggml.", 0, n_header)
    low, high = numbers.choice([(0, tokens), (tokens, last), (last, n_header)])
    places = [numbers.randrange(low, high) for _ in range(numbers.choice([1, 1, 1, 2, 4]))]
    return [
        (at, numbers.choice([numbers.randrange(256), 0, 255, good[at] ^ 1 << numbers.randrange(8)]))
        for at in places
    ]


def _damaged(good: bytes, damage: int | list[tuple[int, int]]) -> bytes:
    if isinstance(damage, int):
        return good[:damage]
    changed = bytearray(good)
    for at, value in damage:
        changed[at] = value
    return bytes(changed)


def _load_in_fork(path: str) -> int | str:
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        for number in (signal.SIGABRT, signal.SIGSEGV, signal.SIGFPE, signal.SIGBUS):
            signal.signal(number, signal.SIG_DFL)
        signal.alarm(HANGS_AFTER_S)
        try:
            end = _load(path)
        except BaseException:
            end = _WRONG_ERROR
        sys.stdout.flush()
        os._exit(end)
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    code = os.WEXITSTATUS(status)
    return code if code in (_LOADED, _REFUSED) else "an error that is not erllama's"


def _load(path: str) -> int:
    loading = LlamaBackend().open(path, ModelConfig(), CONTEXT)
    try:
        loading.load(lambda _: True)
        engine = loading.warm_up()
    except (ModelLoadError, ConfigError):
        loading.discard()
        return _REFUSED
    tokens = engine.tokenize("Hello world", add_special=True, parse_special=True)
    engine.detokenize(tokens)
    engine.close()
    return _LOADED
