"""How a model embeds: its pooling, and the sizes of the context that it does it in. Pure."""

from __future__ import annotations

import msgspec

from erllama.backend.base import EmbedCapabilities
from erllama.backend.llama.room import Room, round_cells, round_up
from erllama.config import ContextConfig, Pooling
from erllama.errors import ConfigError

POOLING_TYPES: dict[Pooling, int] = {"none": 0, "mean": 1, "cls": 2, "last": 3, "rank": 4}
"""`llama_pooling_type`, llama.h."""

_NAMES = {number: name for name, number in POOLING_TYPES.items()}


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What counts of a model.

    Attributes:
        encoder: it keeps no state: an input is computed as a whole.
        causal: a token sees those before it only.
        pooling_type: that of the file, by llama.cpp's number; none is 0.
        has_head: it has a classifier.
        n_embd: numbers in a token's vector.
        n_scores: numbers that the classifier gives.
        n_ctx_train: most positions that an encoder has learned; 0: not known.
    """

    encoder: bool
    causal: bool
    pooling_type: int
    has_head: bool
    n_embd: int
    n_scores: int
    n_ctx_train: int


class EmbedShape(msgspec.Struct, frozen=True):
    """How a context that embeds is made.

    Attributes:
        pooling_type: what llama.cpp is told.
        pooled: it makes the vector of an input itself; else it gives one per token. Its own
            pooling knows the rows of one call only, so inputs that come in parts are not left to
            it.
        rows: micro-batch that the context is made for, `can.n_rows` or somewhat more. llama.cpp
            plans its memory for rows that it rounds up to a multiple of the sequences, with only
            as many outputs as the micro-batch has rows; where it pools by the mean, a rounding
            ends the process (`graph_reserve` in src/llama-context.cpp).
        cells: tokens that all sequences hold together.
    """

    can: EmbedCapabilities
    pooling_type: int
    pooled: bool
    rows: int
    cells: int


def plan_embedding(config: ContextConfig, room: Room, facts: Facts) -> EmbedShape:
    """How a model with these properties is to embed.

    Raises:
        ConfigError: scores are asked for, and the model has no classifier.
    """
    pooling = _pooling(config, facts)
    cells = room.cells
    n_rows = min(config.n_ubatch, config.n_batch, cells)
    whole = facts.encoder or not facts.causal or pooling == "rank"
    learned = facts.n_ctx_train if facts.encoder and facts.n_ctx_train > 0 else n_rows
    # llama.cpp pools by micro-batch, and cuts those of a decoder as its memory likes
    alone = config.deterministic or (pooling == "rank" and not facts.encoder)
    pooled = facts.encoder or pooling == "rank"
    can = EmbedCapabilities(
        pooling=pooling,
        n_out=facts.n_scores if pooling == "rank" else facts.n_embd,
        n_inputs=1 if alone else config.n_seq_max,
        n_rows=n_rows,
        n_input=min(n_rows, learned) if whole else room.n_ctx,
        whole=whole,
        abort=False,
    )
    rows = round_up(n_rows, can.n_inputs) if pooled else n_rows
    return EmbedShape(
        can=can,
        pooling_type=POOLING_TYPES[pooling if pooled else "none"],
        pooled=pooled,
        rows=rows,
        cells=max(cells, round_cells(rows)),
    )


def _pooling(config: ContextConfig, facts: Facts) -> Pooling:
    pooling = config.pooling or _NAMES.get(facts.pooling_type, "none")
    if pooling == "rank" and not facts.has_head:
        if config.pooling == "rank":
            raise ConfigError(
                "ContextConfig.pooling: this model has no classifier whose scores 'rank' could "
                "give; use 'mean', 'cls' or 'last', or leave it out"
            )
        return "last"
    return "last" if pooling == "none" else pooling
