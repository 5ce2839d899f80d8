"""Keywords of JSON Schema 2020-12 that say something about a value and do not limit it. Pure."""

from __future__ import annotations

SILENT = frozenset(
    (
        "$schema",
        "$id",
        "$comment",
        "$anchor",
        "$dynamicAnchor",
        "$vocabulary",
        "$defs",
        "definitions",
        "title",
        "description",
        "default",
        "examples",
        "example",
        "deprecated",
        "readOnly",
        "writeOnly",
        "contentEncoding",
        "contentMediaType",
        "contentSchema",
        "discriminator",
    )
)
"""These, and those that begin with x-, are left out without a word."""

_LOOKS_BACK = "cannot be followed while a text is written; leave it out and check the result"
REFUSED = {
    **dict.fromkeys(("not", "if", "then", "else", "contains", "minContains"), _LOOKS_BACK),
    **dict.fromkeys(("maxContains", "dependentRequired", "dependentSchemas"), _LOOKS_BACK),
    **dict.fromkeys(("unevaluatedProperties", "unevaluatedItems"), _LOOKS_BACK),
    "dependencies": "is of an older draft, and cannot be followed; leave it out",
    "additionalItems": "is of an older draft; write items beside prefixItems",
    "$dynamicRef": "write $ref",
    "$recursiveRef": "write $ref",
}
"""Keywords that limit a value and cannot be followed, with the reason."""

MAX_WARNINGS = 50


class Warnings:
    """What of a schema is an annotation, though it may not have been meant as one."""

    def __init__(self) -> None:
        self._said: dict[str, None] = {}
        self._left = 0

    def add(self, path: str, reason: str) -> None:
        """Note what stands at a JSON pointer."""
        text = f"json_schema: at {path}: {reason}"
        if text in self._said:
            return
        if len(self._said) < MAX_WARNINGS:
            self._said[text] = None
        else:
            self._left += 1

    def unknown_keyword(self, path: str) -> None:
        """A keyword that JSON Schema does not have."""
        self.add(path, "no keyword of JSON Schema 2020-12, so it limits nothing")

    def unknown_format(self, path: str, name: str) -> None:
        """A format that is not followed."""
        shown = name if len(name) <= 40 else f"{name[:39]}…"
        self.add(path, f"the format {shown!r} is not followed, so it limits nothing")

    def all(self) -> tuple[str, ...]:
        """In the order in which they were met."""
        if not self._left:
            return tuple(self._said)
        return (*self._said, f"json_schema: {self._left:,} more of this kind")
