"""Whatever a row's file is turned into, reading it gives the same row or a `BadRow`."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

import crc32c
import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from erllama.cache.row import (
    HEAD_BYTES,
    HEADER_BYTES,
    BadRow,
    RowMeta,
    check_payload,
    encode_head,
    parse_head,
    payload_crc,
)
from tests.cache.support import row_meta

Bytes = bytearray
DEFAULT_CASES = 4_000
LONG_CASES = 150_000


def make_file(meta: RowMeta, rng: random.Random) -> bytes:
    state = 300 if meta.form == "snapshot" else meta.n_tokens * meta.token_bytes
    payload = rng.randbytes(state + meta.logits_bytes)
    crc = payload_crc([payload])
    return encode_head(meta, payload_bytes=len(payload), payload_crc=crc) + payload


def read(data: bytes) -> RowMeta:
    """The row, after every check there is."""
    head = parse_head(data[:HEAD_BYTES], len(data))
    check_payload(head, [data[HEAD_BYTES:]])
    return head.meta


def reseal(data: Bytes, rng: random.Random) -> None:
    """Make checksums right, so that what they protect is looked at itself."""
    if len(data) < HEAD_BYTES:
        return
    (size,) = struct.unpack_from("<I", data, 12)
    raw = bytes(data[HEADER_BYTES : HEADER_BYTES + size])
    struct.pack_into("<I", data, 16, crc32c.crc32c(raw))
    if rng.random() < 0.8:
        struct.pack_into("<I", data, 20, crc32c.crc32c(bytes(data[HEAD_BYTES:])))
    struct.pack_into("<I", data, HEADER_BYTES - 4, crc32c.crc32c(bytes(data[: HEADER_BYTES - 4])))


def place(data: Bytes, rng: random.Random) -> int:
    """A byte, mostly of the header or the metadata."""
    (size,) = struct.unpack_from("<I", data, 12)
    ends = [HEADER_BYTES, min(HEADER_BYTES + size, len(data)), len(data)]
    return rng.randrange(rng.choice(ends))


def flip_bit(data: Bytes, rng: random.Random) -> None:
    data[place(data, rng)] ^= 1 << rng.randrange(8)


def set_byte(data: Bytes, rng: random.Random) -> None:
    data[place(data, rng)] = rng.choice([0, 1, 0x7F, 0x80, 0xC1, 0xFF, rng.randrange(256)])


def set_word(data: Bytes, rng: random.Random) -> None:
    value = rng.choice([0, 1, 2**31, 2**32 - 1, rng.randrange(2**32)])
    struct.pack_into("<I", data, min(place(data, rng), len(data) - 4), value)


def cut(data: Bytes, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def cut_out(data: Bytes, rng: random.Random) -> None:
    start = place(data, rng)
    del data[start : start + rng.randrange(1, 64)]


def extend(data: Bytes, rng: random.Random) -> None:
    data += rng.randbytes(rng.choice([1, 4, 4_096]))


def swap(data: Bytes, rng: random.Random) -> None:
    one, other = place(data, rng), place(data, rng)
    data[one : one + 8], data[other : other + 8] = data[other : other + 8], data[one : one + 8]


CHANGES: list[Callable[[Bytes, random.Random], None]] = [
    flip_bit, set_byte, set_word, cut, cut_out, extend, swap,
]  # fmt: skip


def mutate(good: bytes, rng: random.Random) -> bytes:
    data = Bytes(good)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        if len(data) > HEADER_BYTES:
            rng.choice(CHANGES)(data, rng)
    if rng.random() < 0.6:
        reseal(data, rng)
    return bytes(data)


def some_rows() -> list[RowMeta]:
    tokens = list(range(1, 200))
    return [
        row_meta(tokens[:128]),
        row_meta(tokens, form="tail"),
        row_meta(tokens, form="tail", pure_end=150, threads=4, model="m"),
        row_meta(tokens[:129], form="snapshot", threads=2, n_logits=9),
        row_meta(tokens[:64], form="snapshot", pure_end=1, whole=True),
    ]


def run_cases(n: int, seed: int) -> tuple[int, int]:
    """How many changed files were refused, and how many were read as what they then said."""
    rng = random.Random(seed)
    good = [(meta, make_file(meta, rng)) for meta in some_rows()]
    refused = accepted = 0
    for _ in range(n):
        meta, data = rng.choice(good)
        changed = mutate(data, rng)
        try:
            got = read(changed)
        except BadRow:
            refused += 1
            continue
        accepted += 1
        # What was changed and sealed again is a row of its own: never another under this name.
        if got != meta:
            assert (got.key, got.tokens, got.parent) == (meta.key, meta.tokens, meta.parent)
            assert make_head(got, changed) == changed[:HEAD_BYTES]
        else:
            assert changed[:20] == data[:20]
    return refused, accepted


def make_head(meta: RowMeta, data: bytes) -> bytes:
    payload = data[HEAD_BYTES:]
    return encode_head(meta, payload_bytes=len(payload), payload_crc=payload_crc([payload]))


def test_a_changed_file_is_refused_or_is_a_row_of_the_same_tokens() -> None:
    refused, accepted = run_cases(DEFAULT_CASES, seed=1)
    assert refused > DEFAULT_CASES * 0.8
    assert accepted > 0, "nothing was sealed well enough to be looked at"


@pytest.mark.long
def test_a_changed_file_is_refused_or_is_a_row_of_the_same_tokens_at_length() -> None:
    refused, _ = run_cases(LONG_CASES, seed=2)
    assert refused > LONG_CASES * 0.8


@pytest.mark.parametrize("number", range(len(some_rows())))
def test_any_single_bit_that_flips_in_a_file_is_noticed(number: int) -> None:
    good = make_file(some_rows()[number], random.Random(number))
    assert read(good) == some_rows()[number]
    used = HEADER_BYTES + struct.unpack_from("<I", good, 12)[0]
    places = [*range(used), *range(used, len(good), 97)]
    for at in places:
        changed = Bytes(good)
        changed[at] ^= 1 << at % 8
        with pytest.raises(BadRow):
            read(bytes(changed))


def test_a_file_cut_anywhere_is_refused() -> None:
    good = make_file(some_rows()[0], random.Random(1))
    for size in [*range(200), *range(200, len(good), 131), len(good) - 1]:
        with pytest.raises(BadRow):
            read(good[:size])


def test_two_files_that_changed_places_are_told_apart_by_their_keys() -> None:
    one, other, *_ = some_rows()
    assert read(make_file(one, random.Random(1))).id.name != other.id.name


@given(st.binary(max_size=5_000), st.integers(-1, 2**70))
def test_any_bytes_are_refused(data: bytes, file_size: int) -> None:
    with pytest.raises(BadRow):
        parse_head(data.ljust(HEAD_BYTES, b"\0")[:HEAD_BYTES], file_size)
    with pytest.raises(BadRow):
        parse_head(data, len(data))


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats()
    | st.text(max_size=70) | st.binary(max_size=70),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)  # fmt: skip
field_names = st.sampled_from(RowMeta.__struct_fields__)


@given(st.sampled_from(some_rows()), st.dictionaries(field_names, anything, min_size=1, max_size=3))
def test_a_well_sealed_field_of_any_type_and_value_is_refused_or_kept(
    meta: RowMeta, fields: dict[str, object]
) -> None:
    good = make_file(meta, random.Random(3))
    known: dict[str, object] = msgspec.msgpack.decode(msgspec.msgpack.encode(meta))
    raw = msgspec.msgpack.encode(known | fields)
    if len(raw) > HEAD_BYTES - HEADER_BYTES:
        return
    data = Bytes(good[:HEADER_BYTES] + raw.ljust(HEAD_BYTES - HEADER_BYTES, b"\0"))
    data += good[HEAD_BYTES:]
    struct.pack_into("<I", data, 12, len(raw))
    reseal(data, random.Random(1))
    try:
        got = parse_head(bytes(data[:HEAD_BYTES]), len(data)).meta
    except BadRow:
        return
    assert msgspec.msgpack.encode(got) == raw
    assert got.key == meta.key
