"""A backend that passes everything on to llama.cpp and keeps what its engines computed.

What it keeps are the logits that every token was drawn from, bit for bit: two runs that differ in
the last bit of one number nearly always draw the same tokens.
"""

from __future__ import annotations

import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

import msgspec
import numpy as np

from erllama.backend.base import (
    Capabilities,
    EmbedOutcome,
    EmbedPlan,
    Engine,
    EngineInfo,
    FingerprintMemory,
    Frame,
    Loading,
    Progress,
    SavedState,
    StepOutcome,
    StepPlan,
)
from erllama.backend.llama import LlamaBackend
from erllama.backend.llama.engine import LlamaEngine
from erllama.config import ContextConfig, ModelConfig
from erllama.sampling import SamplerPlan

T = TypeVar("T")
BeforeStep: TypeAlias = Callable[[StepPlan], object]


@dataclass
class Record:
    """What one model's engines did since the last look.

    Attributes:
        logits: for each token that was drawn, what it was drawn from.
        slices: of prompts: first token and how many.
        decoded: decode rows.
        restored: lengths of the states that were put back.
        saved: for each save, the ranges of tokens, and whether there was a snapshot.
    """

    logits: list[bytes] = field(default_factory=list)
    slices: list[tuple[int, int]] = field(default_factory=list)
    decoded: int = 0
    restored: list[int] = field(default_factory=list)
    saved: list[tuple[tuple[tuple[int, int], ...], bool]] = field(default_factory=list)


class SpyBackend:
    """See the module.

    Attributes:
        records: by the `n_batch` and `n_ctx` of the engine's context and the file's name.
        before_step: called on the lane before each step; may raise, to play a failing engine.
        in_step: called on the lane once a step has begun: an abort from now on interrupts it.
    """

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.before_step: BeforeStep = lambda _: None
        self.in_step: BeforeStep = lambda _: None

    def open(self, path: str, model: ModelConfig, context: ContextConfig) -> Loading:
        return SpyLoading(self, path, LlamaBackend().open(path, model, context), context)

    def record(self, name: str) -> Record:
        """What is kept under a name."""
        return self.records.setdefault(name, Record())

    def take(self, name: str) -> Record:
        """What is kept under a name, which begins anew."""
        return self.records.pop(name, Record())


def record_name(path: str, context: ContextConfig) -> str:
    """The name that an engine's record has."""
    return f"{path}/{context.n_ctx}/{context.n_batch}/{context.n_ubatch}/{context.flash_attn}"


class SpyLoading:
    """See `erllama.backend.base.Loading`."""

    def __init__(
        self, spy: SpyBackend, path: str, loading: Loading, context: ContextConfig
    ) -> None:
        self._spy = spy
        self._name = record_name(path, context)
        self._loading = loading

    def fingerprint(self, memory: FingerprintMemory, progress: Progress) -> str:
        return self._loading.fingerprint(memory, progress)

    def load(self, progress: Progress) -> None:
        self._loading.load(progress)

    def prepare(self) -> bool:
        return self._loading.prepare()

    def warm_up(self) -> Engine:
        engine = self._loading.warm_up()
        assert isinstance(engine, LlamaEngine)
        return SpyEngine(self._spy, self._name, engine)

    def discard(self) -> None:
        self._loading.discard()


class SpyEngine:
    """See `erllama.backend.base.Engine`. No generation ends by itself."""

    def __init__(self, spy: SpyBackend, name: str, engine: LlamaEngine) -> None:
        self._spy = spy
        self._name = name
        self._engine = engine
        self._plan: StepPlan | None = None
        self._enter = engine._aborts.enter
        engine._aborts.enter = self._entered  # type: ignore[method-assign]

    def _entered(self, number: int) -> bool:
        found = self._enter(number)
        assert self._plan is not None
        self._spy.in_step(self._plan)
        return found

    @property
    def capabilities(self) -> Capabilities:
        return self._engine.capabilities

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    def step(self, plan: StepPlan) -> StepOutcome:
        self._spy.before_step(plan)
        self._plan = plan
        outcome = self._engine.step(plan)
        self._keep(self._spy.record(self._name), plan, outcome)
        going_on = tuple(msgspec.structs.replace(one, end=False) for one in outcome.sampled)
        return msgspec.structs.replace(outcome, sampled=going_on)

    def _keep(self, record: Record, plan: StepPlan, outcome: StepOutcome) -> None:
        record.slices += [(one.pos, len(one.tokens)) for one in plan.slices]
        record.decoded += len(plan.rows)
        for draw in plan.draws if outcome.status == "done" else ():
            if draw.logits is not None:
                record.logits.append(bytes(draw.logits))
            else:
                found = self._engine._logits(self._engine._rows[draw.seq])
                assert found is not None
                record.logits.append(np.asarray(found).tobytes())

    def abort(self, number: int) -> None:
        self._engine.abort(number)

    def embed(self, plan: EmbedPlan) -> EmbedOutcome:
        return self._engine.embed(plan)

    def abort_embed(self, number: int) -> None:
        self._engine.abort_embed(number)

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> array.array[int]:
        return self._engine.tokenize(text, add_special=add_special, parse_special=parse_special)

    def detokenize(self, tokens: Sequence[int]) -> str:
        return self._engine.detokenize(tokens)

    def save(
        self,
        seq: int,
        ranges: Sequence[tuple[int, int]],
        *,
        snapshot: bool,
        end: int | None = None,
        drop: bool = False,
    ) -> SavedState:
        saved = self._engine.save(seq, ranges, snapshot=snapshot, end=end, drop=drop)
        self._spy.record(self._name).saved.append((tuple(ranges), snapshot))
        return saved

    def frame(self, seq: int, n: int) -> Frame:
        return self._engine.frame(seq, n)

    def restore(self, seq: int, frame: Frame) -> None:
        self._engine.restore(seq, frame)
        self._spy.record(self._name).restored.append(self._engine._held[seq])

    def prepare(self, sampler: SamplerPlan, pause: Callable[[], object] | None = None) -> None:
        self._engine.prepare(sampler, pause)

    def check_adapter(self, path: str) -> None:
        self._engine.check_adapter(path)

    def load_adapter(self, number: int, path: str) -> None:
        self._engine.load_adapter(number, path)

    def free_adapter(self, number: int) -> None:
        self._engine.free_adapter(number)

    def rebuild(self) -> None:
        self._engine.rebuild()

    def close(self) -> None:
        self._engine.close()
