"""Inputs to vectors, beside sequences that do not notice."""

from __future__ import annotations

import array
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from erllama.backend.base import Begin, EmbedCapabilities, EmbedOutcome, EmbedPlan, Engine, Prefill
from erllama.backend.lane import Lane
from erllama.config import Pooling
from erllama.errors import ConfigError, DecodeFailed, NotSupported
from tests.contracts.rig import GREEDY, KINDS, PLAIN, PROMPT, STUB, Kind, Rig, slice_of
from tests.models import TINY_BERT, TINY_RERANKER, Shape, cached_model, run_child
from tests.models.embedding_probe import embed_alone, pooled_by_numpy
from tests.models.shapes import Bert

ENCODER = Kind("encoder", "encoder", TINY_BERT)
INPUTS = [[3 + (7 * i + 11 * n) % 89 for i in range(20 + n)] for n in range(3)]
CLOSE = 1e-2
"""Numbers computed in company, or in other slices, differ in their last bits (F16 weights)."""

_numbers = itertools.count(1)


async def embed(rig: Rig, engine: Engine, inputs: Sequence[Sequence[int]], **plan: Any) -> Any:
    """The vectors of some inputs, in one call."""
    outcome = await call(rig, engine, inputs, **plan)
    assert outcome.status == "done", outcome.detail
    return [np.frombuffer(vector, np.float32) for vector in outcome.vectors]


async def call(
    rig: Rig, engine: Engine, inputs: Sequence[Sequence[int]], **plan: Any
) -> EmbedOutcome:
    flat = tuple(array.array("i", tokens) for tokens in inputs)
    made = EmbedPlan(number=plan.pop("number", None) or next(_numbers), inputs=flat, **plan)
    return await rig.on_lane(lambda: engine.embed(made))


def can_embed(engine: Engine) -> EmbedCapabilities:
    assert engine.capabilities.embed is not None
    return engine.capabilities.embed


def rig_of(kind: Kind, lane: Lane) -> Rig:
    return Rig(kind, lane, lane.new_owner())


@pytest.fixture(params=(*KINDS, ENCODER), ids=lambda kind: kind.name)
def any_rig(request: pytest.FixtureRequest, lane: Lane) -> Rig:
    return rig_of(request.param, lane)


async def test_each_input_has_a_vector_and_alike_ones_have_the_same(any_rig: Rig) -> None:
    engine = await any_rig.load(embeddings=True)
    one, two, again = await embed(any_rig, engine, [INPUTS[0], INPUTS[1], INPUTS[0]])
    assert len(one) == can_embed(engine).n_out
    assert np.isfinite(one).all()
    assert np.allclose(one, again, atol=CLOSE)
    assert not np.allclose(one, two, atol=3 * CLOSE)
    await any_rig.close()


async def test_a_call_leaves_nothing_behind(any_rig: Rig) -> None:
    engine = await any_rig.load(embeddings=True)
    (before,) = await embed(any_rig, engine, INPUTS[:1])
    await embed(any_rig, engine, INPUTS)
    (after,) = await embed(any_rig, engine, INPUTS[:1])
    assert before.tobytes() == after.tobytes()
    await any_rig.close()


async def test_an_input_in_parts_has_the_vector_of_the_whole(rig: Rig) -> None:
    engine = await rig.load(embeddings=True, n_ubatch=192)
    tokens = PROMPT[:128]
    (whole,) = await embed(rig, engine, [tokens])
    assert await embed(rig, engine, [tokens[:64]], more=True) == []
    (cut,) = await embed(rig, engine, [tokens[64:]], pos=64)
    assert np.allclose(whole, cut, atol=CLOSE)
    (other,) = await embed(rig, engine, [tokens[64:]])
    assert not np.allclose(whole, other, atol=3 * CLOSE)


async def test_what_was_begun_is_forgotten_with_the_next_input(rig: Rig) -> None:
    engine = await rig.load(embeddings=True)
    await embed(rig, engine, [PROMPT[:64]], more=True)
    await embed(rig, engine, INPUTS[:1])
    with pytest.raises(DecodeFailed, match="cannot be at 64"):
        await call(rig, engine, [PROMPT[64:128]], pos=64)


async def test_sequences_do_not_notice_what_is_embedded_between_their_steps(rig: Rig) -> None:
    engine = await rig.load(embeddings=True)
    expected = await rig.generate(engine, PROMPT, 8)
    first = await rig.prefill(engine, PROMPT, seq=1)
    await embed(rig, engine, INPUTS)
    rest = await rig.go_on(engine, first.token, len(PROMPT), 3, seq=1)
    await embed(rig, engine, [PROMPT[:64]], more=True)
    rest += await rig.go_on(engine, rest[-1], len(PROMPT) + 3, 4, seq=1)
    assert [first.token, *rest] == expected


async def test_logits_are_bit_equal_with_and_without_a_context_that_embeds(rig: Rig) -> None:
    logits = []
    for embeddings in (False, True):
        engine = await rig.load(embeddings=embeddings)
        if embeddings:
            await embed(rig, engine, INPUTS)
        outcome = await rig.step(
            engine, begin=(Begin(0, GREEDY),), prefill=slice_of(PROMPT), keep_logits=True
        )
        logits.append(bytes(memoryview(outcome.logits[0])))  # type: ignore[arg-type]
    assert logits[0] == logits[1]


@pytest.mark.parametrize(
    ("inputs", "plan", "said"),
    [
        ([], {}, "0 inputs"),
        ([[1]] * 5, {}, "5 inputs"),
        ([[]], {}, "no tokens"),
        ([[-1]], {}, "outside the vocabulary"),
        ([[1, 100_000]], {}, "outside the vocabulary"),
        ([[1] * 65], {}, "65 rows"),
        ([[1] * 33, [2] * 32], {}, "65 rows"),
        ([[1]], {"pos": 7}, "part"),
        ([[1], [2]], {"more": True}, "part"),
    ],
)
async def test_a_plan_that_breaks_a_rule_is_refused_and_harms_nothing(
    any_rig: Rig, inputs: list[list[int]], plan: dict[str, Any], said: str
) -> None:
    engine = await any_rig.load(embeddings=True)
    with pytest.raises(DecodeFailed, match=said):
        await call(any_rig, engine, inputs, **plan)
    assert len(await embed(any_rig, engine, INPUTS[:1])) == 1
    await any_rig.close()


async def test_an_input_over_the_context_is_refused_at_the_part_that_exceeds_it(rig: Rig) -> None:
    engine = await rig.load(embeddings=True)
    can = can_embed(engine)
    for pos in range(0, can.n_input, 64):
        await embed(rig, engine, [[5] * 64], pos=pos, more=True)
    with pytest.raises(DecodeFailed, match=f"{can.n_input} are possible"):
        await call(rig, engine, [[5]], pos=can.n_input)


async def test_an_engine_without_the_option_cannot_embed(rig: Rig) -> None:
    engine = await rig.load()
    assert engine.capabilities.embed is None
    with pytest.raises(NotSupported, match="embeddings=True"):
        await call(rig, engine, INPUTS)
    engine.abort_embed(3)


async def test_a_call_that_was_aborted_before_it_began_computes_nothing(any_rig: Rig) -> None:
    engine = await any_rig.load(embeddings=True)
    number = next(_numbers)
    assert can_embed(engine).abort
    engine.abort_embed(number)
    outcome = await call(any_rig, engine, INPUTS, number=number)
    assert (outcome.status, outcome.vectors) == ("aborted", ())
    assert len(await embed(any_rig, engine, INPUTS)) == 3
    await any_rig.close()


async def test_a_closed_engine_does_not_embed(any_rig: Rig) -> None:
    engine = await any_rig.load(embeddings=True)
    await any_rig.on_lane(engine.close)
    with pytest.raises(DecodeFailed, match="closed"):
        await call(any_rig, engine, INPUTS)
    await any_rig.close()


async def test_a_rebuilt_engine_embeds_as_before(any_rig: Rig) -> None:
    engine = await any_rig.load(embeddings=True)
    before = await embed(any_rig, engine, INPUTS)
    await any_rig.on_lane(engine.rebuild)
    after = await embed(any_rig, engine, INPUTS)
    assert [v.tobytes() for v in before] == [v.tobytes() for v in after]
    await any_rig.close()


async def test_a_deterministic_context_embeds_one_input_at_a_time(lane: Lane) -> None:
    for kind in (STUB, PLAIN):
        rig = rig_of(kind, lane)
        engine = await rig.load(embeddings=True, deterministic=True)
        assert can_embed(engine).n_inputs == 1
        await rig.close()


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("kind", [PLAIN, ENCODER], ids=lambda kind: kind.name)
async def test_vectors_are_those_of_the_tokens_pooled_by_numpy(
    lane: Lane, kind: Kind, pooling: Pooling
) -> None:
    rig = rig_of(kind, lane)
    engine = await rig.load(pooling=pooling, embeddings=True, n_ubatch=128)
    inputs = [*INPUTS, PROMPT[:60]]
    expected = run_child(pooled_by_numpy, kind.path(), inputs, pooling).value
    for batch in ([0, 1, 2], [3]):
        found = await embed(rig, engine, [inputs[i] for i in batch])
        assert np.allclose(found[0], expected[batch[0]], atol=CLOSE)
        assert np.allclose(found[-1], expected[batch[-1]], atol=CLOSE)
    await rig.close()


async def test_the_mean_of_an_input_in_parts_is_that_of_all_its_tokens(lane: Lane) -> None:
    rig = rig_of(PLAIN, lane)
    for pooling in ("mean", "cls", "last"):
        engine = await rig.load(pooling=pooling, embeddings=True)
        (expected,) = run_child(pooled_by_numpy, PLAIN.path(), [PROMPT], pooling).value
        for pos in (0, 64):
            await embed(rig, engine, [PROMPT[pos : pos + 64]], pos=pos, more=True)
        (found,) = await embed(rig, engine, [PROMPT[128:]], pos=128)
        assert np.allclose(found, expected, atol=CLOSE)
    await rig.close()


@pytest.mark.parametrize(
    ("shape", "asked", "expected"),
    [
        (Bert(pooling="mean"), None, "mean"),
        (Bert(pooling="cls"), None, "cls"),
        (Bert(pooling="none"), None, "last"),
        (Bert(pooling="mean"), "none", "last"),
        (Bert(pooling="mean"), "cls", "cls"),
        (Bert(pooling="rank"), None, "last"),
        (TINY_RERANKER, None, "rank"),
    ],
)
async def test_a_file_says_how_to_pool_unless_the_caller_does(
    lane: Lane, shape: Shape, asked: Pooling | None, expected: Pooling
) -> None:
    rig = rig_of(Kind("encoder", "encoder", shape), lane)
    engine = await rig.load(pooling=asked)
    assert can_embed(engine).pooling == expected
    await rig.close()


async def test_a_classifier_scores_each_input(lane: Lane) -> None:
    rig = rig_of(Kind("reranker", "encoder", TINY_RERANKER), lane)
    engine = await rig.load()
    expected = run_child(embed_alone, str(cached_model(TINY_RERANKER)), INPUTS, 4).value
    found = await embed(rig, engine, INPUTS)
    assert np.allclose(found, expected, atol=CLOSE)
    assert len({round(float(score[0]), 4) for score in found}) == len(INPUTS)
    await rig.close()


@pytest.mark.parametrize("kind", [PLAIN, ENCODER], ids=lambda kind: kind.name)
async def test_scores_without_a_classifier_are_refused(lane: Lane, kind: Kind) -> None:
    rig = rig_of(kind, lane)
    with pytest.raises(ConfigError, match="classifier"):
        await rig.load(embeddings=True, pooling="rank")
    await rig.close()


async def test_an_encoder_generates_nothing_and_takes_no_input_that_it_has_no_positions_for(
    lane: Lane,
) -> None:
    rig = rig_of(Kind("short", "encoder", Bert(n_ctx_train=40)), lane)
    engine = await rig.load(n_ctx=None)
    assert not engine.capabilities.generate
    assert can_embed(engine).n_input == 40
    with pytest.raises(DecodeFailed, match="40 are possible"):
        await call(rig, engine, [[5] * 41])
    with pytest.raises(DecodeFailed, match="cannot generate"):
        await rig.step(engine, prefill=Prefill(0, 0, array.array("i", [5]), logits=True))
    await rig.close()
