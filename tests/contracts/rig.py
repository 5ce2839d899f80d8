"""An engine on the lane, and the few words that the contract tests need to drive it."""

from __future__ import annotations

import array
import asyncio
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from erllama.backend.base import (
    Backend,
    Begin,
    Draw,
    Engine,
    Family,
    Loading,
    Prefill,
    Row,
    Sampled,
    StepOutcome,
    StepPlan,
)
from erllama.backend.lane import Lane
from erllama.backend.llama import LlamaBackend
from erllama.backend.stub import StubBackend
from erllama.config import ContextConfig, ModelConfig
from erllama.sampling import SamplerPlan, SamplingParams, plan_sampler
from tests.models import TINY, TINY_COHERE2, TINY_FALCON_H1, TINY_LFM2, TINY_MAMBA2, Shape
from tests.models.cache import AnyQuant, cached_model

T = TypeVar("T")

GREEDY = plan_sampler(SamplingParams(temperature=0))
RANDOM = plan_sampler(SamplingParams(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0))
PROMPT = [7 + 5 * i % 89 for i in range(150)]
"""Tokens that both vocabularies have, more than two granules of them."""


@dataclass(frozen=True)
class Kind:
    """A kind of engine; `shape` is None for the stub."""

    name: str
    family: Family
    shape: Shape | None

    def backend(self) -> Backend:
        return StubBackend() if self.shape is None else LlamaBackend()

    def path(self, quant: AnyQuant = "F16") -> str:
        return "stub" if self.shape is None else str(cached_model(self.shape, quant))


class AbleStub(Kind):
    """A stub whose slices may share a step and have padding."""

    def backend(self) -> Backend:
        return StubBackend(joint=True, fills=True)


STUB = Kind("stub", "plain", None)
ABLE_STUB = AbleStub("stub", "plain", None)
PLAIN = Kind("plain", "plain", TINY)
LLAMAS = (
    PLAIN,
    Kind("sliding_window", "sliding_window", TINY_COHERE2),
    Kind("recurrent", "recurrent", TINY_MAMBA2),
    Kind("hybrid", "hybrid", TINY_FALCON_H1),
    Kind("hybrid_convolution", "hybrid", TINY_LFM2),
)
KINDS = (STUB, *LLAMAS)


def small_context(**options: Any) -> ContextConfig:
    """Four sequences of 256 tokens; one thread, as two would wait for each other on a busy host."""
    defaults: dict[str, Any] = {
        "n_ctx": 256,
        "n_seq_max": 4,
        "n_batch": 192,
        "n_ubatch": 64,
        "n_threads": 1,
    }
    return ContextConfig(**(defaults | options))


async def on_thread(work: Callable[[], T]) -> T:
    """Load on a thread that is neither the loop's nor the lane's."""
    return await asyncio.get_running_loop().run_in_executor(None, work)


@dataclass
class Rig:
    """Opens engines of one kind and steps them."""

    kind: Kind
    lane: Lane
    owner: int
    engines: list[Engine] = field(default_factory=list)
    numbers: Any = field(default_factory=lambda: itertools.count(1))

    def opening(self, quant: AnyQuant = "F16", **context: Any) -> Loading:
        return self.kind.backend().open(
            self.kind.path(quant), ModelConfig(), small_context(**context)
        )

    async def load(self, quant: AnyQuant = "F16", **context: Any) -> Engine:
        # the first time the model is written, and the native library imported
        loading = await on_thread(lambda: self.opening(quant, **context))
        await on_thread(lambda: loading.load(lambda _: True))
        engine = await self.on_lane(loading.warm_up)
        self.engines.append(engine)
        return engine

    async def on_lane(self, work: Callable[[], T]) -> T:
        return await self.lane.submit(self.owner, work)

    async def step(self, engine: Engine, **parts: Any) -> StepOutcome:
        if "prefill" in parts:  # most tests have one slice
            parts["slices"] = (parts.pop("prefill"),)
        plan = StepPlan(number=parts.pop("number", None) or next(self.numbers), **parts)
        return await self.on_lane(lambda: engine.step(plan))

    async def prefill(
        self,
        engine: Engine,
        tokens: Sequence[int],
        *,
        seq: int = 0,
        sampler: SamplerPlan = GREEDY,
        seed: int = 0,
    ) -> Sampled:
        """A prompt on a fresh sequence, in one slice; returns the token drawn after it."""
        outcome = await self.step(
            engine,
            begin=(Begin(seq, sampler),),
            prefill=slice_of(tokens, seq=seq),
            draws=(Draw(seq, seed),),
        )
        assert outcome.status == "done", outcome.detail
        return outcome.sampled[0]

    async def go_on(
        self, engine: Engine, token: int, pos: int, n: int, *, seq: int = 0, seed: int = 0
    ) -> list[int]:
        """`n` more tokens, each from its predecessor; the seed of a draw is `seed` + position."""
        tokens = []
        for at in range(pos, pos + n):
            outcome = await self.step(
                engine, rows=(Row(seq, at, token),), draws=(Draw(seq, seed + at),)
            )
            assert outcome.status == "done", outcome.detail
            token = outcome.sampled[0].token
            tokens.append(token)
        return tokens

    async def generate(
        self,
        engine: Engine,
        tokens: Sequence[int],
        n: int = 8,
        *,
        seq: int = 0,
        sampler: SamplerPlan = GREEDY,
        seed: int = 0,
    ) -> list[int]:
        """A prompt and its continuation of `n` tokens."""
        first = await self.prefill(engine, tokens, seq=seq, sampler=sampler, seed=seed)
        rest = await self.go_on(engine, first.token, len(tokens), n - 1, seq=seq, seed=seed)
        return [first.token, *rest]

    async def close(self) -> None:
        for engine in self.engines:
            await self.on_lane(engine.close)
        self.lane.forget(self.owner)


def slice_of(tokens: Sequence[int], *, seq: int = 0, pos: int = 0, logits: bool = True) -> Prefill:
    """A prefill slice."""
    return Prefill(seq, pos, array.array("i", tokens), logits)


def token_slice(tokens: Sequence[int], *, seq: int = 0, pos: int = 0, greedy: int = 0) -> Prefill:
    """A prefill slice that nothing is drawn from."""
    return Prefill(seq, pos, array.array("i", tokens), logits=False, greedy=greedy)
