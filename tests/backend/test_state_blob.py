"""States of a sequence: built and parsed again, and refused where a byte is not as it must be."""

from __future__ import annotations

import itertools
import random
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erllama.backend.base import Family
from erllama.backend.llama.state_blob import (
    Attention,
    BadState,
    Bytes,
    Layer,
    Recurrent,
    Shape,
    State,
    canonical_views,
    learn_shape,
    state_bytes,
    window_first,
)

MAGIC = 0x67677371
# ggml's number of a type, values per block, bytes per block (ggml.h, ggml-common.h)
TYPES = {
    "f32": (0, 1, 4),
    "f16": (1, 1, 2),
    "bf16": (30, 1, 2),
    "q8_0": (8, 32, 34),
    "q5_1": (7, 32, 24),
    "q5_0": (6, 32, 22),
    "q4_1": (3, 32, 20),
    "q4_0": (2, 32, 18),
}
FAMILIES: tuple[Family, ...] = ("plain", "sliding_window", "recurrent", "hybrid")


def layer(k: str, v: str, *, width: int = 64, v_trans: bool = False) -> Layer:
    """A layer of `width` values per row."""
    (k_type, k_values, k_size), (v_type, v_values, v_size) = TYPES[k], TYPES[v]
    return Layer(
        k_type=k_type,
        k_bytes=width // k_values * k_size,
        v_type=v_type,
        v_bytes=width // v_values * v_size,
        v_element=v_size if v_trans else 0,
    )


def shape_of(
    family: Family, *, n_stream: int = 1, v_trans: bool = False, k: str = "f16", v: str = "f16"
) -> Shape:
    """A shape with layers of unequal width."""
    layers = tuple(layer(k, v, width=width, v_trans=v_trans) for width in (64, 32, 96))
    section = Attention(n_stream=n_stream, v_trans=v_trans, layers=layers)
    tensors = ((0, 96), (0, 0), (0, 40))
    return Shape(
        magic=MAGIC,
        full=None if family == "recurrent" else section,
        window=section if family == "sliding_window" else None,
        recurrent=Recurrent(2, tensors) if family in ("recurrent", "hybrid") else None,
    )


def filled(size: int, seed: int = 0) -> Bytes:
    """Random bytes."""
    return np.frombuffer(random.Random(seed).randbytes(size), np.uint8).copy()


def build(shape: Shape, n: int, *, seq: int = 0, stream: int = 0, first: int = 0) -> State:
    """A state of random rows and tensors."""
    state = State(shape, n, filled(state_bytes(shape, n), n), seq=seq, stream=stream, first=first)
    state.write_headers()
    return state


def parse(shape: Shape, data: Bytes, n: int, *, seq: int = 0, stream: int = 0) -> State:
    """What is done with bytes that came out of llama.cpp."""
    first = window_first(shape, data, n, stream=stream)
    state = State(shape, n, data, seq=seq, stream=stream, first=first)
    if state.size != len(data):
        raise BadState(f"{len(data)} bytes instead of {state.size}")
    state.sort_cells()
    state.check_headers()
    return state


def header_bytes(state: State) -> list[int]:
    """The places of a state that are not rows or tensors."""
    return [at + i for at, header in state._headers for i in range(len(header))]


def by_hand(n_stream: int, stream: int, v_trans: bool, n: int, seq: int) -> tuple[bytes, bytes]:
    """A state of one layer of 2 f16 values, and its rows, written out as llama.cpp does it."""
    keys = [bytes([10 + i, 11, 12, 13]) for i in range(n)]
    values = [bytes([50 + i, 51, 52, 53]) for i in range(n)]
    out = struct.pack("<IiI", MAGIC, seq, n_stream) + bytes(4 * stream) + struct.pack("<I", n)
    for pos in range(n):
        out += struct.pack("<iIi", pos, 1, seq)
    out += struct.pack("<II", v_trans, 1)
    out += struct.pack("<iQ", 1, 4) + b"".join(keys)
    if v_trans:
        out += struct.pack("<iII", 1, 2, 2)
        out += b"".join(v[:2] for v in values) + b"".join(v[2:] for v in values)
    else:
        out += struct.pack("<iQ", 1, 4) + b"".join(values)
    return out + bytes(4 * (n_stream - stream - 1)), b"".join(keys) + b"".join(values)


@pytest.mark.parametrize("v_trans", [False, True])
@pytest.mark.parametrize(("n_stream", "stream"), [(1, 0), (4, 0), (4, 2), (4, 3)])
def test_a_state_written_by_hand_is_read_and_written_byte_for_byte(
    n_stream: int, stream: int, v_trans: bool
) -> None:
    data, rows = by_hand(n_stream, stream, v_trans, 3, stream)
    source = np.frombuffer(data, np.uint8).copy()
    shape = learn_shape(source, 3, "plain")
    assert shape.full == Attention(n_stream, v_trans, (Layer(1, 4, 1, 4, 2 if v_trans else 0),))
    state = parse(shape, source, 3, seq=stream, stream=stream)
    assert state.full is not None
    assert state.full.take(0, 3).tobytes() == rows
    assert state.full.take(1, 2).tobytes() == rows[4:8] + rows[16:20]
    made = build(shape, 3, seq=stream, stream=stream)
    assert made.full is not None
    made.full.put(0, np.frombuffer(rows, np.uint8), 3, 3)
    assert made.bytes.tobytes() == data


def shuffled(data: Bytes, shape: Shape, n: int, *, first: int = 0) -> Bytes:
    """The same state with its cells in another order, as in a buffer that sequences share."""
    state = State(shape, n, data.copy(), first=first)
    for view, cells in ((state.full, n), (state.window, n - first)):
        if view is None:
            continue
        order = np.random.default_rng(cells).permutation(cells)
        at = view.headers[1][0] + 4
        meta = view._state[at : at + 12 * cells].reshape(cells, 12)
        meta[:] = meta[order]
        for i in range(len(view._shape.layers)):
            view.keys(i)[:] = view.keys(i)[order]
            view.values(i)[:] = view.values(i)[order]
    return state.bytes


@pytest.mark.parametrize("v_trans", [False, True])
@pytest.mark.parametrize("family", ["plain", "sliding_window", "hybrid"])
def test_cells_of_a_shared_buffer_are_read_in_the_order_of_their_positions(
    family: Family, v_trans: bool
) -> None:
    shape = shape_of(family, n_stream=1, v_trans=v_trans)
    first = 7 if family == "sliding_window" else 0
    state = build(shape, 20, first=first)
    found = shuffled(state.bytes, shape, 20, first=first)
    assert found.tobytes() != state.bytes.tobytes()
    assert parse(shape, found, 20).bytes.tobytes() == state.bytes.tobytes()


def test_cells_out_of_order_in_a_stream_of_their_own_are_refused() -> None:
    shape = shape_of("plain", n_stream=4, v_trans=False)
    state = build(shape, 20)
    with pytest.raises(BadState, match="unexpected bytes"):
        parse(shape, shuffled(state.bytes, shape, 20), 20)


def test_positions_that_are_missing_or_twice_are_refused() -> None:
    shape = shape_of("plain", n_stream=1, v_trans=False)
    found = shuffled(build(shape, 20).bytes, shape, 20)
    found[16:20] = found[28:32]  # the position of the second cell, for the first too
    with pytest.raises(BadState, match="unexpected bytes"):
        parse(shape, found, 20)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("n_stream", "v_trans"), [(1, False), (1, True), (4, False), (4, True)])
def test_a_shape_is_learned_from_a_state_of_one_token(
    family: Family, n_stream: int, v_trans: bool
) -> None:
    shape = shape_of(family, n_stream=n_stream, v_trans=v_trans)
    assert learn_shape(build(shape, 1).bytes, 1, family) == shape


@pytest.mark.parametrize(("k", "v"), list(itertools.product(TYPES, TYPES)))
def test_rows_of_every_kv_type_go_into_a_state_of_any_streams_and_come_out_again(
    k: str, v: str
) -> None:
    for v_trans in (False, True) if TYPES[v][1] == 1 else (False,):
        source = build(shape_of("plain", k=k, v=v, v_trans=v_trans), 7)
        target = build(shape_of("plain", k=k, v=v, n_stream=4), 7, seq=2, stream=2)
        assert source.full is not None
        assert target.full is not None
        for start, stop in ((0, 3), (3, 4), (4, 7)):
            rows = source.full.take(start, stop)
            target.full.put(start, rows, stop - start, stop - start)
        whole = source.full.take(0, 7)
        assert np.array_equal(target.full.take(0, 7), whole)
        keys, values = canonical_views(target.full._shape, whole, 7)[1]
        assert np.array_equal(keys, source.full.keys(1))
        assert np.array_equal(values, source.full.values(1).reshape(values.shape))
        parse(target.shape, target.bytes, 7, seq=2, stream=2)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_rows_cut_anywhere_and_put_together_are_the_same_rows(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 40))
    shape = shape_of(
        "plain", n_stream=data.draw(st.integers(1, 5)), v_trans=data.draw(st.booleans())
    )
    other = shape_of("plain", n_stream=1, v_trans=data.draw(st.booleans()))
    cuts = sorted({0, n, *data.draw(st.lists(st.integers(0, n), max_size=4))})
    source, target = build(shape, n), build(other, n)
    assert source.full is not None
    assert target.full is not None
    for start, stop in itertools.pairwise(cuts):
        longer = min(n, stop + data.draw(st.integers(0, 3)))
        rows = source.full.take(start, longer)
        target.full.put(start, rows, longer - start, stop - start)
    assert np.array_equal(target.full.take(0, n), source.full.take(0, n))


def test_segments_are_where_canonical_rows_lie_and_none_where_they_are_scattered() -> None:
    state = build(shape_of("plain", n_stream=2), 9)
    assert state.full is not None
    found = state.full.segments(2, 6)
    assert found is not None
    assert np.concatenate(found).tobytes() == state.full.take(2, 6).tobytes()
    found[0][:] = 0
    assert not state.full.keys(0)[2:6].any()
    transposed = build(shape_of("plain", v_trans=True), 9)
    assert transposed.full is not None
    assert transposed.full.segments(2, 6) is None


@pytest.mark.parametrize("family", ["sliding_window", "recurrent", "hybrid"])
@pytest.mark.parametrize("first", [0, 5])
def test_a_snapshot_put_beside_the_rows_makes_the_state_it_was_taken_from(
    family: Family, first: int
) -> None:
    n = 9
    shape = shape_of(family)
    began = first if family == "sliding_window" else 0
    size = build(shape, n, first=began).size
    source = build(shape, n, first=began)
    read = parse(shape, source.bytes[:size], n)
    target = build(shape, n)
    if read.full is not None and target.full is not None:
        target.full.put(0, read.full.take(0, n), n, n)
    target.put_snapshot(read.take_snapshot())
    assert np.array_equal(target.take_snapshot()[-136:], read.take_snapshot()[-136:])
    if target.window is not None and read.window is not None:
        assert target.window.cells == n
        assert np.array_equal(target.window.take(began, n), read.window.take(0, n - began))
        assert not target.window.take(0, began).any()


@pytest.mark.parametrize("family", ["sliding_window", "recurrent", "hybrid"])
@pytest.mark.parametrize("change", [-136, -7, -1, 1, 100_000])
def test_a_snapshot_of_another_size_is_refused(family: Family, change: int) -> None:
    state = build(shape_of(family), 9)
    snapshot = filled(len(state.take_snapshot()) + change)
    with pytest.raises(BadState):
        state.put_snapshot(snapshot)


@pytest.mark.parametrize("n", [0, 1, 6, 8])
def test_rows_of_another_number_of_tokens_are_refused(n: int) -> None:
    state = build(shape_of("plain"), 9)
    assert state.full is not None
    with pytest.raises(BadState):
        state.full.put(0, state.full.take(0, 7), n, min(n, 7))


def test_the_state_of_another_model_is_refused() -> None:
    ours = shape_of("plain")
    assert ours.full is not None
    layers = ours.full.layers
    foreign = {
        "another magic": (MAGIC + 1, ours.full),
        "one layer less": (MAGIC, Attention(1, False, layers[:-1])),
        "one layer more": (MAGIC, Attention(1, False, (*layers, layers[0]))),
        "layers in another order": (MAGIC, Attention(1, False, layers[::-1])),
        "another type of the same width": (
            MAGIC,
            Attention(1, False, tuple(layer("bf16", "f16", width=w) for w in (64, 32, 96))),
        ),
        "wider rows": (
            MAGIC,
            Attention(1, False, tuple(layer("f16", "f16", width=w) for w in (64, 32, 128))),
        ),
        "more streams": (MAGIC, Attention(2, False, layers)),
        "transposed values": (
            MAGIC,
            Attention(
                1, True, tuple(layer("f16", "f16", width=w, v_trans=True) for w in (64, 32, 96))
            ),
        ),
    }
    for magic, section in foreign.values():
        data = build(Shape(magic, section, None, None), 9).bytes
        with pytest.raises(BadState):
            parse(ours, data, 9)
        padded = np.zeros(build(ours, 9).size, np.uint8)
        padded[: min(len(data), len(padded))] = data[: len(padded)]
        with pytest.raises(BadState):
            parse(ours, padded, 9)


# Damage

CASES = [
    (family, n_stream, v_trans)
    for family in FAMILIES
    for n_stream, v_trans in ((1, False), (4, False), (4, True))
]


def damaged(data: Bytes, places: list[int], source: random.Random) -> Bytes:
    """A copy with something wrong outside the rows: flipped, overwritten, cut or longer."""
    copy = data.copy()
    match source.randrange(5):
        case 0:
            copy[source.choice(places)] ^= 1 << source.randrange(8)
        case 1:
            at = source.choice(places)
            copy[at] = (int(copy[at]) + source.randrange(1, 256)) % 256
        case 2:
            # a whole field: to its limits, or to what another field might hold
            at = places[source.randrange(len(places) // 4) * 4]
            value = source.choice([0, 1, 2, 7, 2**31 - 1, 2**31, 2**32 - 1])
            field = np.frombuffer(struct.pack("<I", value), np.uint8)
            end = min(at + 4, len(copy))
            copy[at:end] = field[: end - at]
        case 3:
            copy = copy[: source.randrange(len(copy))]
        case _:
            more = source.randrange(1, 70)
            copy = np.concatenate([copy, filled(more, source.randrange(1 << 30))])
    return copy


def assert_refused(cases: int, seed: int) -> None:
    """Damaged states are refused by what parses them, and learned as nothing wild."""
    source = random.Random(seed)
    for family, n_stream, v_trans in CASES:
        shape = shape_of(family, n_stream=n_stream, v_trans=v_trans)
        n, stream = 6, n_stream - 1
        first = 2 if family == "sliding_window" else 0
        state = State(
            shape, n, filled(state_bytes(shape, n)), seq=stream, stream=stream, first=first
        )
        state.write_headers()
        good = state.bytes.copy()
        places = header_bytes(state)
        parse(shape, good, n, seq=stream, stream=stream)
        for _ in range(cases // len(CASES)):
            bad = damaged(good, places, source)
            same = len(bad) == len(good) and all(bad[at] == good[at] for at in places)
            if same:
                continue
            with pytest.raises(BadState):
                parse(shape, bad, n, seq=stream, stream=stream)


def test_every_bit_of_every_header_matters() -> None:
    for family, n_stream, v_trans in CASES:
        shape = shape_of(family, n_stream=n_stream, v_trans=v_trans)
        state = build(shape, 3)
        places = header_bytes(state)
        assert len(places) + sum_of_rows(shape, 3) == state.size
        for at in places:
            for bit in range(8):
                state.bytes[at] ^= 1 << bit
                with pytest.raises(BadState):
                    parse(shape, state.bytes.copy(), 3)
                state.bytes[at] ^= 1 << bit
        parse(shape, state.bytes, 3)


def sum_of_rows(shape: Shape, n: int) -> int:
    """Bytes of a state that are rows or tensors."""
    return n * shape.token_bytes + shape.snapshot_bytes(n)


def test_damaged_states_are_refused() -> None:
    assert_refused(3_600, seed=1)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_hundred_thousand_damaged_states_are_refused() -> None:
    assert_refused(120_000, seed=2)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(CASES), st.integers(1, 12), st.data())
def test_a_damaged_state_of_any_length_is_refused(
    case: tuple[Family, int, bool], n: int, data: st.DataObject
) -> None:
    family, n_stream, v_trans = case
    shape = shape_of(family, n_stream=n_stream, v_trans=v_trans)
    state = build(shape, n)
    places = header_bytes(state)
    at = places[data.draw(st.integers(0, len(places) - 1))]
    bad = state.bytes.copy()
    bad[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BadState):
        parse(shape, bad, n)
    with pytest.raises(BadState):
        parse(shape, bad[: data.draw(st.integers(0, len(bad) - 1))], n)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=600), st.integers(1, 20), st.sampled_from(FAMILIES))
def test_learning_from_any_bytes_gives_a_shape_or_is_refused(
    noise: bytes, n: int, family: Family
) -> None:
    try:
        shape = learn_shape(np.frombuffer(noise, np.uint8), n, family)
    except BadState:
        return
    assert state_bytes(shape, n) == len(noise)


@pytest.mark.parametrize("family", FAMILIES)
def test_learning_from_damaged_bytes_gives_a_shape_or_is_refused(family: Family) -> None:
    state = build(shape_of(family, n_stream=2), 2)
    for at in header_bytes(state):
        for value in (0, 1, 255):
            bad = state.bytes.copy()
            bad[at] = value
            try:
                learned = learn_shape(bad, 2, family)
            except BadState:
                continue
            assert state_bytes(learned, 2) == state.size
    # of how many tensors a recurrent state has, nothing in it tells: whole ones may be missing
    ends = {state.size - 40, state.size - 52, state.size - 64} if state.shape.recurrent else set()
    for size in set(range(state.size)) - ends:
        with pytest.raises(BadState):
            learn_shape(state.bytes[:size], 2, family)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_buffer_that_is_too_short_is_refused(family: Family) -> None:
    shape = shape_of(family)
    with pytest.raises(BadState):
        State(shape, 5, np.empty(state_bytes(shape, 5) - 1, np.uint8))


@pytest.mark.parametrize("n", [0, -1])
def test_a_state_of_no_tokens_is_refused(n: int) -> None:
    with pytest.raises(BadState):
        State(shape_of("plain"), n, np.empty(1_000, np.uint8))
