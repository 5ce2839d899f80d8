"""A runtime whose engines are watched, and the few words that the tests need for it."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import erllama
from erllama import Completion, Model, Runtime
from erllama.backend.base import Family
from erllama.config import ContextConfig
from tests.cache_exact.spy import Record, SpyBackend, record_name
from tests.models import (
    TINY,
    TINY_COHERE2,
    TINY_FALCON_H1,
    TINY_GEMMA3,
    TINY_LFM2,
    TINY_MAMBA2,
    Shape,
)
from tests.models.cache import AnyQuant, cached_model

N_CTX = 1_024
GREEDY: dict[str, Any] = {"temperature": 0}
SAMPLED: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 77}


@dataclass(frozen=True)
class Case:
    """A model and how it computes. `shape` is None for the bundled one."""

    name: str
    family: Family
    shape: Shape | None
    quant: AnyQuant = "F16"
    flash_attn: bool = True

    @property
    def path(self) -> Path:
        return (
            erllama.bundled_model() if self.shape is None else cached_model(self.shape, self.quant)
        )


PLAIN = (
    Case("bundled", "plain", None),
    Case("bundled-no-flash", "plain", None, flash_attn=False),
    Case("q8_0", "plain", TINY, "Q8_0"),
    Case("q8_0-no-flash", "plain", TINY, "Q8_0", flash_attn=False),
    Case("f16", "plain", TINY),
    Case("f16-no-flash", "plain", TINY, flash_attn=False),
)
CUT_AT_SNAPSHOTS = (
    Case("cohere2", "sliding_window", TINY_COHERE2),
    Case("cohere2-no-flash", "sliding_window", TINY_COHERE2, flash_attn=False),
    Case("gemma3", "sliding_window", TINY_GEMMA3),
    Case("mamba2", "recurrent", TINY_MAMBA2),
    Case("falcon-h1", "hybrid", TINY_FALCON_H1),
    Case("falcon-h1-no-flash", "hybrid", TINY_FALCON_H1, flash_attn=False),
    Case("lfm2", "hybrid", TINY_LFM2),
)
CASES = (*PLAIN, *CUT_AT_SNAPSHOTS)
FEW = (PLAIN[0], PLAIN[2], PLAIN[3], CUT_AT_SNAPSHOTS[0], *CUT_AT_SNAPSHOTS[3:5])


@dataclass
class Answer:
    """A completion, and what the engine did for it."""

    completion: Completion
    record: Record

    @property
    def tokens(self) -> list[int]:
        return list(self.completion.tokens)

    @property
    def key(self) -> str:
        key = self.completion.finish_key
        assert key is not None
        return key

    @property
    def context(self) -> list[int]:
        return list(self.completion.context_tokens)


class Seat:
    """A loaded model of one case.

    Args:
        options: of the context.
    """

    def __init__(self, room: Room, case: Case, model: Model, context: ContextConfig) -> None:
        self._room = room
        self.case = case
        self.model = model
        self._name = record_name(str(case.path), context)

    @property
    def record(self) -> Record:
        """What the engine has done so far."""
        return self._room.spy.record(self._name)

    async def ask(
        self, prompt: Sequence[int], n: int = 8, *, settle: bool = True, **options: Any
    ) -> Answer:
        """Complete a prompt by `n` tokens, greedily unless told otherwise.

        Unless told not to, waits until what it leaves is in the cache.
        """
        self._room.spy.take(self._name)
        chosen = options if "temperature" in options else {**GREEDY, **options}
        completion = await self.model.complete(prompt, max_tokens=n, **chosen)
        assert len(completion.tokens) == n
        if settle:
            await self.model.evict()
        return Answer(completion, self._room.spy.take(self._name))

    async def cold(self, prompt: Sequence[int], n: int = 8, **options: Any) -> Answer:
        """The same with nothing in the cache: of a salt that nobody had before."""
        self._room.salts += 1
        answer = await self.ask(prompt, n, cache_salt=f"cold {self._room.salts}", **options)
        assert answer.completion.cache.read == 0
        assert not answer.record.restored
        return answer

    def prompt(self, length: int, seed: object = 0) -> list[int]:
        """Random token ids, none of them special."""
        source = random.Random(f"{length} {seed}")
        n_vocab = self.model.info().n_vocab
        return [source.randrange(n_vocab // 4, n_vocab * 7 // 8) for _ in range(length)]


class Room:
    """A runtime whose engines are watched."""

    def __init__(self, runtime: Runtime, spy: SpyBackend) -> None:
        self.runtime = runtime
        self.spy = spy
        self.salts = 0

    async def load(self, case: Case, **options: Any) -> Seat:
        """Load the model of a case; `options` are those of `load_model`."""
        await asyncio.to_thread(lambda: case.path)  # the first time it is written
        context: dict[str, Any] = {"n_ctx": N_CTX, "n_threads": 1, "n_batch": 512, "n_ubatch": 512}
        for name in ContextConfig.__struct_fields__:
            if name in options:
                context[name] = options.pop(name)
        config = ContextConfig(**{"flash_attn": case.flash_attn, **context})
        # rows are restored however long that took before, which is up to the machine's load
        options.setdefault("restore_margin", 1_000.0)
        model_id = options.pop("model_id", f"{case.name} {config.n_ctx} {config.n_batch}")
        model = await self.runtime.load_model(
            case.path, model_id=model_id, context=config, **options
        )
        return Seat(self, case, model, config)


@contextlib.asynccontextmanager
async def room(**options: Any) -> AsyncIterator[Room]:
    """A room; `options` are those of `Runtime`."""
    spy = SpyBackend()
    async with Runtime(backend=lambda: spy, **options) as runtime:
        yield Room(runtime, spy)
