from __future__ import annotations

import array
import hashlib
import struct
import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama.cache.key import (
    FORMAT,
    AdapterId,
    block_key,
    chain,
    chain_key,
    namespace,
    token_bytes,
    token_ids,
)

from .support import LAYOUT, ROOT

ids = st.lists(st.integers(0, 2**31 - 1), max_size=40)


def make(**changes: object) -> bytes:
    given_: dict[str, object] = {
        "fingerprint": "abc",
        "layout": LAYOUT,
        "adapters": [AdapterId("aa", 1.0)],
        "salt": "s",
    }
    return namespace(**(given_ | changes))  # type: ignore[arg-type]


def test_a_key_is_sha256_of_the_parent_and_the_tokens_as_little_endian_u32() -> None:
    expected = hashlib.sha256(ROOT + struct.pack("<3I", 1, 2, 2**31 - 1)).digest()
    assert block_key(ROOT, token_bytes(array.array("i", [1, 2, 2**31 - 1]))) == expected


def test_tokens_have_the_same_bytes_on_a_big_endian_host(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = array.array("i", [1, 70_000])
    there = tokens[:]
    there.byteswap()  # what the same ids look like in the memory of such a host
    monkeypatch.setattr(sys, "byteorder", "big")
    assert token_bytes(there) == struct.pack("<2I", 1, 70_000)
    assert token_ids(struct.pack("<2I", 1, 70_000)) == there
    assert there[0] == 1 << 24, "the caller's array was changed"


def test_only_arrays_of_32_bit_integers_are_taken() -> None:
    for wrong in (array.array("h", [1]), array.array("q", [1]), array.array("f", [1.0])):
        with pytest.raises(ValueError, match="32-bit integers"):
            token_bytes(wrong)  # type: ignore[arg-type]


@given(ids)
def test_tokens_come_back_from_their_bytes(tokens: list[int]) -> None:
    flat = array.array("i", tokens)
    assert token_ids(token_bytes(flat)) == flat


def test_a_chain_hashes_each_block_with_the_key_before_it() -> None:
    tokens = token_bytes(array.array("i", range(10)))
    first = block_key(ROOT, tokens[:16])
    second = block_key(first, tokens[16:32])
    third = block_key(second, tokens[32:])
    assert list(chain(ROOT, tokens, 4)) == [
        (ROOT, tokens[:16], first),
        (first, tokens[16:32], second),
        (second, tokens[32:], third),
    ]
    assert chain_key(ROOT, range(10), 4) == third
    assert chain_key(ROOT, []) == ROOT


@given(ids, ids)
def test_other_tokens_have_another_key(one: list[int], other: list[int]) -> None:
    assert (chain_key(ROOT, one, 8) == chain_key(ROOT, other, 8)) == (one == other)


def test_the_same_tokens_in_other_blocks_are_another_chain() -> None:
    assert chain_key(ROOT, range(10), 4) != chain_key(ROOT, range(10), 5)


def test_every_part_of_the_identity_changes_the_namespace() -> None:
    others = [
        make(),
        make(fingerprint="abd"),
        make(salt="t"),
        make(salt=""),
        make(adapters=[]),
        make(adapters=[AdapterId("ab", 1.0)]),
        make(adapters=[AdapterId("aa", 0.5)]),
        make(adapters=[AdapterId("aa", 1.0), AdapterId("aa", 1.0)]),
        make(version=FORMAT + 1),
        make(layout=msgspec.structs.replace(LAYOUT, flash_attn=False)),
    ]
    assert len(set(others)) == len(others)
    assert all(len(other) == 32 for other in others)


def test_text_cannot_move_from_one_part_into_the_next() -> None:
    assert make(fingerprint="ab", salt="c") != make(fingerprint="a", salt="bc")
    assert make(fingerprint="", salt="abc") != make(fingerprint="abc", salt="")
    # the very bytes of "one adapter, x, of scale 0", then of "no adapters"
    spelled_out = "\x01\0\0\0x\0\0\0\0"
    one = make(salt="", adapters=[AdapterId("x", 0.0)])
    assert one != make(salt=spelled_out, adapters=[])


def test_the_order_of_adapters_and_the_type_of_a_scale_do_not_count() -> None:
    one, two = AdapterId("aa", 1.0), AdapterId("bb", 2.0)
    assert make(adapters=[one, two]) == make(adapters=[two, one])
    assert make(adapters=[AdapterId("aa", 1)]) == make(adapters=[one])
    assert make(adapters=[AdapterId("aa", -0.0)]) == make(adapters=[AdapterId("aa", 0.0)])


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_a_scale_that_is_no_number_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="not a finite number"):
        make(adapters=[AdapterId("aa", scale)])
