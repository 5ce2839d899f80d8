r"""Sets of characters as ECMA-262 names them, in the notation of the Rust library. Pure.

In a pattern with the `u` flag and without `i`: `\d` and `\w` are ASCII, `\s` is ECMAScript's white
space with its line terminators (ECMA-262, 22.2.2.9), `.` is all but the line terminators.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

LAST = 0x10FFFF
_SURROGATES = (0xD800, 0xDFFF)
_NOTHING = r"[^\x00-\x{10FFFF}]"

Range = tuple[int, int]
"""The first and the last code point."""

_DIGITS: list[Range] = [(0x30, 0x39)]
_WORDS: list[Range] = [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)]
_SPACES: list[Range] = [
    (0x09, 0x0D),
    (0x20, 0x20),
    (0xA0, 0xA0),
    (0x1680, 0x1680),
    (0x2000, 0x200A),
    (0x2028, 0x2029),
    (0x202F, 0x202F),
    (0x205F, 0x205F),
    (0x3000, 0x3000),
    (0xFEFF, 0xFEFF),
]
_LINE_ENDS: list[Range] = [(0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029)]

_CATEGORIES = frozenset(
    [
        "C",
        "Other",
        "Cc",
        "Control",
        "cntrl",
        "Cf",
        "Format",
        "Cn",
        "Unassigned",
        "Co",
        "Private_Use",
        "Cs",
        "Surrogate",
        "L",
        "Letter",
        "LC",
        "Cased_Letter",
        "Ll",
        "Lowercase_Letter",
        "Lm",
        "Modifier_Letter",
        "Lo",
        "Other_Letter",
        "Lt",
        "Titlecase_Letter",
        "Lu",
        "Uppercase_Letter",
        "M",
        "Mark",
        "Combining_Mark",
        "Mc",
        "Spacing_Mark",
        "Me",
        "Enclosing_Mark",
        "Mn",
        "Nonspacing_Mark",
        "N",
        "Number",
        "Nd",
        "Decimal_Number",
        "digit",
        "Nl",
        "Letter_Number",
        "No",
        "Other_Number",
        "P",
        "Punctuation",
        "punct",
        "Pc",
        "Connector_Punctuation",
        "Pd",
        "Dash_Punctuation",
        "Pe",
        "Close_Punctuation",
        "Pf",
        "Final_Punctuation",
        "Pi",
        "Initial_Punctuation",
        "Po",
        "Other_Punctuation",
        "Ps",
        "Open_Punctuation",
        "S",
        "Symbol",
        "Sc",
        "Currency_Symbol",
        "Sk",
        "Modifier_Symbol",
        "Sm",
        "Math_Symbol",
        "So",
        "Other_Symbol",
        "Z",
        "Separator",
        "Zl",
        "Line_Separator",
        "Zp",
        "Paragraph_Separator",
        "Zs",
        "Space_Separator",
    ]
)
_BINARY = frozenset(
    [
        "ASCII",
        "ASCII_Hex_Digit",
        "AHex",
        "Alphabetic",
        "Alpha",
        "Any",
        "Assigned",
        "Bidi_Control",
        "Bidi_C",
        "Bidi_Mirrored",
        "Bidi_M",
        "Case_Ignorable",
        "CI",
        "Cased",
        "Changes_When_Casefolded",
        "CWCF",
        "Changes_When_Casemapped",
        "CWCM",
        "Changes_When_Lowercased",
        "CWL",
        "Changes_When_Titlecased",
        "CWT",
        "Changes_When_Uppercased",
        "CWU",
        "Dash",
        "Default_Ignorable_Code_Point",
        "DI",
        "Deprecated",
        "Dep",
        "Diacritic",
        "Dia",
        "Emoji",
        "Emoji_Component",
        "EComp",
        "Emoji_Modifier",
        "EMod",
        "Emoji_Modifier_Base",
        "EBase",
        "Emoji_Presentation",
        "EPres",
        "Extended_Pictographic",
        "ExtPict",
        "Extender",
        "Ext",
        "Grapheme_Base",
        "Gr_Base",
        "Grapheme_Extend",
        "Gr_Ext",
        "Hex_Digit",
        "Hex",
        "ID_Continue",
        "IDC",
        "ID_Start",
        "IDS",
        "Ideographic",
        "Ideo",
        "Join_Control",
        "Join_C",
        "Logical_Order_Exception",
        "LOE",
        "Lowercase",
        "Lower",
        "Math",
        "Noncharacter_Code_Point",
        "NChar",
        "Pattern_Syntax",
        "Pat_Syn",
        "Pattern_White_Space",
        "Pat_WS",
        "Quotation_Mark",
        "QMark",
        "Radical",
        "Regional_Indicator",
        "RI",
        "Sentence_Terminal",
        "STerm",
        "Soft_Dotted",
        "SD",
        "Terminal_Punctuation",
        "Term",
        "Unified_Ideograph",
        "UIdeo",
        "Uppercase",
        "Upper",
        "Variation_Selector",
        "VS",
        "White_Space",
        "space",
        "XID_Continue",
        "XIDC",
        "XID_Start",
        "XIDS",
    ]
)
"""Names are exact in ECMA-262; the Rust library takes any case, and other names too."""
_SCRIPT = re.compile(r"(Script|sc|Script_Extensions|scx)=([A-Za-z_]+)")
_CATEGORY = re.compile(r"(?:General_Category|gc)=(\w+)")


@dataclass(slots=True)
class CharacterSet:
    """Characters by ranges and by Unicode properties, in the Rust library's words."""

    ranges: list[Range] = field(default_factory=list)
    properties: list[str] = field(default_factory=list)
    negated: bool = False

    def add(self, other: CharacterSet) -> None:
        """Take in another one, which is not negated."""
        self.ranges += other.ranges
        self.properties += other.properties

    def rust(self) -> str:
        """A class of the Rust library."""
        ranges = _without(self.ranges, [_SURROGATES])
        if not ranges and not self.properties:
            return r"(?s:.)" if self.negated else _NOTHING
        if self.negated and not _without([(0, LAST)], sorted([*ranges, _SURROGATES])):
            return _NOTHING
        if (
            len(ranges) == 1
            and ranges[0][0] == ranges[0][1]
            and not (self.negated or self.properties)
        ):
            return _code(ranges[0][0])
        inside = "".join(map(_range, ranges)) + "".join(self.properties)
        return f"[{'^' if self.negated else ''}{inside}]"


def one(code: int) -> CharacterSet:
    """A single code point; half of a surrogate pair matches no text."""
    return CharacterSet([(code, code)])


def dot() -> CharacterSet:
    """What `.` matches without the `s` flag."""
    return CharacterSet(list(_LINE_ENDS), negated=True)


def shorthand(letter: str) -> CharacterSet | None:
    r"""What `\d`, `\D`, `\s`, `\S`, `\w` or `\W` matches; None for other letters."""
    known = {"d": _DIGITS, "s": _SPACES, "w": _WORDS}.get(letter.lower())
    if known is None:
        return None
    return CharacterSet(list(known) if letter.islower() else _without([(0, LAST)], known))


def unicode_property(text: str, *, negated: bool) -> CharacterSet | None:
    r"""What `\p{text}` or `\P{text}` matches; None if ECMA-262 has no such property."""
    category, script = _CATEGORY.fullmatch(text), _SCRIPT.fullmatch(text)
    if script:
        name = "Script" if script[1] in ("Script", "sc") else "Script_Extensions"
        rust = f"{name}={script[2]}"
    elif category:
        if category[1] not in _CATEGORIES:
            return None
        rust = f"General_Category={category[1]}"
    elif text in _CATEGORIES:
        rust = f"General_Category={text}"
    elif text in _BINARY:
        rust = text
    else:
        return None
    return CharacterSet(properties=[f"\\{'P' if negated else 'p'}{{{rust}}}"])


def _without(ranges: Iterable[Range], others: list[Range]) -> list[Range]:
    """`ranges` without what is in `others`, which are in order."""
    left: list[Range] = []
    for start, end in ranges:
        for first, last in others:
            if start < first:
                left.append((start, min(end, first - 1)))
            start = max(start, last + 1)
        if start <= end:
            left.append((start, end))
    return [(start, end) for start, end in left if start <= end]


def _range(span: Range) -> str:
    first, last = span
    return _code(first) if first == last else f"{_code(first)}-{_code(last)}"


def _code(code: int) -> str:
    return chr(code) if chr(code).isascii() and chr(code).isalnum() else f"\\x{{{code:X}}}"
