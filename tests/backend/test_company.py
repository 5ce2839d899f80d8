"""The trial that finds kernels whose rows depend on each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from erllama.backend.llama import company

KERNELS: dict[str, Callable[[int, Sequence[int]], object]] = {
    "the number of rows": lambda row, tokens: (tokens[row], len(tokens)),
    "more than twelve rows": lambda row, tokens: (tokens[row], len(tokens) > 12),
    "the place in the call": lambda row, tokens: (tokens[row], row % 8),
    "rows that visit the same expert": lambda row, tokens: tokens.count(tokens[row]),
}


def try_out(
    monkeypatch: pytest.MonkeyPatch, kernel: Callable[[int, Sequence[int]], object]
) -> bool:
    def compute(_context: object, tokens: Sequence[int], _n_vocab: int) -> list[bytes]:
        return [repr(kernel(row, tokens)).encode() for row in range(len(tokens))]

    monkeypatch.setattr(company, "_logits", compute)
    return company.rows_keep_apart(None, 16, 512)


@pytest.mark.parametrize("name", KERNELS)
def test_rows_that_depend_on_company_are_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not try_out(monkeypatch, KERNELS[name])


def test_rows_that_depend_on_their_token_alone_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    assert try_out(monkeypatch, lambda row, tokens: tokens[row])
