from __future__ import annotations

import struct
from typing import Any

import crc32c
import msgspec
import numpy as np
import pytest

from erllama.cache.key import block_key
from erllama.cache.row import (
    HEAD_BYTES,
    HEADER_BYTES,
    MAX_TOKENS,
    BadRow,
    Buffer,
    RowHead,
    RowId,
    RowMeta,
    check_payload,
    check_row,
    encode_head,
    parse_head,
    payload_crc,
)

from .support import LAYOUT, ROOT, packed, row_meta

TOKENS = list(range(300))
SIZE = LAYOUT.token_bytes


def payload_size(meta: RowMeta) -> int:
    state = 777 if meta.form == "snapshot" else meta.n_tokens * meta.token_bytes
    return state + meta.logits_bytes


def encode(meta: RowMeta, payload: bytes | None = None) -> tuple[bytes, int]:
    """A head and the size of its file."""
    size = payload_size(meta) if payload is None else len(payload)
    crc = 0 if payload is None else payload_crc([payload])
    return encode_head(meta, payload_bytes=size, payload_crc=crc), HEAD_BYTES + size


def forged(
    meta: RowMeta, *, size: int | None = None, raw: bytes | None = None
) -> tuple[bytes, int]:
    """A head whose checksums are right whatever it says: what `encode_head` would not make."""
    data = msgspec.msgpack.encode(meta) if raw is None else raw
    length = payload_size(meta) if size is None else size
    good = encode(row_meta(TOKENS))[0]
    header = bytearray(good[:HEADER_BYTES])
    struct.pack_into("<II", header, 12, len(data), crc32c.crc32c(data))
    struct.pack_into("<Q", header, 32, length)
    return sealed(bytes(header) + data), HEAD_BYTES + length


def sealed(head: bytes) -> bytes:
    """A head with the checksum of its header made right."""
    fixed = head[: HEADER_BYTES - 4]
    return (fixed + struct.pack("<I", crc32c.crc32c(fixed)) + head[HEADER_BYTES:]).ljust(
        HEAD_BYTES, b"\0"
    )


ROWS = {
    "a full block": row_meta(TOKENS[:256]),
    "a pure tail": row_meta(TOKENS, form="tail"),
    "a mixed tail": row_meta(TOKENS, form="tail", pure_end=270, threads=4),
    "a tail whose last slice was one row": row_meta(TOKENS[:257], form="tail", threads=2),
    "a snapshot": row_meta(TOKENS[:192], form="snapshot", whole=True),
    "a snapshot with logits": row_meta(TOKENS, form="snapshot", n_logits=50, pure_end=3),
    "a tail of a second turn": row_meta(TOKENS, form="tail", pure_end=9, cuts=(250, 270, 280, 290)),
    "one token": row_meta(TOKENS[:1], threads=1),
    "the most tokens": row_meta([2**31 - 1] * MAX_TOKENS, block=MAX_TOKENS, model="x" * 64),
}


@pytest.mark.parametrize("what", ROWS)
def test_a_row_comes_back_as_it_was_written(what: str) -> None:
    meta = ROWS[what]
    head, file_size = encode(meta)
    assert len(head) == HEAD_BYTES
    parsed = parse_head(head, file_size)
    assert parsed == RowHead(meta=meta, payload_bytes=payload_size(meta), payload_crc=0)
    assert parsed.file_bytes == file_size
    assert parsed.state_bytes == payload_size(meta) - meta.logits_bytes


def test_a_row_says_where_it_is_and_what_it_is() -> None:
    meta = ROWS["a mixed tail"]
    assert (meta.start, meta.end, meta.n_tokens, meta.pure) == (256, 300, 44, False)
    tag = meta.lineage.tag(300)
    assert meta.id == RowId(meta.key, "tail", False, 4, tag)
    assert meta.id.name == f"{meta.key.hex()}.tm4-{tag.hex()}"
    assert ROWS["a full block"].id.name.endswith(".bp")
    assert ROWS["a snapshot"].id.name.endswith(".sp")


def test_both_kinds_and_all_forms_of_the_same_tokens_have_one_key_and_names_of_their_own() -> None:
    rows = [
        row_meta(TOKENS, form=form, pure_end=end, threads=threads)
        for form in ("block", "tail", "snapshot")
        for end, threads in ((300, 0), (200, 0), (200, 2))
    ]
    assert len({row.key for row in rows}) == 1
    assert len({row.id.name for row in rows}) == 9


@pytest.mark.parametrize(
    ("what", "change", "reason"),
    [
        ("a full block", {"key": bytes(32)}, "key"),
        ("a full block", {"tokens": packed([5] * 256)}, "key"),
        ("a full block", {"parent": bytes(32)}, "key"),
        ("one token", {"namespace": bytes(32)}, "parent"),
        ("a full block", {"key": bytes(31)}, "cannot be read"),
        ("a full block", {"tokens": b""}, "cannot be read"),
        ("a full block", {"tokens": bytes(1_023)}, "whole number"),
        ("a full block", {"tokens": bytes(4 * MAX_TOKENS + 4)}, "cannot be read"),
        ("a full block", {"start": 0, "pure_end": 256}, "parent"),
        ("a full block", {"start": 1}, "multiple of 64"),
        ("a full block", {"start": -64}, "cannot be read"),
        ("a full block", {"start": 2**31 - 64, "pure_end": 5}, "ends at position"),
        ("a full block", {"pure_end": 257}, "beyond its end"),
        ("a full block", {"threads": 4}, "number of threads"),
        ("a full block", {"threads": -1}, "cannot be read"),
        ("a full block", {"n_logits": 50}, "logits"),
        ("a full block", {"whole": True}, "whole block"),
        ("a full block", {"token_bytes": 0}, "bytes per token"),
        ("a full block", {"token_bytes": SIZE + 1}, "bytes of rows"),
        ("a full block", {"form": "tail"}, "logits"),
        ("a full block", {"form": "snapshot"}, "bytes per token"),
        ("a full block", {"form": "other"}, "cannot be read"),
        ("a full block", {"model": "x" * 65}, "cannot be read"),
        ("a pure tail", {"n_logits": 49}, "bytes of rows"),
        ("a snapshot", {"token_bytes": SIZE}, "bytes per token"),
        ("a snapshot with logits", {"n_logits": 5_000}, "state of"),
        ("a tail of a second turn", {"origin": b""}, "lineage"),
        ("a tail of a second turn", {"origin": b"123"}, "lineage"),
        ("a tail of a second turn", {"origin": bytes(9)}, "cannot be read"),
        ("a tail of a second turn", {"cuts": b"123"}, "lineage"),
        ("a tail of a second turn", {"cuts": b"\x05\0\x03\0"}, "lineage"),
        ("a tail of a second turn", {"cuts": b"\x05\0\x77\0"}, "lineage"),
        ("a full block", {"origin": bytes(8)}, "lineage"),
        ("a full block", {"cuts": b"\x05\0\x09\0"}, "lineage"),
    ],
)
def test_fields_that_do_not_fit_each_other_are_refused(
    what: str, change: dict[str, Any], reason: str
) -> None:
    meta = ROWS[what]
    size = payload_size(meta)
    wrong = msgspec.structs.replace(meta, **change)
    with pytest.raises(BadRow, match=reason):
        parse_head(*forged(wrong, size=size))
    with pytest.raises(BadRow):
        encode_head(wrong, payload_bytes=size, payload_crc=0)


def test_a_negative_token_id_is_refused() -> None:
    meta = ROWS["a full block"]
    tokens = meta.tokens[:-1] + b"\x80"
    wrong = msgspec.structs.replace(meta, tokens=tokens, key=block_key(meta.parent, tokens))
    with pytest.raises(BadRow, match="negative token"):
        parse_head(*forged(wrong))


@pytest.mark.parametrize(
    ("offset", "form", "value", "reason"),
    [
        (0, "8s", b"ERLKVROX", "not a row"),
        (8, "<H", 1, "format 1 is not known"),
        (8, "<H", 3, "format 3 is not known"),
        (8, "<H", 0, "format 0 is not known"),
        (10, "<H", 65, "other fields"),
        (12, "<I", 0, "metadata of 0 bytes"),
        (12, "<I", HEAD_BYTES, "metadata of 4096 bytes"),
        (12, "<I", 2**32 - 1, "metadata of 4294967295 bytes"),
        (16, "<I", 1, "metadata's checksum"),
        (24, "<Q", 0, "begins at 0"),
        (24, "<Q", 8_192, "begins at 8192"),
        (32, "<Q", 0, "payload of 0 bytes"),
        (32, "<Q", 2**63, "payload of 9223372036854775808 bytes"),
        (32, "<Q", 100, "the file has"),
        (40, "<B", 1, "other fields"),
        (59, "<B", 1, "other fields"),
        (4_095, "<B", 1, "filled up with zeros"),
    ],
)
def test_every_field_of_the_header_is_checked_even_if_its_checksum_is_right(
    offset: int, form: str, value: Any, reason: str
) -> None:
    head, file_size = encode(row_meta(TOKENS))
    changed = bytearray(head)
    struct.pack_into(form, changed, offset, value)
    with pytest.raises(BadRow, match=reason):
        parse_head(sealed(bytes(changed)), file_size)


def test_a_header_whose_checksum_is_wrong_is_refused_before_its_version_is_believed() -> None:
    head, file_size = encode(row_meta(TOKENS))
    changed = bytearray(head)
    changed[8] = 9
    with pytest.raises(BadRow, match="header's checksum"):
        parse_head(bytes(changed), file_size)


@pytest.mark.parametrize("difference", [-HEAD_BYTES, -1, 1, 4_096])
def test_a_file_that_is_cut_or_longer_is_refused(difference: int) -> None:
    head, file_size = encode(row_meta(TOKENS))
    with pytest.raises(BadRow, match="the file has"):
        parse_head(head, file_size + difference)


@pytest.mark.parametrize("length", [0, 1, 64, HEAD_BYTES - 1])
def test_a_head_that_is_cut_is_refused(length: int) -> None:
    head, file_size = encode(row_meta(TOKENS))
    with pytest.raises(BadRow, match="the head has"):
        parse_head(head[:length], file_size)
    with pytest.raises(BadRow, match="the head has"):
        parse_head(head + b"\0", file_size)


def test_metadata_with_an_unknown_field_or_in_another_spelling_is_refused() -> None:
    meta = row_meta(TOKENS)
    fields: dict[str, Any] = msgspec.msgpack.decode(msgspec.msgpack.encode(meta))
    with pytest.raises(BadRow, match="unknown field"):
        parse_head(*forged(meta, raw=msgspec.msgpack.encode(fields | {"extra": 1})))
    backwards = dict(reversed(list(fields.items())))
    with pytest.raises(BadRow, match="canonical"):
        parse_head(*forged(meta, raw=msgspec.msgpack.encode(backwards)))
    with pytest.raises(BadRow, match="cannot be read"):
        parse_head(*forged(meta, raw=b"\x91" * 2_000))


def test_a_payload_in_pieces_has_the_checksum_of_the_whole() -> None:
    data = np.random.default_rng(1).integers(0, 256, 100_000, dtype=np.uint8)
    whole = data.tobytes()
    pieces: list[Buffer] = [data[:7], memoryview(whole)[7:70_000], bytearray(whole[70_000:])]
    assert payload_crc(pieces) == payload_crc([whole]) == crc32c.crc32c(whole)
    assert crc32c.crc32c(b"123456789") == 0xE3069283, "RFC 3720's check value"


def test_a_payload_is_compared_with_its_head() -> None:
    meta = row_meta(TOKENS)
    payload = bytes(range(256)) * payload_size(meta)
    payload = payload[: payload_size(meta)]
    head = parse_head(*encode(meta, payload))
    check_payload(head, [payload[:10], payload[10:]])
    check_payload(head, [np.frombuffer(payload, dtype=np.uint16)])
    with pytest.raises(BadRow, match="checksum"):
        check_payload(head, [payload[10:], payload[:10]])
    with pytest.raises(BadRow, match="bytes, its header says"):
        check_payload(head, [payload[:-1]])


def test_a_row_of_another_model_is_refused() -> None:
    head = parse_head(*encode(row_meta(TOKENS, form="tail")))
    check_row(head, namespace=ROOT, layout=LAYOUT, n_vocab=50)
    with pytest.raises(BadRow, match="namespace"):
        check_row(head, namespace=bytes(32), layout=LAYOUT, n_vocab=50)
    with pytest.raises(BadRow, match="logits"):
        check_row(head, namespace=ROOT, layout=LAYOUT, n_vocab=51)
    smaller = msgspec.structs.replace(LAYOUT, layers=LAYOUT.layers[:1])
    with pytest.raises(BadRow, match="bytes per token"):
        check_row(head, namespace=ROOT, layout=smaller, n_vocab=50)
