"""Any sampler chain, cut anywhere, goes on in another process as if nobody had cut it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.models.child import run_child
from tests.runtime.chains import Chain, Said, carry_on, random_chain

N_VOCAB = 2_048


def check(numbers: range, n_pieces: int, cache_dir: Path) -> None:
    """Run chains whole in one process, and in pieces, a process for each round of them."""
    chains: list[Chain] = [random_chain(number, n_pieces, N_VOCAB) for number in numbers]
    start = [Said(context=chain["prompt"], key=None) for chain in chains]
    said = start

    def in_a_process(piece: int, before: list[Said]) -> list[Said]:
        child = run_child(carry_on, str(cache_dir), chains, piece, before, timeout=300)
        found: list[Said] = child.value
        return found

    whole = in_a_process(-1, start)
    for piece in range(n_pieces):
        said = in_a_process(piece, said)
        assert all(one["key"] for one in said)
    for chain, cut, unbroken in zip(chains, said, whole, strict=True):
        assert cut["context"] == unbroken["context"], chain


def test_ten_random_chains_go_on_after_a_restart_as_if_unbroken(tmp_path: Path) -> None:
    check(range(10), 3, tmp_path)


@pytest.mark.long
def test_fifty_random_chains_go_on_after_each_of_several_restarts(tmp_path: Path) -> None:
    check(range(100, 150), 5, tmp_path)
