"""The chat templates of a file, and which of them chats are written with. Pure.

A file has one under `tokenizer.chat_template`, and may have more, each under that key with a name
behind it; so GGUFs have what `chat_template` is in a tokenizer's configuration when that is a list.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from erllama.errors import ConfigError

DEFAULT = "default"
_KEY = "tokenizer.chat_template"
_WORD = re.compile(r"[\w.-]{1,64}")
_USUAL = (DEFAULT, "tool_use", "rag")


class Templates(NamedTuple):
    """What chats are written with.

    Attributes:
        default: unless another one is meant; None: there is none.
        named: the others.
    """

    default: str | None
    named: dict[str, str]


def choose_templates(metadata: Mapping[str, object], chosen: str | None) -> Templates:
    """The templates of a model.

    Args:
        metadata: the file's.
        chosen: `ModelConfig.chat_template`: a name, which is then for all chats, or a template.

    Raises:
        ConfigError: a name that the file does not have.
    """
    known = _in_file(metadata)
    if chosen is None:
        return Templates(known.pop(DEFAULT, None), known)
    if chosen in known:
        return Templates(known[chosen], {})
    _check_is_template(chosen, known)
    return Templates(chosen, {})


def _in_file(metadata: Mapping[str, object]) -> dict[str, str]:
    """By name."""
    found = {
        key.removeprefix(_KEY).removeprefix(".") or DEFAULT: text
        for key, text in metadata.items()
        if (key == _KEY or key.startswith(f"{_KEY}.")) and isinstance(text, str)
    }
    return {name: text for name, text in found.items() if text}


def _check_is_template(chosen: str, known: Mapping[str, str]) -> None:
    """A word is a template that writes just this word, unless a name was meant."""
    named = len(known) > 1 or (known and DEFAULT not in known)
    if _WORD.fullmatch(chosen) and (named or chosen in _USUAL):
        names = ", ".join(sorted(known)) or "none at all"
        raise ConfigError(
            f"ModelConfig.chat_template: the file has no template {chosen!r}; it has {names}; "
            "name one of those, or give the text of a template"
        )
