"""How much of a context is allocated for what was asked for. Pure."""

from __future__ import annotations

import msgspec

from erllama.config import ContextConfig
from erllama.errors import ConfigError

_CELLS = 256
"""llama.cpp makes the cells of a sequence a multiple of this (src/llama-context.cpp)."""

_LEAST_ROWS, _ROW_STEP = 8, 4
"""Numbers of rows that are computed alike (docs/exact-slicing.md)."""


class Room(msgspec.Struct, frozen=True):
    """The sizes of a context.

    Attributes:
        n_ctx: longest context of one request, in tokens.
        n_seq: sequences, those included that are never anything but padding.
        cells: of one sequence, in tokens.
    """

    n_ctx: int
    n_seq: int
    cells: int

    @property
    def total(self) -> int:
        """Cells of all sequences, be they in streams or in one buffer."""
        return self.n_seq * self.cells


def plan_room(config: ContextConfig, n_ctx: int, *, original: int | None = None) -> Room:
    """The room for `config.n_seq_max` requests of up to `n_ctx` tokens.

    A deterministic context pads every call to a number of rows that is computed alike: that takes
    further sequences, and a cell behind a full context.

    Args:
        original: most cells with which the model computes as it was trained first (LongRoPE).
            A request of just this length has to do without its last token where the cell behind
            it would change all numbers.
    """
    rounded = round_up(n_ctx, _CELLS)
    if not config.deterministic:
        return Room(n_ctx=rounded, n_seq=config.n_seq_max, cells=rounded)
    cells = round_up(n_ctx + 1, _CELLS)
    if original is not None and rounded <= original < cells:
        cells = rounded
    return Room(n_ctx=min(rounded, cells - 1), n_seq=padded_rows(config.n_seq_max), cells=cells)


def padded_rows(n: int) -> int:
    """Rows of a deterministic call that has `n` or fewer."""
    return max(_LEAST_ROWS, round_up(n, _ROW_STEP))


def window_cells(room: Room, config: ContextConfig, *, n_swa: int, n_ubatch: int) -> int:
    """Cells of sliding-window layers, of all sequences (src/llama-kv-cache-iswa.cpp).

    Args:
        n_swa: tokens that the window spans.
    """
    if config.swa_full:
        return room.total
    streams = 1 if config.kv_unified else room.n_seq
    windows = n_swa * (room.n_seq // streams)
    return streams * round_up(min(room.total // streams, windows + n_ubatch), _CELLS)


def check_room(config: ContextConfig, room: Room, n_seq_limit: int) -> None:
    """Refuse more sequences than a call or llama.cpp can have.

    Args:
        n_seq_limit: `llama_max_parallel_sequences`.

    Raises:
        ConfigError: names the field and the limit.
    """
    asked = f"ContextConfig.n_seq_max: {config.n_seq_max} sequences"
    if room.n_seq > n_seq_limit:
        raise ConfigError(
            f"{asked} are more than the {n_seq_limit} that llama.cpp can compute side by side; "
            "lower n_seq_max"
        )
    # with more sequences than rows, llama.cpp ends the process when it makes the context
    for field, rows in (("n_batch", config.n_batch), ("n_ubatch", config.n_ubatch)):
        if room.n_seq > rows:
            raise ConfigError(
                f"{asked} need {room.n_seq} rows in one call, {field} is {rows}; raise {field} or "
                "lower n_seq_max"
            )


def round_cells(n: int) -> int:
    """The cells that llama.cpp allocates for `n` tokens of a sequence."""
    return round_up(n, _CELLS)


def round_up(n: int, step: int) -> int:
    """The least multiple of `step` that is `n` or more."""
    return -(-n // step) * step
