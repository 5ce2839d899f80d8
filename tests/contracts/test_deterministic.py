"""`deterministic=True`: the numbers of a request are a function of its tokens, in any company."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from erllama.backend.base import Begin, Engine
from erllama.backend.lane import Lane
from erllama.backend.llama import company
from erllama.backend.llama.engine import LlamaEngine
from erllama.config import ContextConfig
from erllama.errors import ConfigError
from tests.contracts.mix import Mixer, random_parts
from tests.contracts.rig import GREEDY, PLAIN, PROMPT, Kind, Rig, on_thread, slice_of
from tests.models import TINY_BERT, TINY_COHERE2, TINY_GEMMA3, TINY_MOE, WIDE, Shape
from tests.models.cache import AnyQuant

CONTEXT: dict[str, Any] = {"n_ctx": 512, "n_batch": 256, "n_ubatch": 128}
WIDE_KIND = Kind("wide", "plain", WIDE)


def differing(engine: Engine, seed: int, n: int) -> list[int]:
    """Which of `n` random requests got other logits in company than alone. On the lane."""
    assert isinstance(engine, LlamaEngine)
    rng = random.Random(seed)
    mixer = Mixer(engine, itertools.count(1 + 100_000 * seed))
    parts = random_parts(rng, n, engine.info.n_vocab, longest=200)
    expected = [mixer.alone(part) for part in parts]
    mixed = mixer.mixed(parts, rng)
    return [i for i in range(n) if mixed[i] != expected[i]]


async def check(
    lane: Lane, shape: Shape, quant: AnyQuant, rounds: int, **options: Any
) -> list[list[int]]:
    """For each round the requests that company changed."""
    rig = Rig(Kind("any", "plain", shape), lane, lane.new_owner())
    engine = await rig.load(quant, **(CONTEXT | options))
    try:
        return [
            await rig.on_lane(lambda seed=seed: differing(engine, seed, 7))  # type: ignore[misc]
            for seed in range(rounds)
        ]
    finally:
        await rig.close()


@pytest.mark.parametrize("flash_attn", [True, False], ids=["flash", "no_flash"])
@pytest.mark.parametrize("quant", ["F16", "Q8_0", "Q4_0", "Q4_K_M"])
async def test_company_changes_no_bit(lane: Lane, quant: AnyQuant, flash_attn: bool) -> None:
    found = await check(
        lane, WIDE, quant, 3, flash_attn=flash_attn, n_seq_max=5, deterministic=True
    )
    assert found == [[]] * 3


@pytest.mark.parametrize("shape", [TINY_COHERE2, TINY_GEMMA3], ids=lambda shape: shape.arch)
async def test_company_changes_no_bit_of_a_sliding_window(lane: Lane, shape: Shape) -> None:
    found = await check(lane, shape, "F16", 1, n_seq_max=5, deterministic=True)
    assert found == [[]]


async def test_without_it_company_does_change_bits(lane: Lane) -> None:
    """Were this to pass everywhere, these tests would show nothing."""
    found = await check(lane, WIDE, "F16", 2, flash_attn=True, n_seq_max=5)
    assert any(found)


@pytest.mark.long
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("quant", ["F32", "BF16", "F16", "Q8_0", "Q4_0", "Q4_K_M", "Q6_K"])
@pytest.mark.parametrize(
    "shape", [WIDE, TINY_COHERE2, TINY_GEMMA3, TINY_MOE], ids=lambda shape: shape.arch
)
async def test_company_changes_no_bit_in_many_mixes(
    lane: Lane, shape: Shape, quant: AnyQuant
) -> None:
    for flash_attn, n_threads, n_seq_max in itertools.product(
        (True, False), (1, 2), (1, 7, 13, 20)
    ):
        options = {"flash_attn": flash_attn, "n_threads": n_threads, "n_seq_max": n_seq_max}
        found = await check(lane, shape, quant, 3, deterministic=True, **options)
        assert found == [[]] * 3, options


async def test_a_full_idle_sequence_still_takes_its_padding(lane: Lane) -> None:
    rig = Rig(PLAIN, lane, lane.new_owner())
    engine = await rig.load(deterministic=True)
    tokens = (PROMPT * 2)[:256]
    await rig.step(engine, begin=(Begin(1, GREEDY),))
    for pos in (0, 128):
        await rig.step(engine, prefill=slice_of(tokens[pos : pos + 128], seq=1, pos=pos))
    expected = await rig.on_lane(lambda: engine.save(1, [(0, 256)], snapshot=False))
    await rig.generate(engine, PROMPT, 5)
    held = await rig.on_lane(lambda: engine.save(1, [(0, 256)], snapshot=False))
    assert bytes(held.rows[0]) == bytes(expected.rows[0])
    await rig.close()


async def test_the_sequences_that_only_pad_are_no_capability_but_memory(lane: Lane) -> None:
    rig = Rig(PLAIN, lane, lane.new_owner())
    plain = await rig.load(n_seq_max=3, n_ctx=256)
    engine = await rig.load(n_seq_max=3, n_ctx=256, deterministic=True)
    assert engine.capabilities.deterministic
    assert not plain.capabilities.deterministic
    assert (engine.capabilities.n_seq_max, engine.capabilities.n_ctx) == (3, 256)
    assert (plain.info.n_seq_allocated, plain.info.n_ctx_allocated) == (3, 256)
    assert (engine.info.n_seq_allocated, engine.info.n_ctx_allocated) == (8, 512)
    assert plain.info.kv_bytes is not None
    assert engine.info.kv_bytes == plain.info.kv_bytes // 3 * 8 * 2
    await rig.close()


async def test_models_that_cannot_take_padding_back_are_refused(llama_rig: Rig) -> None:
    loading = llama_rig.opening(deterministic=True)
    await on_thread(llama_rig.kind.path)
    if llama_rig.kind.family in ("plain", "sliding_window"):
        await on_thread(lambda: loading.load(lambda _: True))
        assert (await llama_rig.on_lane(loading.warm_up)).capabilities.deterministic
        return
    with pytest.raises(ConfigError, match=r"ContextConfig\.deterministic: .* set it to False"):
        await on_thread(lambda: loading.load(lambda _: True))
    await llama_rig.on_lane(loading.discard)


@pytest.mark.parametrize(
    ("shape", "options", "remedy"),
    [(TINY_BERT, {}, "set it to False"), (TINY_COHERE2, {"swa_full": False}, "swa_full to True")],
    ids=["encoder", "window"],
)
async def test_a_refusal_names_the_remedy(
    lane: Lane, shape: Shape, options: dict[str, Any], remedy: str
) -> None:
    rig = Rig(Kind("refused", "plain", shape), lane, lane.new_owner())
    await on_thread(rig.kind.path)
    loading = rig.opening(deterministic=True, **options)
    with pytest.raises(ConfigError, match=rf"ContextConfig\.deterministic: .*{remedy}"):
        await on_thread(lambda: loading.load(lambda _: True))
    await rig.on_lane(loading.discard)


async def test_a_machine_whose_kernels_do_not_keep_it_is_found_at_load(
    lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(WIDE_KIND, lane, lane.new_owner())
    await on_thread(rig.kind.path)
    loading = rig.opening(deterministic=True, flash_attn=False)
    await on_thread(lambda: loading.load(lambda _: True))
    monkeypatch.setattr(company, "_sizes", lambda _: [1, 8])  # a lone row is computed otherwise
    with pytest.raises(ConfigError, match=r"ContextConfig\.deterministic: decode rows"):
        await rig.on_lane(loading.warm_up)
    await rig.on_lane(loading.discard)


def test_the_shared_buffer_and_determinism_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="set kv_unified to False"):
        ContextConfig(deterministic=True, kv_unified=True)
