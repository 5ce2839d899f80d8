"""Checking what rules a text without a vocabulary. Pure."""

from __future__ import annotations

from erllama.sampling.effort import Pause
from erllama.sampling.gbnf import parse_gbnf
from erllama.sampling.plan import Grammar


def check_structure(stage: Grammar, pause: Pause | None = None) -> None:
    """Refuse a grammar, schema or expression that cannot be used.

    Raises:
        InvalidGrammar: with the place.
    """
    if stage.kind == "grammar":
        parse_gbnf(stage.text, pause)
        return
    from erllama.sampling.guided import check_guided  # loads the library, which takes a while

    check_guided(stage)
