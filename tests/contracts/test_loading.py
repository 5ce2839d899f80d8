"""From a path to an engine, and back."""

from __future__ import annotations

import pytest

from erllama.errors import EngineError, ModelLoadError
from tests.contracts.rig import PROMPT, Rig, on_thread


async def test_progress_rises_from_zero_to_one(rig: Rig) -> None:
    loading = await on_thread(rig.opening)  # the first time the native library is imported
    shares: list[float] = []

    def note(share: float) -> bool:
        shares.append(share)
        return True

    await on_thread(lambda: loading.load(note))
    assert shares == sorted(shares)
    assert 0 <= shares[0] <= 0.5
    assert shares[-1] == 1.0
    await rig.on_lane(loading.discard)


async def test_loading_gives_up_when_progress_says_so(rig: Rig) -> None:
    loading = rig.opening()
    with pytest.raises(ModelLoadError, match="given up") as refused:
        await on_thread(lambda: loading.load(lambda share: share < 0.3))
    assert rig.kind.path() in str(refused.value)
    await rig.on_lane(loading.discard)


async def test_progress_is_not_asked_again_after_it_gave_up(rig: Rig) -> None:
    loading = rig.opening()
    asked: list[float] = []

    def refuse(share: float) -> bool:
        asked.append(share)
        return False

    with pytest.raises(ModelLoadError, match="given up"):
        await on_thread(lambda: loading.load(refuse))
    assert len(asked) == 1


async def test_an_engine_loads_after_another_loading_was_given_up(rig: Rig) -> None:
    loading = rig.opening()
    with pytest.raises(ModelLoadError):
        await on_thread(lambda: loading.load(lambda _: False))
    engine = await rig.load()
    assert (await rig.prefill(engine, PROMPT)).token >= 0


async def test_discarding_twice_is_harmless(rig: Rig) -> None:
    loading = rig.opening()
    await on_thread(lambda: loading.load(lambda _: True))
    await rig.on_lane(loading.discard)
    await rig.on_lane(loading.discard)


async def test_discarding_before_loading_is_harmless(rig: Rig) -> None:
    await rig.on_lane(rig.opening().discard)


async def test_discarding_after_the_warm_up_leaves_the_engine_alone(rig: Rig) -> None:
    loading = rig.opening()
    await on_thread(lambda: loading.load(lambda _: True))
    engine = await rig.on_lane(loading.warm_up)
    await rig.on_lane(loading.discard)
    assert len(await rig.generate(engine, PROMPT, 3)) == 3
    await rig.on_lane(engine.close)


async def test_the_capabilities_are_those_that_were_asked_for(rig: Rig) -> None:
    engine = await rig.load()
    can = engine.capabilities
    assert can.generate
    assert can.abort
    assert (can.n_seq_max, can.n_ctx, can.n_batch) == (4, 256, 192)
    assert can.granule == 64
    assert can.family == rig.kind.family


async def test_the_info_fits_the_capabilities_and_the_configuration(rig: Rig) -> None:
    engine = await rig.load()
    info = engine.info
    assert info.architecture == ("stub" if rig.kind.shape is None else rig.kind.shape.arch)
    assert info.n_vocab >= 256
    assert info.n_ubatch == 64
    assert info.n_threads == 1
    assert (info.type_k, info.type_v) == ("f16", "f16")
    assert info.backend
    if rig.kind.shape is not None:
        assert info.n_layer == rig.kind.shape.n_layer
        assert info.n_embd == rig.kind.shape.n_embd
        assert info.n_vocab == rig.kind.shape.n_vocab
        assert info.n_ctx_train == rig.kind.shape.n_ctx_train
        assert info.n_params > 10_000
        assert info.size > info.n_params


async def test_closing_twice_is_harmless(rig: Rig) -> None:
    engine = await rig.load()
    await rig.on_lane(engine.close)
    await rig.on_lane(engine.close)


async def test_a_closed_engine_neither_steps_nor_tokenizes(rig: Rig) -> None:
    engine = await rig.load()
    await rig.on_lane(engine.close)
    with pytest.raises(EngineError):
        await rig.prefill(engine, PROMPT)
    with pytest.raises(EngineError, match="unloaded"):
        engine.tokenize("text", add_special=True, parse_special=True)
    with pytest.raises(EngineError, match="unloaded"):
        engine.detokenize([1])


async def test_an_abort_of_a_closed_engine_is_harmless(rig: Rig) -> None:
    engine = await rig.load()
    await rig.on_lane(engine.close)
    engine.abort(1)
