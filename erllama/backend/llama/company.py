"""Whether the rows of a padded decode call depend on each other: tried out, on the lane.

Which kernels compute a row depends on how many rows there are, and in a mixture of experts on how
many of them an expert gets. The sizes that a deterministic context uses are computed alike by the
kernels that are known (docs/exact-slicing.md); this finds the ones that are not.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Sequence
from typing import Any

from erllama.backend.base import Row
from erllama.backend.llama.batch import Batch
from erllama.backend.llama.library import llama
from erllama.backend.llama.room import padded_rows
from erllama.errors import ModelLoadError


def rows_keep_apart(context: Any, n_seq: int, n_vocab: int) -> bool:
    """Whether a row has the same logits wherever in a call it is, and in whatever company.

    Args:
        context: the native context; it is empty before and afterwards.
        n_seq: sequences of the context, as many as `padded_rows` gives.

    Raises:
        ModelLoadError: such a call cannot be computed.
    """
    tokens = [(17 * i + 5) % n_vocab for i in range(n_seq)]
    first, *others = [_logits(context, tokens[:n], n_vocab) for n in _sizes(n_seq)]
    alone = dict(zip(tokens, first, strict=False))
    reversed_rows = zip(tokens[::-1], _logits(context, tokens[::-1], n_vocab), strict=True)
    same_rows = _logits(context, tokens[:1] * n_seq, n_vocab)
    return (
        all(rows[: len(first)] == first for rows in others)
        and all(alone.get(token, logits) == logits for token, logits in reversed_rows)
        and all(logits == first[0] for logits in same_rows)
    )


def _sizes(n_seq: int) -> list[int]:
    """The least number of rows of a call, and the next one; the other calls have all sequences."""
    least = padded_rows(1)
    return sorted({least, min(n_seq, padded_rows(least + 1))})


def _logits(context: Any, tokens: Sequence[int], n_vocab: int) -> list[bytes]:
    """Digests of the logits of tokens at position 0 of as many sequences, from one call."""
    lib = llama()
    batch = Batch(len(tokens))
    batch.fill_rows([Row(seq, 0, token) for seq, token in enumerate(tokens)])
    code = lib.llama_decode(context, batch.native)
    if code:
        raise ModelLoadError(
            f"ContextConfig.deterministic: a call of {len(tokens)} padded rows failed "
            f"(llama_decode returned {code}); lower n_seq_max, or set it to False"
        )
    rows = [_row(lib, context, i, n_vocab) for i in range(len(tokens))]
    lib.llama_memory_clear(lib.llama_get_memory(context), True)
    return rows


def _row(lib: Any, context: Any, row: int, n_vocab: int) -> bytes:
    """A digest: the logits of many sequences and a large vocabulary are a lot of memory."""
    pointer = lib.llama_get_logits_ith(context, row)
    logits = ctypes.string_at(pointer, ctypes.sizeof(ctypes.c_float) * n_vocab)
    return hashlib.blake2b(logits, digest_size=16).digest()
