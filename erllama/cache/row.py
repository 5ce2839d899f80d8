"""The file format of one row. Pure; docs/row-format.md has the layout byte by byte.

A file is a head of 4,096 bytes (a fixed header, metadata in MessagePack, zeros) and a payload. The
head is made and read here; payloads are written and read elsewhere, straight from and to the
buffers they belong to, and only their checksum is computed here.

Everything in a file is checked against its limits and against everything else before anybody
acts on it: a wrong byte is a `BadRow`, and for the cache that is a miss.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeAlias

import msgspec
from msgspec import Meta

from erllama.cache.key import KEY_BYTES, TOKEN_BYTES, block_key
from erllama.cache.layout import KvLayout
from erllama.cache.lineage import CUT_BYTES, TAG_BYTES, Lineage, unpack, well_formed
from erllama.config import GRANULE
from erllama.errors import ErllamaError

if TYPE_CHECKING:
    import numpy.typing as npt

Buffer: TypeAlias = "bytes | bytearray | memoryview | npt.NDArray[Any]"
"""Contiguous bytes."""

MAGIC = b"ERLKVROW"
VERSION = 2
HEAD_BYTES = 4_096
"""Bytes before the payload: the alignment that direct and vectored reads like."""

MAX_TOKENS = 512
"""Most tokens of one row, so that every head fits its 4,096 bytes."""

MAX_PAYLOAD = 1 << 40
LOGIT_BYTES = 4

Form = Literal["block", "tail", "snapshot"]
Key = Annotated[bytes, Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)]

# magic, version, header bytes, metadata bytes, metadata CRC, payload CRC, payload offset,
# payload bytes, zeros, CRC of all before
_HEADER = struct.Struct("<8sHHIIIQQ20s")
_CRC = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CRC.size
_ZEROS = bytes(20)


def _crc32c(data: bytes | memoryview, crc: int = 0) -> int:
    """CRC32C (Castagnoli); its package is imported when the first row is written or read."""
    from crc32c import crc32c

    return crc32c(data, crc)


class BadRow(ErllamaError):
    """Bytes that are no row, or not the row they should be; the message says why.

    Never reaches a request: a bad row is a miss, counted and moved aside.
    """


class RowId(NamedTuple):
    """What tells a row from every other one.

    Attributes:
        key: of its tokens (`erllama.cache.key`).
        form: block, tail or snapshot.
        pure: a function of the tokens alone, or mixed; both may exist for the same tokens.
        threads: the number of threads its numbers depend on; 0: on none.
        lineage: tag of what made it (`erllama.cache.lineage`); empty for a pure one.
    """

    key: bytes
    form: Form
    pure: bool
    threads: int = 0
    lineage: bytes = b""

    @property
    def name(self) -> str:
        """The row's name as a file: hex of the key, then form, purity, threads and lineage.

        >>> RowId(bytes(32), "tail", True).name[60:]
        '0000.tp'
        """
        kind = f"{self.form[0]}{'p' if self.pure else 'm'}{self.threads or ''}"
        return f"{self.key.hex()}.{kind}{'-' if self.lineage else ''}{self.lineage.hex()}"


class RowMeta(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a row is.

    Attributes:
        namespace: 32 bytes; the root of its chain.
        parent: key of the block before it; the namespace if `start` is 0.
        key: its own key.
        form: `block`: rows; `tail`: rows and the logits after its last token; `snapshot`: a state
            that cannot be cut, opaque here, at the position `end`, perhaps with logits.
        start: position of its first token, a multiple of 64.
        tokens: its own tokens, little-endian u32. Of a snapshot: those since the last full block.
        pure_end: rows at positions below this one, counted from the start of the chain, were
            computed by the exact-slicing rule. A row is pure if that holds up to its end.
        origin, cuts: what made a mixed row, with `pure_end`: the tag of the block before it, empty
            if that is pure, and the cuts within it (`erllama.cache.lineage`).
        threads: the number of threads the numbers depend on: for mixed rows, and where a slice
            of a single row computed the last token (`end` is 1 more than a multiple of 64). Else 0.
        token_bytes: bytes of one token's rows; 0 for a snapshot.
        n_logits: logits (f32) at the end of the payload; 0: none.
        whole: of a snapshot: it is complete by itself; else the rows of blocks belong beside it.
        model: the model's name, for people.
    """

    namespace: Key
    parent: Key
    key: Key
    form: Form
    start: Annotated[int, Meta(ge=0, lt=1 << 31)]
    tokens: Annotated[bytes, Meta(min_length=TOKEN_BYTES, max_length=MAX_TOKENS * TOKEN_BYTES)]
    pure_end: Annotated[int, Meta(ge=0, lt=1 << 31)]
    threads: Annotated[int, Meta(ge=0, le=4_096)] = 0
    token_bytes: Annotated[int, Meta(ge=0, le=1 << 30)]
    n_logits: Annotated[int, Meta(ge=0, le=1 << 24)] = 0
    whole: bool = False
    origin: Annotated[bytes, Meta(max_length=TAG_BYTES)] = b""
    cuts: Annotated[bytes, Meta(max_length=MAX_TOKENS // 2 * CUT_BYTES)] = b""
    model: Annotated[str, Meta(max_length=64)] = ""

    @property
    def n_tokens(self) -> int:
        """How many tokens are its own."""
        return len(self.tokens) // TOKEN_BYTES

    @property
    def end(self) -> int:
        """Position after its last token: how many tokens the chain has up to here."""
        return self.start + self.n_tokens

    @property
    def pure(self) -> bool:
        """Whether it is a function of the tokens alone."""
        return self.pure_end == self.end

    @property
    def lineage(self) -> Lineage:
        """What made it."""
        return unpack(self.start, self.origin, self.pure_end, self.cuts)

    @property
    def id(self) -> RowId:
        """What tells it from every other row."""
        return RowId(self.key, self.form, self.pure, self.threads, self.lineage.tag(self.end))

    @property
    def logits_bytes(self) -> int:
        """Bytes of the logits, the last part of the payload."""
        return self.n_logits * LOGIT_BYTES


class RowHead(msgspec.Struct, frozen=True, kw_only=True):
    """The head of a row's file. Sizes in bytes.

    Attributes:
        meta: what the row is.
        payload_bytes: rows or state, then logits.
        payload_crc: CRC32C of the payload.
    """

    meta: RowMeta
    payload_bytes: int
    payload_crc: int

    @property
    def file_bytes(self) -> int:
        """Bytes of the whole file."""
        return HEAD_BYTES + self.payload_bytes

    @property
    def state_bytes(self) -> int:
        """Bytes of the payload before the logits."""
        return self.payload_bytes - self.meta.logits_bytes


def payload_crc(buffers: Iterable[Buffer], crc: int = 0) -> int:
    """CRC32C of several buffers, one after the other.

    Takes anything contiguous; releases the interpreter lock in pieces of 32 KiB and more.

    Args:
        buffers: in the order of the payload.
        crc: of what came before.
    """
    for buffer in buffers:
        crc = _crc32c(_view(buffer), crc)
    return crc


def check_payload(head: RowHead, buffers: Iterable[Buffer]) -> None:
    """Compare a payload, read into several buffers, with its head.

    Raises:
        BadRow: its size or its checksum differs.
    """
    parts = [_view(buffer) for buffer in buffers]
    size = sum(part.nbytes for part in parts)
    if size != head.payload_bytes:
        raise BadRow(f"the payload has {size} bytes, its header says {head.payload_bytes}")
    crc = payload_crc(parts)
    if crc != head.payload_crc:
        raise BadRow(f"the payload's checksum is {crc:08x}, its header says {head.payload_crc:08x}")


def encode_head(meta: RowMeta, *, payload_bytes: int, payload_crc: int) -> bytes:
    """The first 4,096 bytes of a row's file; the payload follows.

    Args:
        meta: what the row is.
        payload_bytes: size of the payload.
        payload_crc: its CRC32C.

    Raises:
        BadRow: the row breaks a rule of the format, so that `parse_head` would refuse it.
    """
    raw = msgspec.msgpack.encode(meta)
    if len(raw) > HEAD_BYTES - HEADER_BYTES:
        raise BadRow(f"metadata of {len(raw)} bytes does not fit a head of {HEAD_BYTES}")
    fixed = _HEADER.pack(
        MAGIC,
        VERSION,
        HEADER_BYTES,
        len(raw),
        _crc32c(raw),
        payload_crc,
        HEAD_BYTES,
        payload_bytes,
        _ZEROS,
    )
    head = (fixed + _CRC.pack(_crc32c(fixed)) + raw).ljust(HEAD_BYTES, b"\0")
    parse_head(head, HEAD_BYTES + payload_bytes)
    return head


def parse_head(data: Buffer, file_size: int) -> RowHead:
    """Read and check the head of a row's file.

    Args:
        data: its first 4,096 bytes.
        file_size: bytes of the whole file.

    Raises:
        BadRow: and nothing else, whatever the bytes are.
    """
    head = bytes(data)
    if len(head) != HEAD_BYTES:
        raise BadRow(f"the head has {len(head)} bytes, expected {HEAD_BYTES}")
    fixed = _read_header(head, file_size)
    meta = _read_meta(head, fixed)
    _check_meta(meta)
    _check_sizes(meta, fixed.payload_bytes)
    return RowHead(meta=meta, payload_bytes=fixed.payload_bytes, payload_crc=fixed.payload_crc)


def check_row(head: RowHead, *, namespace: bytes, layout: KvLayout, n_vocab: int) -> None:
    """Compare a row with the model that is to use it.

    Raises:
        BadRow: another namespace, other row sizes, or another vocabulary.
    """
    meta = head.meta
    if meta.namespace != namespace:
        raise BadRow("the row belongs to another namespace")
    if meta.form != "snapshot" and meta.token_bytes != layout.token_bytes:
        raise BadRow(f"{meta.token_bytes} bytes per token, this model has {layout.token_bytes}")
    if meta.n_logits not in (0, n_vocab):
        raise BadRow(f"{meta.n_logits} logits, this model has {n_vocab}")


def _view(data: Any) -> memoryview:
    return memoryview(data)


class _Header(NamedTuple):
    meta_bytes: int
    meta_crc: int
    payload_bytes: int
    payload_crc: int


def _read_header(head: bytes, file_size: int) -> _Header:
    (magic, version, header_bytes, meta_bytes, meta_crc, payload_crc, offset, payload_bytes,
     zeros) = _HEADER.unpack_from(head)  # fmt: skip
    if magic != MAGIC:
        raise BadRow(f"not a row: the file begins with {magic!r}")
    # Before the version: whose header is torn has no version to speak of.
    (crc,) = _CRC.unpack_from(head, _HEADER.size)
    if crc != _crc32c(head[: _HEADER.size]):
        raise BadRow("the header's checksum is wrong")
    if version != VERSION:
        raise BadRow(f"row format {version} is not known here; this is {VERSION}")
    if header_bytes != HEADER_BYTES or zeros != _ZEROS:
        raise BadRow("the header has other fields than this version has")
    if offset != HEAD_BYTES:
        raise BadRow(f"the payload begins at {offset}, expected {HEAD_BYTES}")
    if not 0 < meta_bytes <= HEAD_BYTES - HEADER_BYTES:
        raise BadRow(f"metadata of {meta_bytes} bytes")
    if not 0 < payload_bytes <= MAX_PAYLOAD:
        raise BadRow(f"a payload of {payload_bytes} bytes")
    if file_size != HEAD_BYTES + payload_bytes:
        raise BadRow(f"the file has {file_size} bytes, expected {HEAD_BYTES + payload_bytes}")
    return _Header(meta_bytes, meta_crc, payload_bytes, payload_crc)


def _read_meta(head: bytes, fixed: _Header) -> RowMeta:
    end = HEADER_BYTES + fixed.meta_bytes
    raw = head[HEADER_BYTES:end]
    if _crc32c(raw) != fixed.meta_crc:
        raise BadRow("the metadata's checksum is wrong")
    if any(head[end:]):
        raise BadRow("the head is not filled up with zeros")
    try:
        meta = msgspec.msgpack.decode(raw, type=RowMeta)
    except (msgspec.MsgspecError, ValueError, RecursionError) as wrong:
        raise BadRow(f"the metadata cannot be read: {wrong}") from None
    if msgspec.msgpack.encode(meta) != raw:
        raise BadRow("the metadata is not in its canonical form")
    return meta


def _check_meta(meta: RowMeta) -> None:
    """The rules that bind the fields to each other."""
    if len(meta.tokens) % TOKEN_BYTES:
        raise BadRow(f"{len(meta.tokens)} bytes of tokens: not a whole number of them")
    # Ids are below 2**31: the highest byte of each has its highest bit clear.
    if max(meta.tokens[TOKEN_BYTES - 1 :: TOKEN_BYTES]) > 0x7F:
        raise BadRow("a negative token id")
    if meta.end >= 1 << 31:
        raise BadRow(f"it ends at position {meta.end}")
    if meta.start % GRANULE:
        raise BadRow(f"it starts at {meta.start}, not at a multiple of {GRANULE}")
    if (meta.start == 0) != (meta.parent == meta.namespace):
        raise BadRow(f"it starts at {meta.start}, and its parent says otherwise")
    if meta.key != block_key(meta.parent, meta.tokens):
        raise BadRow("its key is not that of its parent and tokens")
    if meta.pure_end > meta.end:
        raise BadRow(f"pure up to {meta.pure_end}, beyond its end at {meta.end}")
    if len(meta.cuts) % CUT_BYTES or not well_formed(meta.lineage, meta.end, meta.cuts):
        raise BadRow("its lineage is not in its canonical form")
    if meta.threads and meta.pure and meta.end % GRANULE != 1:
        raise BadRow("a pure row that depends on the number of threads")
    if meta.whole and meta.form != "snapshot":
        raise BadRow(f"a whole {meta.form}")
    if (meta.form == "block" and meta.n_logits) or (meta.form == "tail" and not meta.n_logits):
        raise BadRow(f"a {meta.form} with {meta.n_logits} logits")
    if (meta.form == "snapshot") != (meta.token_bytes == 0):
        raise BadRow(f"a {meta.form} with {meta.token_bytes} bytes per token")


def _check_sizes(meta: RowMeta, payload_bytes: int) -> None:
    state = payload_bytes - meta.logits_bytes
    if meta.form == "snapshot":
        if state <= 0:
            raise BadRow(f"a snapshot with a state of {state} bytes")
    elif state != meta.n_tokens * meta.token_bytes:
        raise BadRow(f"{state} bytes of rows, expected {meta.n_tokens} x {meta.token_bytes}")
