"""The ids of texts that begin a context, or stand in the middle of one."""

from __future__ import annotations

import array

from erllama.backend.base import Engine

_ANCHORS = ("\n", ".", "a")
_NEAR = 1_000  # characters from the beginning


def tokenize_prompt(
    engine: Engine, text: str, *, add_special: bool = True, parse_special: bool = True
) -> array.array[int]:
    """Ids of a text that a model is to go on from, or, of an encoder, that it is to embed.

    A model that generates would take the token for the end of a text, which some files ask to have
    added, for the end of its own; so none is put behind a prompt. One for the beginning is put
    before it where the model was trained with one and the text does not spell it already.
    An encoder gets what it was trained with around its texts.

    Raises:
        RequestError: half of a surrogate pair.
    """
    info = engine.info
    of_encoder = info.embeds_only and not engine.capabilities.generate
    ids = engine.tokenize(text, add_special=add_special and of_encoder, parse_special=parse_special)
    begin = info.begin_token if add_special and not of_encoder else None
    if begin is not None and not _begins(text, ids, begin, info.bos_token):
        ids.insert(0, begin)
    return ids


def _begins(text: str, ids: array.array[int], begin: int, spelled: str) -> bool:
    """Whether a text spells the token for its beginning, perhaps behind white space."""
    if ids[:1] == array.array("i", [begin]):
        return True
    return bool(spelled) and begin in ids and text[:_NEAR].lstrip().startswith(spelled)


def tokenize_behind(engine: Engine, text: str) -> array.array[int]:
    """Ids of a text that stands behind another one.

    SentencePiece vocabularies put a space before whatever they are given first.
    """
    ids = engine.tokenize(text, add_special=False, parse_special=True)
    for anchor in _ANCHORS:
        first = engine.tokenize(anchor, add_special=False, parse_special=True)
        both = engine.tokenize(anchor + text, add_special=False, parse_special=True)
        if first and both[: len(first)] == first:  # else the two are spelled in one
            return both[len(first) :]
    return ids
