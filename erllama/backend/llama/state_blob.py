"""The bytes of `llama_state_seq_get_data`: cut into rows, and built from rows.

Layout, little-endian, as llama.cpp's `state_write` functions write it (src/llama-kv-cache.cpp,
src/llama-memory-recurrent.cpp):

    state      u32 magic | i32 seq_id | sections
    attention  u32 n_stream
    section    per stream: u32 cell_count; where it is 0 the next stream follows
                 per cell: i32 pos | u32 n_seq_id (1) | i32 seq_id
                 u32 v_trans | u32 n_layer
                 per layer K:            i32 type | u64 row_bytes | cell_count * row_bytes
                 per layer V, v_trans=0: i32 type | u64 row_bytes | cell_count * row_bytes
                 per layer V, v_trans=1: i32 type | u32 element_bytes | u32 values
                                         | values * cell_count * element_bytes
    recurrent  u32 cell_count (1) | i32 pos | u32 n_seq_id (0) | u32 s_trans (0) | u32 n_layer
    section    per state tensor: i32 type | u64 row_bytes | row_bytes

Which sections there are depends on the family of the model: plain, attention; sliding window,
attention of the full layers and attention of the sliding ones, of which only the window's cells
are written; recurrent, recurrent; hybrid, attention and recurrent.

Attention has one row per token and layer, so it can be cut between any two tokens. Rows are kept
in a canonical form, free of stream count and transposition: for each layer the K rows
`[n, k_bytes]`, then for each layer the V rows `[n, v_bytes]`. What cannot be cut (the window, the
recurrent state) is the *snapshot*: the window's rows in the same form, or the tensors' bytes.

llama.cpp aborts the process on some bad states and silently takes others. So nothing that was
stored is ever handed to it as it came: every header is written anew here, positions are 0 to n-1,
and a state that was read is believed only where each header byte is the one expected.
"""

from __future__ import annotations

import struct
from typing import Any, TypeAlias

import msgspec
import numpy as np

from erllama.backend.base import Family

_MAX_LAYERS = 4_096
_MAX_ROW_BYTES = 1 << 32
_LAYER_HEADER = 12
_META = np.dtype([("pos", "<i4"), ("n_seq_id", "<u4"), ("seq_id", "<i4")])

Bytes: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"


class BadState(ValueError):
    """These bytes are not a state of this shape."""


class Layer(msgspec.Struct, frozen=True):
    """One layer's rows: ggml types and bytes per token.

    `v_element` is the bytes of one V value where V is transposed, else 0.
    """

    k_type: int
    k_bytes: int
    v_type: int
    v_bytes: int
    v_element: int


class Attention(msgspec.Struct, frozen=True):
    """The shape of an attention section."""

    n_stream: int
    v_trans: bool
    layers: tuple[Layer, ...]

    @property
    def token_bytes(self) -> int:
        """Bytes of one token in all layers."""
        return sum(layer.k_bytes + layer.v_bytes for layer in self.layers)


class Recurrent(msgspec.Struct, frozen=True):
    """The shape of a recurrent section: ggml type and bytes of each state tensor."""

    n_layer: int
    tensors: tuple[tuple[int, int], ...]

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(size for _, size in self.tensors)


class Shape(msgspec.Struct, frozen=True):
    """The shape of a sequence's state in one context."""

    magic: int
    full: Attention | None
    window: Attention | None
    recurrent: Recurrent | None

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's rows in canonical form; 0 if nothing can be cut."""
        return self.full.token_bytes if self.full else 0

    @property
    def has_snapshot(self) -> bool:
        """Whether rows alone do not make a state."""
        return self.window is not None or self.recurrent is not None

    def snapshot_bytes(self, n_window: int) -> int:
        """Bytes of a snapshot with `n_window` tokens in the window."""
        window = n_window * self.window.token_bytes if self.window else 0
        return window + (self.recurrent.size if self.recurrent else 0)


class AttentionView:
    """The cells of an attention section inside a state, as views.

    Args:
        shape: of the section.
        state: the whole state.
        at: where the section begins.
        cells: how many cells it has.
        first: position of the first of them.
    """

    def __init__(
        self,
        shape: Attention,
        state: Bytes,
        at: int,
        *,
        cells: int,
        first: int,
        seq: int,
        stream: int,
    ) -> None:
        if not 0 <= stream < shape.n_stream:
            raise BadState(f"stream {stream}: there are {shape.n_stream}")
        self._shape = shape
        self._state = state
        self.cells = cells
        self.first = first
        self.headers: list[tuple[int, bytes]] = []
        self._k: list[int] = []
        self._v: list[int] = []
        self.end = at
        self._lay_out(seq, stream)

    def _lay_out(self, seq: int, stream: int) -> None:
        shape = self._shape
        before, after = bytes(4 * stream), bytes(4 * (shape.n_stream - stream - 1))
        self._header(struct.pack("<I", shape.n_stream) + before)
        self._header(struct.pack("<I", self.cells) + _cell_meta(self.first, self.cells, seq))
        self._header(struct.pack("<II", shape.v_trans, len(shape.layers)))
        for layer in shape.layers:
            self._header(struct.pack("<iQ", layer.k_type, layer.k_bytes))
            self._k.append(self._skip(self.cells * layer.k_bytes))
        for layer in shape.layers:
            self._header(_v_header(layer))
            self._v.append(self._skip(self.cells * layer.v_bytes))
        self._header(after)

    def keys(self, layer: int) -> Bytes:
        """View of a layer's K rows, `[cells, k_bytes]`."""
        width = self._shape.layers[layer].k_bytes
        start = self._k[layer]
        return self._state[start : start + self.cells * width].reshape(self.cells, width)

    def values(self, layer: int) -> Bytes:
        """View of a layer's V rows, `[cells, values, bytes of a value]`."""
        shape = self._shape.layers[layer]
        start = self._v[layer]
        flat = self._state[start : start + self.cells * shape.v_bytes]
        if not shape.v_element:
            return flat.reshape(self.cells, 1, shape.v_bytes)
        values = shape.v_bytes // shape.v_element
        return flat.reshape(values, self.cells, shape.v_element).transpose(1, 0, 2)

    def take(self, start: int, stop: int) -> Bytes:
        """A copy of the rows of cells `start` to `stop` in canonical form."""
        n = stop - start
        rows: Bytes = np.empty(n * self._shape.token_bytes, np.uint8)
        for own, canonical, width in self._stretches(rows, n):
            canonical[:] = own[:, start * width : stop * width]
        for layer, (keys, values) in enumerate(self._scattered(rows, n)):
            keys[:] = self.keys(layer)[start:stop]
            source = self.values(layer)[start:stop]
            values.reshape(source.shape)[:] = source
        return rows

    def put(self, start: int, rows: Bytes, n_rows: int, n: int) -> None:
        """Put the first `n` of `n_rows` canonical rows at cell `start`."""
        for own, canonical, width in self._stretches(rows, n_rows):
            own[:, start * width : (start + n) * width] = canonical[:, : n * width]
        for layer, (keys, values) in enumerate(self._scattered(rows, n_rows)):
            self.keys(layer)[start : start + n] = keys[:n]
            target = self.values(layer)[start : start + n]
            target[:] = values[:n].reshape(target.shape)

    def _stretches(self, rows: Bytes, n: int) -> list[tuple[Bytes, Bytes, int]]:
        """Where all layers are alike: K and V here and in canonical rows, a line per layer, and
        the bytes of a token in a line. One copy then does what takes one for each layer else."""
        if not self._alike:
            return []
        layer, n_layer = self._shape.layers[0], len(self._shape.layers)
        if len(rows) != n * self._shape.token_bytes:
            raise BadState(
                f"{len(rows)} bytes of rows; {n} tokens take {n * self._shape.token_bytes}"
            )
        middle = n * n_layer * layer.k_bytes
        return [
            (self._lines(self._k[0], layer.k_bytes), rows[:middle].reshape(n_layer, -1),
             layer.k_bytes),
            (self._lines(self._v[0], layer.v_bytes), rows[middle:].reshape(n_layer, -1),
             layer.v_bytes),
        ]  # fmt: skip

    def _scattered(self, rows: Bytes, n: int) -> list[tuple[Bytes, Bytes]]:
        """Where layers are not alike, the canonical rows of each."""
        return [] if self._alike else canonical_views(self._shape, rows, n)

    def _lines(self, first: int, width: int) -> Bytes:
        """The rows of all layers from offset `first` on, a line per layer, headers left out."""
        n_layer, line = len(self._shape.layers), _LAYER_HEADER + self.cells * width
        start = first - _LAYER_HEADER
        return self._state[start : start + n_layer * line].reshape(n_layer, line)[:, _LAYER_HEADER:]

    @property
    def _alike(self) -> bool:
        return not self._shape.v_trans and len(set(self._shape.layers)) == 1

    def segments(self, start: int, stop: int) -> list[Bytes] | None:
        """Where the canonical rows of cells `start` to `stop` lie, in order, as flat views.

        What is read into them one after the other is put in place with no copy. None where V is
        transposed, and the rows' bytes are scattered.
        """
        if self._shape.v_trans:
            return None
        layers = range(len(self._shape.layers))
        keys = [self.keys(layer)[start:stop].reshape(-1) for layer in layers]
        return keys + [self.values(layer)[start:stop].reshape(-1) for layer in layers]

    def sort(self) -> None:
        """Bring the cells, as they were read, into the order of their positions.

        In a buffer that sequences share, a new token takes any cell that is free.
        """
        at = self.headers[1][0] + 4
        meta = self._state[at : at + self.cells * _META.itemsize].view(_META)
        order = np.argsort(meta["pos"], kind="stable")
        if (order[1:] > order[:-1]).all():
            return
        meta[:] = meta[order]
        for layer in range(len(self._shape.layers)):
            self.keys(layer)[:] = self.keys(layer)[order]
            self.values(layer)[:] = self.values(layer)[order]

    def clear(self, stop: int) -> None:
        """Zero the rows before cell `stop`."""
        for layer in range(len(self._shape.layers)):
            self.keys(layer)[:stop] = 0
            self.values(layer)[:stop] = 0

    def _header(self, header: bytes) -> None:
        if header:
            self.headers.append((self.end, header))
            self.end += len(header)

    def _skip(self, size: int) -> int:
        start = self.end
        self.end += size
        return start


class State:
    """The state of a sequence of `n` tokens in a buffer.

    Args:
        shape: of the context's states.
        n: tokens, at least 1.
        buffer: writable to build; `state_bytes` says how many bytes are needed.
        seq: the sequence id that the headers name.
        stream: the KV stream that the sequence lives in.
        first: position of the first cell of the sliding window; 0 to build, where the cells
            before the window are zero rows, so that a cell's index is its position.
    """

    def __init__(
        self, shape: Shape, n: int, buffer: Bytes, *, seq: int = 0, stream: int = 0, first: int = 0
    ) -> None:
        if not 0 <= first < n:
            raise BadState(f"{n} tokens, of which the window begins at {first}")
        self.shape = shape
        self.n = n
        self.full: AttentionView | None = None
        self.window: AttentionView | None = None
        self._tensors: list[tuple[int, int]] = []
        self._headers = [(0, struct.pack("<Ii", shape.magic, seq))]
        self.size = 8
        place = {"seq": seq, "stream": stream}
        if shape.full is not None:
            self.full = self._attention(shape.full, buffer, cells=n, first=0, **place)
        if shape.window is not None:
            self.window = self._attention(
                shape.window, buffer, cells=n - first, first=first, **place
            )
        if shape.recurrent is not None:
            self._recurrent(shape.recurrent)
        if len(buffer) < self.size:
            raise BadState(f"{len(buffer)} bytes; {n} tokens take {self.size}")
        self.buffer = buffer
        self.bytes = buffer[: self.size]

    def write_headers(self) -> None:
        """Write everything that is not rows or tensors."""
        for offset, header in self._headers:
            self.bytes[offset : offset + len(header)] = np.frombuffer(header, np.uint8)

    def sort_cells(self) -> None:
        """Bring a state as it was read into the order of a context where nothing else lies.

        Where each sequence has a stream of its own, it is so already.
        """
        for section, view in ((self.shape.full, self.full), (self.shape.window, self.window)):
            if section is not None and view is not None and section.n_stream == 1:
                view.sort()

    def check_headers(self) -> None:
        """Raise `BadState` unless everything that is not rows or tensors is as it must be."""
        for offset, header in self._headers:
            if self.bytes[offset : offset + len(header)].tobytes() != header:
                raise BadState(f"unexpected bytes at {offset} of a state of {self.n} tokens")

    def take_snapshot(self) -> Bytes:
        """A copy of what rows do not hold: the window's rows, the recurrent tensors."""
        parts = [self.bytes[start : start + size] for start, size in self._tensors]
        if self.window is not None:
            parts.insert(0, self.window.take(0, self.window.cells))
        return np.concatenate(parts) if parts else np.empty(0, np.uint8)

    def put_snapshot(self, snapshot: Bytes) -> None:
        """Put a snapshot in place; the window's cells before it become zero rows."""
        at = 0
        if self.window is not None and self.shape.window is not None:
            size = len(snapshot) - (self.shape.recurrent.size if self.shape.recurrent else 0)
            rows, rest = divmod(size, self.shape.window.token_bytes)
            if rest or not 0 < rows <= self.n:
                raise BadState(f"a snapshot of {len(snapshot)} bytes")
            self.window.clear(self.n - rows)
            self.window.put(self.n - rows, snapshot[:size], rows, rows)
            at = size
        if len(snapshot) != at + sum(size for _, size in self._tensors):
            raise BadState(f"a snapshot of {len(snapshot)} bytes")
        for start, size in self._tensors:
            self.bytes[start : start + size] = snapshot[at : at + size]
            at += size

    def _attention(
        self, shape: Attention, buffer: Bytes, *, cells: int, first: int, seq: int, stream: int
    ) -> AttentionView:
        view = AttentionView(
            shape, buffer, self.size, cells=cells, first=first, seq=seq, stream=stream
        )
        self._headers += view.headers
        self.size = view.end
        return view

    def _recurrent(self, shape: Recurrent) -> None:
        self._header(struct.pack("<IiIII", 1, self.n - 1, 0, 0, shape.n_layer))
        for kind, size in shape.tensors:
            self._header(struct.pack("<iQ", kind, size))
            self._tensors.append((self.size, size))
            self.size += size

    def _header(self, header: bytes) -> None:
        self._headers.append((self.size, header))
        self.size += len(header)


def state_bytes(shape: Shape, n: int) -> int:
    """Bytes of a state of `n` tokens, built with all cells of the window."""
    size = 8
    if shape.recurrent is not None:
        size += 20 + sum(12 + tensor for _, tensor in shape.recurrent.tensors)
    for section in (shape.full, shape.window):
        if section is not None:
            size += 4 + 4 * section.n_stream + n * _META.itemsize + 8
            size += 24 * len(section.layers) + n * section.token_bytes
    return size


def memory_bytes(shape: Shape, *, n_seq: int, cells: int, window: int) -> int:
    """Bytes that llama.cpp holds for the states of all sequences.

    Args:
        n_seq: sequences; each has its recurrent state.
        cells: of the layers that see the whole context, of all sequences together.
        window: of the layers that see a window.
    """
    full = shape.full.token_bytes if shape.full else 0
    slid = shape.window.token_bytes if shape.window else 0
    recurrent = shape.recurrent.size if shape.recurrent else 0
    return cells * full + window * slid + n_seq * recurrent


def canonical_views(shape: Attention, rows: Bytes, n: int) -> list[tuple[Bytes, Bytes]]:
    """For each layer the K rows and the V rows of `n` tokens in canonical form, as views."""
    if len(rows) != n * shape.token_bytes:
        raise BadState(f"{len(rows)} bytes of rows; {n} tokens take {n * shape.token_bytes}")
    views = []
    k_at, v_at = 0, n * sum(layer.k_bytes for layer in shape.layers)
    for layer in shape.layers:
        k_end, v_end = k_at + n * layer.k_bytes, v_at + n * layer.v_bytes
        views.append(
            (rows[k_at:k_end].reshape(n, layer.k_bytes), rows[v_at:v_end].reshape(n, layer.v_bytes))
        )
        k_at, v_at = k_end, v_end
    return views


def window_first(shape: Shape, state: Bytes, n: int, *, stream: int) -> int:
    """The position of the first cell that a state as read holds of the sliding window."""
    if shape.window is None:
        return 0
    at = 8
    if shape.full is not None:
        full = shape.full
        at += 4 + 4 * full.n_stream + n * _META.itemsize + 8
        at += 24 * len(full.layers) + n * full.token_bytes
    try:
        (cells,) = struct.unpack_from("<I", memoryview(state.data), at + 4 + 4 * stream)
    except struct.error:
        raise BadState("the state ends before the window") from None
    if not 0 < cells <= n:
        raise BadState(f"{cells} cells in the window of {n} tokens")
    return int(n - cells)


def learn_shape(state: Bytes, n: int, family: Family) -> Shape:
    """The shape of a context's states, from one of `n` known tokens (few enough for any window).

    Raises:
        BadState: these are not `n` tokens in the layout that this module knows.
    """
    reader = _Reader(state)
    try:
        magic, _ = reader.unpack("<Ii")
        has_full = family in ("plain", "sliding_window", "hybrid")
        full = reader.attention(n) if has_full else None
        window = reader.attention(n) if family == "sliding_window" else None
        recurrent = reader.recurrent(n) if family in ("recurrent", "hybrid") else None
    except struct.error:
        raise BadState("the state ends in the middle") from None
    if reader.at != len(state):
        raise BadState(f"{len(state)} bytes, of which {reader.at} are understood")
    return Shape(magic=magic, full=full, window=window, recurrent=recurrent)


class _Reader:
    """Reads a state of unknown shape, front to back."""

    def __init__(self, state: Bytes) -> None:
        self._view = memoryview(state.data)
        self.at = 0

    def unpack(self, form: str) -> tuple[Any, ...]:
        values = struct.unpack_from(form, self._view, self.at)
        self.at += struct.calcsize(form)
        return values

    def attention(self, n: int) -> Attention:
        (n_stream,) = self.unpack("<I")
        if not 1 <= n_stream <= 4_096:
            raise BadState(f"{n_stream} streams")
        found: Attention | None = None
        for _ in range(n_stream):
            (count,) = self.unpack("<I")
            if count == 0:
                continue
            if count != n or found is not None:
                raise BadState(f"{count} cells where {n} were expected")
            self.at += n * _META.itemsize
            found = self._layers(n, n_stream)
        if found is None:
            raise BadState("no cells")
        return found

    def _layers(self, n: int, n_stream: int) -> Attention:
        v_trans, n_layer = self.unpack("<II")
        if v_trans > 1 or not 1 <= n_layer <= _MAX_LAYERS:
            raise BadState(f"v_trans {v_trans}, {n_layer} layers")
        keys = []
        for _ in range(n_layer):
            kind, size = self.unpack("<iQ")
            self._rows(n, size)
            keys.append((kind, size))
        layers = []
        for k_type, k_bytes in keys:
            if v_trans:
                v_type, element, values = self.unpack("<iII")
                v_bytes = element * values
            else:
                v_type, v_bytes = self.unpack("<iQ")
                element = 0
            self._rows(n, v_bytes)
            layers.append(Layer(k_type, k_bytes, v_type, v_bytes, element))
        return Attention(n_stream=n_stream, v_trans=bool(v_trans), layers=tuple(layers))

    def recurrent(self, n: int) -> Recurrent:
        cells, pos, n_seq_id, s_trans, n_layer = self.unpack("<IiIII")
        if (cells, pos, n_seq_id, s_trans) != (1, n - 1, 0, 0) or not 1 <= n_layer <= _MAX_LAYERS:
            raise BadState("not one recurrent cell at the last position")
        tensors = []
        while self.at < len(self._view):
            kind, size = self.unpack("<iQ")
            if size:  # LFM2 has S tensors of no bytes
                self._rows(1, size)
            tensors.append((kind, size))
        if not tensors:
            raise BadState("a recurrent state without tensors")
        return Recurrent(n_layer=n_layer, tensors=tuple(tensors))

    def _rows(self, n: int, size: int) -> None:
        if not 0 < size <= _MAX_ROW_BYTES:
            raise BadState(f"a row of {size} bytes")
        self.at += n * size


def _v_header(layer: Layer) -> bytes:
    if layer.v_element:
        values = layer.v_bytes // layer.v_element
        return struct.pack("<iII", layer.v_type, layer.v_element, values)
    return struct.pack("<iQ", layer.v_type, layer.v_bytes)


def _cell_meta(first: int, cells: int, seq: int) -> bytes:
    meta = np.empty(cells, _META)
    meta["pos"] = np.arange(first, first + cells, dtype=np.int32)
    meta["n_seq_id"] = 1
    meta["seq_id"] = seq
    return meta.tobytes()
