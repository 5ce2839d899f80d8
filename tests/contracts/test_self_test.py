"""What a model's states can be trusted with is found out when it is loaded."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

import erllama
from erllama.backend.base import StateCapabilities, StepOutcome, StepPlan
from erllama.backend.fingerprint import FileHashes
from erllama.backend.llama import states as states_module
from erllama.backend.llama.engine import LlamaEngine
from erllama.backend.llama.state_blob import BadState
from erllama.backend.llama.states import StateFrame, States, WholeStates
from tests.contracts.rig import PLAIN, PROMPT, Kind, Rig, on_thread
from tests.contracts.test_engine_states import CUT, after, copy, hold
from tests.models import TINY, TINY_MAMBA2, TINY_MOE
from tests.models.cache import cached_model


@dataclass
class Steps:
    """What engines computed: rows of every slice, and which steps it is lied about."""

    slices: list[int] = field(default_factory=list)
    lie_about: int = 0


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    seen = Steps()
    real = LlamaEngine.step

    def step(self: LlamaEngine, plan: StepPlan) -> StepOutcome:
        outcome = real(self, plan)
        if plan.prefill is not None:
            seen.slices.append(len(plan.prefill.tokens))
            if len(plan.prefill.tokens) == seen.lie_about and outcome.logits:
                logits: Any = outcome.logits[plan.prefill.seq]
                logits[3] = np.nextafter(logits[3], np.float32(1e9))
        return outcome

    monkeypatch.setattr(LlamaEngine, "step", step)
    return seen


@pytest_asyncio.fixture
async def plain(lane: Any) -> AsyncIterator[Rig]:
    rig = Rig(PLAIN, lane, lane.new_owner())
    yield rig
    await rig.close()


def lose_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cutting goes wrong: the rows of a range land in the wrong order."""

    def put_rows(self: StateFrame, start: int, rows: Any, n_rows: int, n: int) -> None:
        flat = np.frombuffer(rows, np.uint8).copy()
        assert self.state.full is not None
        self.state.full.put(start, np.roll(flat, 64), n_rows, n)

    def put_snapshot(self: StateFrame, snapshot: Any) -> None:
        self.state.put_snapshot(np.roll(np.frombuffer(snapshot, np.uint8), 64))

    monkeypatch.setattr(StateFrame, "put_rows", put_rows)
    monkeypatch.setattr(StateFrame, "put_snapshot", put_snapshot)


def forbid_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """This llama.cpp lays states out in another way."""

    def learn_shape(*_: object) -> None:
        raise BadState("three streams of consciousness")

    monkeypatch.setattr(states_module, "learn_shape", learn_shape)


def state_of(engine: Any) -> StateCapabilities:
    state = engine.capabilities.state
    assert isinstance(state, StateCapabilities)
    return state


async def test_every_family_passes(llama_rig: Rig) -> None:
    state = state_of(await llama_rig.load())
    assert state.exact
    assert state.form == ""
    assert state.snapshot == (llama_rig.kind.family != "plain")


@pytest.mark.parametrize("break_it", [lose_rows, forbid_rows])
async def test_where_cut_states_go_wrong_whole_ones_are_kept(
    llama_rig: Rig, monkeypatch: pytest.MonkeyPatch, break_it: Any
) -> None:
    break_it(monkeypatch)
    engine = await llama_rig.load()
    state = state_of(engine)
    assert state.layers == ()
    assert state.snapshot
    assert "4 sequences" in state.form
    await hold(llama_rig, engine, PROMPT[:CUT])
    expected = await after(llama_rig, engine, PROMPT, CUT)
    await hold(llama_rig, engine, PROMPT[:CUT])
    await copy(llama_rig, engine, engine, CUT, to=3)
    found = await after(llama_rig, engine, PROMPT, CUT, seq=3)
    assert found[1] == expected[1]
    assert found == expected or not state.exact


async def test_where_no_state_goes_on_right_none_is_kept(
    plain: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_rows(monkeypatch)
    real = WholeStates.restore

    def restore(self: WholeStates, seq: int, frame: Any) -> None:
        frame.bytes = frame.bytes.copy()
        frame.bytes[-len(frame.bytes) // 4 :] = 0
        real(self, seq, frame)

    monkeypatch.setattr(WholeStates, "restore", restore)
    engine = await plain.load()
    assert engine.capabilities.state is None
    assert await plain.generate(engine, PROMPT)


async def test_where_the_size_of_a_slice_changes_a_bit_nothing_is_called_exact(
    llama_rig: Rig, steps: Steps
) -> None:
    steps.lie_about = 128
    state = state_of(await llama_rig.load())
    assert not state.exact
    assert state.form == ""
    assert bool(state.layers) == (llama_rig.kind.family != "recurrent")


async def test_a_state_that_goes_on_almost_alike_is_kept_but_not_called_exact(
    plain: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    restored: list[int] = []
    real_restore, real_step = States.restore, LlamaEngine.step

    def restore(self: States, seq: int, frame: Any) -> None:
        restored.append(seq)
        real_restore(self, seq, frame)

    def step(self: LlamaEngine, plan: StepPlan) -> StepOutcome:
        outcome = real_step(self, plan)
        for logits in outcome.logits.values() if restored else ():
            lie: Any = logits
            lie[3] = np.nextafter(lie[3], np.float32(1e9))
        if plan.end:
            restored.clear()
        return outcome

    monkeypatch.setattr(States, "restore", restore)
    monkeypatch.setattr(LlamaEngine, "step", step)
    state = state_of(await plain.load())
    assert state.layers
    assert not state.exact


async def test_a_part_computes_one_slice_at_most(plain: Rig, steps: Steps) -> None:
    loading = await on_thread(plain.opening)
    await on_thread(lambda: loading.load(lambda _: True))
    computed: list[int] = []
    more = True
    while more:
        steps.slices.clear()
        more = await plain.on_lane(loading.prepare)
        computed += steps.slices
        assert len(steps.slices) <= 1
    assert computed == [128, 1, 64, 64, 1]
    engine = await plain.on_lane(loading.warm_up)
    plain.engines.append(engine)
    assert state_of(engine).exact


async def test_experts_are_compared_with_as_long_a_slice_as_there_may_be(
    lane: Any, steps: Steps
) -> None:
    rig = Rig(Kind("moe", "plain", TINY_MOE), lane, lane.new_owner())
    assert state_of(await rig.load(n_ctx=1_024, n_batch=384, n_ubatch=384)).exact
    assert steps.slices == [384, 1, *[64] * 6, 1]
    await rig.close()


async def load_remembering(rig: Rig, memory: FileHashes, **context: Any) -> StateCapabilities:
    loading = await on_thread(lambda: rig.opening(**context))
    await on_thread(lambda: loading.load(lambda _: True))
    await on_thread(lambda: loading.fingerprint(memory, lambda _: True))
    engine = await rig.on_lane(loading.warm_up)
    rig.engines.append(engine)
    return state_of(engine)


async def test_what_was_found_is_remembered_beyond_the_process(
    plain: Rig, steps: Steps, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps.lie_about = 128
    assert not (await load_remembering(plain, FileHashes(str(tmp_path)))).exact
    assert steps.slices
    steps.slices.clear()
    steps.lie_about = 0
    assert not (await load_remembering(plain, FileHashes(str(tmp_path)))).exact
    assert steps.slices == []
    # another way of computing is another question
    assert (await load_remembering(plain, FileHashes(str(tmp_path)), flash_attn=False)).exact
    assert steps.slices
    steps.slices.clear()
    monkeypatch.setenv("GGML_CPU_TILED_MM", "0")
    assert (await load_remembering(plain, FileHashes(str(tmp_path)))).exact
    assert steps.slices


async def test_what_cannot_be_read_of_the_memory_is_found_out_again(
    plain: Rig, steps: Steps, tmp_path: Any
) -> None:
    memory = FileHashes(str(tmp_path))
    await load_remembering(plain, memory)
    for key in [key for key in memory._known if key.startswith("self-test")]:
        memory.remember(key, '{"sliced": "perhaps"}')
    steps.slices.clear()
    assert (await load_remembering(plain, memory)).exact
    assert steps.slices


@pytest.mark.parametrize("shape", [TINY, TINY_MAMBA2], ids=lambda shape: shape.arch)
async def test_info_says_how_a_model_is_cached_then_and_prompts_are_still_found(
    shape: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = await asyncio.to_thread(cached_model, shape)
    forbid_rows(monkeypatch)
    prompt = [random.Random(1).randrange(100, 400) for _ in range(200)]
    async with erllama.Runtime() as runtime:
        # rows are restored however long that took before, which is up to the machine's load
        model = await runtime.load_model(path, n_ctx=512, n_threads=1, restore_margin=1_000.0)
        info = model.info()
        assert info.cached_as == "snapshots"
        assert info.exact
        cold = await model.complete(prompt, max_tokens=8, temperature=0)
        await model.evict()
        again = await model.complete(prompt, max_tokens=8, temperature=0)
        longer = await model.complete([*prompt[:192], 5, 6], max_tokens=8, temperature=0)
        other = await model.complete(
            [*prompt[:192], 5, 6], max_tokens=8, temperature=0, cache_salt="other"
        )
    assert cold.cache.hit == "cold"
    assert again.cache.hit == "exact"
    assert again.tokens == cold.tokens
    assert longer.cache.read == 192
    assert longer.tokens == other.tokens


async def test_info_says_so_where_nothing_is_exact(steps: Steps) -> None:
    path = await asyncio.to_thread(cached_model, TINY)
    steps.lie_about = 128
    async with erllama.Runtime() as runtime:
        # rows are restored however long that took before, which is up to the machine's load
        model = await runtime.load_model(path, n_ctx=512, n_threads=1, restore_margin=1_000.0)
        assert model.info().cached_as == "rows"
        assert not model.info().exact
        prompt = list(range(100, 250))
        await model.complete(prompt, max_tokens=4, temperature=0)
        await model.evict()
        again = await model.complete(prompt, max_tokens=4, temperature=0)
    assert not again.cache.pure
