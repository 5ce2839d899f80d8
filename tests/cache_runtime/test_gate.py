"""The cost gate after a read that took long: it shuts, and opens again."""

from __future__ import annotations

from erllama.cache.policy import CachePolicy, Cost, worth_restoring
from erllama.cache.shared_view import CacheView
from tests.model.staging import Stage

MEGABYTE = 1 << 20


def worth(view: CacheView) -> bool:
    """A row of a megabyte in memory, that takes a tenth of a second to compute."""
    cost = Cost(MEGABYTE, view.bytes_per_s["ram"])
    return worth_restoring(CachePolicy(), 100, [cost], prefill_tokens_per_s=1_000.0)


def test_a_tier_that_was_read_slowly_is_tried_again_after_a_while() -> None:
    view = CacheView()
    view.note_read("ram", MEGABYTE, 1.0)  # ten times too slow
    refused = 0
    while not worth(view):
        refused += 1
        assert refused < 100
        view.note_not_read("ram")
    assert refused == 11
    view.note_read("ram", MEGABYTE, 0.0001)
    assert worth(view)
    view.note_read("ram", MEGABYTE, 1.0)
    assert worth(view), "one slow read among fast ones is nothing"


def test_what_was_never_measured_stays_unknown() -> None:
    view = CacheView()
    view.note_not_read("disk")
    assert view.bytes_per_s["disk"] == 0.0


async def test_a_model_comes_back_to_a_tier_that_seemed_too_slow() -> None:
    stage = Stage(row_ns=1_000_000)
    async with stage.runtime() as runtime:
        model = await runtime.load_model("stub.gguf")
        prompt = [i % 250 for i in range(300)]
        answer = await model.complete(prompt, max_tokens=4, temperature=0)
        await model.evict()
        runtime.view.bytes_per_s["ram"] = 1_000.0  # the rows of 300 tokens take over a second
        hits: list[str] = []
        while "exact" not in hits:
            assert len(hits) < 50
            again = await model.complete(prompt, max_tokens=4, temperature=0)
            assert again.tokens == answer.tokens
            hits.append(again.cache.hit)
        assert hits == ["cold"] * (len(hits) - 1) + ["exact"]
        assert len(hits) > 2
