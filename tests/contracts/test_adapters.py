"""LoRA adapters: in force for the steps that name them, and for no others."""

from __future__ import annotations

import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from erllama.backend.base import AdapterUse, Begin, Draw, EmbedPlan, Engine, Row
from erllama.backend.lane import Lane
from erllama.errors import DecodeFailed, ModelLoadError, NotSupported
from tests.contracts.rig import GREEDY, PLAIN, PROMPT, STUB, Kind, Rig, on_thread, slice_of
from tests.models import TINY, TINY_BERT, Shape, run_child
from tests.models.lora import write_lora
from tests.models.lora_probe import logits_with_adapter

USE = AdapterUse(1, "a" * 64, 1.0)


async def made(path: Path, shape: Shape, **options: Any) -> Path:
    return await on_thread(lambda: write_lora(path, shape, **options))


async def loaded(rig: Rig, path: Path, number: int = 1, **context: Any) -> Engine:
    engine = await rig.load(**context)
    await made(path, rig.kind.shape or TINY, seed=number)
    await on_thread(lambda: engine.check_adapter(str(path)))
    await rig.on_lane(lambda: engine.load_adapter(number, str(path)))
    return engine


async def logits(
    rig: Rig, engine: Engine, tokens: Sequence[int], *uses: AdapterUse, seq: int = 0
) -> bytes:
    """The logits behind a prompt on a fresh sequence."""
    outcome = await rig.step(
        engine,
        begin=(Begin(seq, GREEDY),),
        prefill=slice_of(tokens, seq=seq),
        draws=(Draw(seq, 0),),
        keep_logits=True,
        adapters=uses,
    )
    assert outcome.status == "done", outcome.detail
    return bytes(memoryview(outcome.logits[seq]))  # type: ignore[arg-type]


async def test_an_adapter_changes_the_steps_that_name_it_and_no_others(
    rig: Rig, tmp_path: Path
) -> None:
    plain = await rig.load()
    base = await logits(rig, plain, PROMPT)
    engine = await loaded(rig, tmp_path / "a.gguf")
    assert await logits(rig, engine, PROMPT) == base
    changed = await logits(rig, engine, PROMPT, USE)
    assert changed != base
    assert await logits(rig, engine, PROMPT) == base
    assert await logits(rig, engine, PROMPT, USE) == changed


async def test_the_scale_counts(rig: Rig, tmp_path: Path) -> None:
    engine = await loaded(rig, tmp_path / "a.gguf")
    uses = [AdapterUse(1, "a" * 64, scale) for scale in (1.0, 0.5, -1.0)]
    found = [await logits(rig, engine, PROMPT, use) for use in uses]
    assert len(set(found)) == 3


async def test_decode_rows_have_the_adapters_of_their_step(rig: Rig, tmp_path: Path) -> None:
    engine = await loaded(rig, tmp_path / "a.gguf")

    async def decoded(*uses: AdapterUse) -> list[int]:
        await logits(rig, engine, PROMPT, *uses)
        tokens, token = [], 5
        for pos in range(len(PROMPT), len(PROMPT) + 6):
            outcome = await rig.step(
                engine, rows=(Row(0, pos, token),), draws=(Draw(0, 0),), adapters=uses
            )
            token = outcome.sampled[0].token
            tokens.append(token)
        return tokens

    base, changed = await decoded(), await decoded(USE)
    assert base != changed
    assert (await decoded(), await decoded(USE)) == (base, changed)


async def test_an_adapter_that_is_not_loaded_is_refused(rig: Rig, tmp_path: Path) -> None:
    engine = await loaded(rig, tmp_path / "a.gguf")
    with pytest.raises(DecodeFailed, match="adapter 7 is not loaded"):
        await logits(rig, engine, PROMPT, AdapterUse(7, "", 1.0))
    with pytest.raises(DecodeFailed, match="not finite"):
        await logits(rig, engine, PROMPT, AdapterUse(1, "", float("nan")))
    with pytest.raises(DecodeFailed, match="loaded already"):
        await rig.on_lane(lambda: engine.load_adapter(1, str(tmp_path / "a.gguf")))


async def test_a_freed_adapter_is_gone_and_the_model_as_before(rig: Rig, tmp_path: Path) -> None:
    engine = await loaded(rig, tmp_path / "a.gguf")
    base = await logits(rig, engine, PROMPT)
    await logits(rig, engine, PROMPT, USE)
    for _ in range(2):
        await rig.on_lane(lambda: engine.free_adapter(1))
    with pytest.raises(DecodeFailed, match="not loaded"):
        await logits(rig, engine, PROMPT, USE)
    assert await logits(rig, engine, PROMPT) == base


async def test_a_rebuilt_engine_still_has_its_adapters(rig: Rig, tmp_path: Path) -> None:
    engine = await loaded(rig, tmp_path / "a.gguf")
    base, changed = await logits(rig, engine, PROMPT), await logits(rig, engine, PROMPT, USE)
    await rig.on_lane(engine.rebuild)
    assert await logits(rig, engine, PROMPT, USE) == changed
    assert await logits(rig, engine, PROMPT) == base


async def test_a_closed_engine_loads_no_adapter(rig: Rig, tmp_path: Path) -> None:
    engine = await loaded(rig, tmp_path / "a.gguf")
    await rig.on_lane(engine.close)
    with pytest.raises(DecodeFailed, match="closed"):
        await rig.on_lane(lambda: engine.load_adapter(2, str(tmp_path / "a.gguf")))
    await rig.on_lane(lambda: engine.free_adapter(1))


@pytest.mark.parametrize("kind", [STUB, PLAIN], ids=lambda kind: kind.name)
async def test_several_adapters_add_up(lane: Lane, kind: Kind, tmp_path: Path) -> None:
    rig = Rig(kind, lane, lane.new_owner())
    engine = await loaded(rig, tmp_path / "a.gguf")
    other = str(await made(tmp_path / "b.gguf", TINY, seed=2))
    await rig.on_lane(lambda: engine.load_adapter(2, other))
    second = AdapterUse(2, "b" * 64, 1.0)
    found = {
        await logits(rig, engine, PROMPT, *uses) for uses in ((USE,), (second,), (USE, second))
    }
    assert len(found) == 3
    await rig.close()


async def test_the_logits_are_those_of_llama_cpp_with_the_adapter_alone(
    lane: Lane, tmp_path: Path
) -> None:
    rig = Rig(PLAIN, lane, lane.new_owner())
    engine = await loaded(rig, tmp_path / "a.gguf")
    path, tokens = str(tmp_path / "a.gguf"), PROMPT[:60]
    for scale in (1.0, -0.5):
        expected = run_child(logits_with_adapter, PLAIN.path(), path, scale, tokens).value
        found = await logits(rig, engine, tokens, AdapterUse(1, "", scale))
        assert np.allclose(array.array("f", found), expected, atol=0.02)
    await rig.close()


async def test_an_encoder_takes_no_adapters(lane: Lane, tmp_path: Path) -> None:
    rig = Rig(Kind("encoder", "encoder", TINY_BERT), lane, lane.new_owner())
    engine = await rig.load()
    path = await made(tmp_path / "a.gguf", TINY_BERT)
    assert not engine.capabilities.adapters
    with pytest.raises(NotSupported):
        engine.check_adapter(str(path))
    await rig.close()


# Files

A, B = "blk.0.attn_q.weight.lora_a", "blk.0.attn_q.weight.lora_b"


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"metadata": {"general.type": "model"}}, "general.type is 'model'"),
        ({"metadata": {"general.type": 5}}, "general.type is 5"),
        ({"metadata": {"general.type": None}}, "general.type is None"),
        ({"metadata": {"general.architecture": "gpt2"}}, "general.architecture is 'gpt2'"),
        ({"metadata": {"adapter.type": "ia3"}}, "adapter.type is 'ia3'"),
        ({"metadata": {"adapter.lora.alpha": "four"}}, "adapter.lora.alpha is no F32"),
        ({"metadata": {"adapter.lora.alpha": np.float64(4)}}, "adapter.lora.alpha is no F32"),
        ({"metadata": {"adapter.alora.invocation_tokens": [1, 2]}}, "aLoRA"),
        ({"tensors": {A: None}}, "one half"),
        ({"tensors": {B: None}}, "one half"),
        ({"tensors": {A: (64, 4)}}, "do not fit"),
        ({"tensors": {A: (128, 5)}}, "do not fit"),
        ({"tensors": {B: (4, 64)}}, "do not fit"),
        ({"tensors": {A: (128, 4, 3), B: (4, 128, 3)}}, "do not fit"),
        ({"tensors": {"blk.9.attn_q.weight.lora_a": (128, 4)}}, "one half"),
        (
            {"tensors": {"none.weight.lora_a": (128, 4), "none.weight.lora_b": (4, 128)}},
            "the model has no none.weight",
        ),
        (
            {
                "tensors": {
                    "token_embd.weight.lora_a": (4, 512),
                    "token_embd.weight.lora_b": (5, 128),
                }
            },
            "do not fit",
        ),
        ({"tensors": {"other": (4, 4)}}, "no LoRA adapter has"),
        ({"targets": ("nothing",)}, "no matrices"),
    ],
)
async def test_a_file_that_does_not_fit_is_refused(
    lane: Lane, tmp_path: Path, broken: dict[str, Any], said: str
) -> None:
    rig = Rig(PLAIN, lane, lane.new_owner())
    engine = await rig.load()
    path = str(await made(tmp_path / "bad.gguf", TINY, **broken))
    with pytest.raises((ModelLoadError, NotSupported), match=said):
        await on_thread(lambda: engine.check_adapter(path))
    await rig.close()


async def test_a_file_that_is_cut_anywhere_is_refused(lane: Lane, tmp_path: Path) -> None:
    rig = Rig(PLAIN, lane, lane.new_owner())
    engine = await rig.load()
    good = (await made(tmp_path / "good.gguf", TINY)).read_bytes()
    bad = tmp_path / "bad.gguf"
    for size in (0, 3, 30, 300, 1_000, len(good) // 2, len(good) - 40):
        bad.write_bytes(good[:size])
        with pytest.raises(ModelLoadError):
            await on_thread(lambda: engine.check_adapter(str(bad)))
    with pytest.raises(ModelLoadError, match="no such file"):
        await on_thread(lambda: engine.check_adapter(str(tmp_path / "none.gguf")))
    await rig.close()


async def test_token_embeddings_can_be_adapted(lane: Lane, tmp_path: Path) -> None:
    rig = Rig(PLAIN, lane, lane.new_owner())
    engine = await rig.load()
    tensors: dict[str, Any] = {
        "token_embd.weight.lora_a": (4, 512),
        "token_embd.weight.lora_b": (4, 128),
    }
    path = str(await made(tmp_path / "a.gguf", TINY, targets=(), tensors=tensors))
    await on_thread(lambda: engine.check_adapter(path))
    await rig.on_lane(lambda: engine.load_adapter(1, path))
    assert await logits(rig, engine, PROMPT, USE) != await logits(rig, engine, PROMPT)
    await rig.close()


async def vectors(rig: Rig, engine: Engine, number: int, *uses: AdapterUse) -> list[bytes]:
    inputs = (array.array("i", PROMPT[:20]), array.array("i", PROMPT[20:50]))
    plan = EmbedPlan(number=number, inputs=inputs, adapters=uses)
    outcome = await rig.on_lane(lambda: engine.embed(plan))
    assert outcome.status == "done", outcome.detail
    return [bytes(memoryview(vector)) for vector in outcome.vectors]  # type: ignore[arg-type]


async def test_an_adapter_changes_the_vectors_of_the_calls_that_name_it(
    rig: Rig, tmp_path: Path
) -> None:
    engine = await loaded(rig, tmp_path / "a.gguf", embeddings=True)
    base = await vectors(rig, engine, 1)
    changed = await vectors(rig, engine, 2, USE)
    assert all(one != other for one, other in zip(base, changed, strict=True))
    # a step has its own, in a context of its own
    prompt = await logits(rig, engine, PROMPT)
    assert await vectors(rig, engine, 3, USE) == changed
    assert await logits(rig, engine, PROMPT) == prompt
    assert await logits(rig, engine, PROMPT, USE) != prompt
    assert await vectors(rig, engine, 4) == base
    await vectors(rig, engine, 5, USE)
    await rig.on_lane(lambda: engine.free_adapter(1))
    with pytest.raises(DecodeFailed, match="adapter 1 is not loaded"):
        await vectors(rig, engine, 6, USE)
    assert await vectors(rig, engine, 7) == base
    assert await logits(rig, engine, PROMPT) == prompt
