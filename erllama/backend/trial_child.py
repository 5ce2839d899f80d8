"""The child process in which schemas and expressions are tried: `python -m` this, see `trial`.

It reads requests from standard input and answers each one that it survives with a byte on standard
output. It ends with its input, which closes when the parent is gone; what it is at then ends by the
limit of processor time.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import resource
import sys
from typing import BinaryIO

import numpy as np

from erllama.backend.trial import HEADER, SURVIVED
from erllama.errors import InvalidGrammar
from erllama.sampling.chain import NothingToDraw
from erllama.sampling.guided import Guide
from erllama.sampling.plan import Grammar
from erllama.sampling.token_bytes import TokenBytes

CPU_S = 10
MEMORY_BYTES = 768 << 20
_TOKENS = 24  # that are written of what compiles


def main() -> None:
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever prints, prints no answer
    guide = Guide(TokenBytes(_pieces()))
    _limit_memory()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # to die is nothing special here
    os.write(answers, SURVIVED)  # ready
    while request := _read(sys.stdin.buffer):
        _limit_time()
        _try(guide, request)
        os.write(answers, SURVIVED)


def _try(guide: Guide, stage: Grammar) -> None:
    """Compile it and write a text; what is wrong with it is told by whoever compiles it next."""
    with contextlib.suppress(InvalidGrammar, NothingToDraw):
        constraint = guide.constraint(stage, guide.compiled(stage), [])
        draws = np.random.default_rng(0)
        for _ in range(_TOKENS):
            logits = draws.standard_normal(guide.size).astype(np.float32)
            constraint.apply(logits)
            token = int(logits.argmax())
            if logits[token] == -np.inf:
                break
            constraint.accept(token)


def _pieces() -> list[bytes]:
    """A small vocabulary: all bytes, and pairs and words of those that JSON is made of."""
    letters = 'abcdefghijklmnopqrstuvwxyz0123456789{}[]":,.- \n\\é中'
    pairs = [(one + other).encode() for one in letters for other in letters]
    return [*(bytes([byte]) for byte in range(256)), *pairs, b"true", b"false", b"null"]


def _read(stream: BinaryIO) -> Grammar | None:
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    kind, text = (
        stream.read(length).decode(errors="surrogatepass") for length in HEADER.unpack(header)
    )
    return Grammar(text, kind)  # type: ignore[arg-type]


def _limit_memory() -> None:
    """Let it have so much more address space than it has now."""
    with contextlib.suppress(OSError, ValueError):
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
        size = pages * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY_BYTES,) * 2)


def _limit_time() -> None:
    """End the process when this request takes so much more processor time."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(usage.ru_utime + usage.ru_stime) + CPU_S
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main()
