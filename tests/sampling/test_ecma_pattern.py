r"""`pattern` means what ECMA-262 says with the `u` flag, or is refused with the column."""

from __future__ import annotations

from typing import Any

import pytest

from erllama.errors import InvalidGrammar
from erllama.sampling.ecma_pattern import PatternError, translated
from tests.sampling.taking import string, taker

MEANT: list[tuple[str, list[str], list[str]]] = [
    ("^.$", ["a", "é", "😀", "\t", "\x0b", "\x85"], ["\n", "\r", "\u2028", "\u2029", "ab", ""]),
    ("^[^a~~b]$", ["c", "&"], ["a", "b", "~", ""]),
    ("^[a&&b]$", ["a", "b", "&"], ["c", "a&"]),
    ("^[+--]$", ["+", ",", "-"], ["."]),
    (r"^[[:alpha:]\]$", [":]", "a]", "[]"], ["b]", "a"]),
    (r"^[^\s]$", ["a", "\u200b"], [" ", "\t", "\u00a0", "\ufeff", "\u2028", "\u3000"]),
    (r"^\s$", ["\ufeff", "\u2029", "\u00a0", "\n"], ["a", "\u0085", "\u200b"]),
    (r"^\S$", ["a", "\u0085", "\u200b"], ["\ufeff", "\u2003"]),
    (r"^\d\D$", ["1a", "1٣"], ["٣a", "11"]),
    (r"^\w\W$", ["_é", "a-"], ["éa", "aa"]),
    (r"^[\w-]$", ["a", "-"], ["é"]),
    (r"^[\d.\-]+$", ["1.-"], ["a"]),
    (r"^[\b]$", ["\b"], ["b"]),
    (r"^\cJ\cj$", ["\n\n"], ["jj"]),
    (r"^\x41\u0042\u{43}\u{1F600}$", ["ABC😀"], ["ABC"]),
    (r"^\ud83d\ude00$", ["😀"], ["a"]),
    (r"^[\ud83d\ude00-\ud83d\ude02]$", ["😀", "😁", "😂"], ["😃"]),
    (r"^[\ud800-\udfffa]$", ["a"], ["😀"]),
    (r"^\p{Lu}\p{Script=Greek}\P{L}$", ["Aλ1"], ["aλ1", "Aa1", "Aλa"]),
    (r"^[\p{L}\p{Nd}_]+$", ["é٣_"], ["-"]),
    (r"^\p{gc=Lu}\p{Emoji_Presentation}$", ["A😀"], ["a😀"]),
    ("a|^b$|c$", ["xax", "b", "xc"], ["xb", "bx", "cx"]),
    ("(^a|b)c", ["acx", "xbc"], ["xac", "b"]),
    ("(?:^|,)x(?:,|$)", ["x", "a,x,b", "x,b"], ["ax", "xb"]),
    ("^^a$$", ["a"], ["aa"]),
    ("^$", [""], ["a"]),
    ("", ["", "abc\n"], []),
    ("(?<year>[0-9]{2})-(?:a+?b*?){1,}c??", ["99-abx"], ["9-a", "99-b"]),
    ("^a{2}b{1,}c{0,1}$", ["aab", "aabbc"], ["ab", "aabcc"]),
    ("^[^]$", ["\n", "a"], [""]),
    (r"^\/\-\.\{\}$", ["/-.{}"], ["/-x{}"]),
    (r"^\0$", [], ["0", ""]),
    ("^(?:a|[])$", ["a"], [""]),
]


@pytest.mark.parametrize(("pattern", "good", "bad"), MEANT)
def test_a_pattern_means_what_ecmascript_says(
    pattern: str, good: list[str], bad: list[str]
) -> None:
    if not good:
        with pytest.raises(InvalidGrammar):  # nothing that could be spelt matches it
            taker({"type": "string", "pattern": pattern})
        return
    takes = taker({"type": "string", "pattern": pattern})
    good = [text for text in good if "\x0b" not in text]  # which only \u could spell
    assert [text for text in good if not takes(spelt(text))] == []
    assert [text for text in bad if takes(spelt(text))] == []


def spelt(text: str) -> str:
    """The one spelling that is written."""
    return string(text).replace("\\u0008", "\\b").replace("\\u000c", "\\f")


def test_patterns_of_properties_mean_the_same() -> None:
    takes = taker(
        {
            "type": "object",
            "patternProperties": {"^[^a~~b]$": {"type": "null"}, "^a.$": {"const": 1}},
            "additionalProperties": False,
        }
    )
    assert takes('{"c": null, "ab": 1}')
    assert not takes('{"~": null}')
    assert not takes('{"a\u2028": 1}')
    names = taker({"type": "object", "propertyNames": {"pattern": r"^[^\s]$"}})
    assert names('{"a": 1}')
    assert not names('{"\ufeff": 1}')


def test_patterns_that_mean_the_same_hold_both() -> None:
    takes = taker(
        {
            "type": "object",
            "patternProperties": {"^a+?$": {"minimum": 2}, "^a+$": {"type": "integer"}},
            "additionalProperties": False,
        }
    )
    assert takes('{"a": 2}')
    assert not takes('{"a": 1}')
    assert not takes('{"a": null}')


WRONG: list[tuple[str, int, str]] = [
    ("a(?=b)", 2, "look-around"),
    ("(?<!a)b", 1, "look-around"),
    (r"(a)\1", 4, "backreferences"),
    (r"(?<n>a)\k<n>", 8, "backreferences"),
    (r"a\b", 2, "word boundaries"),
    (r"\Ba", 1, "word boundaries"),
    ("a^b", 2, r"\^ can only be followed at the beginning"),
    ("(a$)*", 3, r"\$ can only be followed at the end"),
    ("^*", 1, "cannot be repeated"),
    ("a**", 3, "nothing to repeat"),
    ("*a", 1, "nothing to repeat"),
    ("a{2", 2, "no quantifier"),
    ("a{,2}", 2, "no quantifier"),
    ("{a}", 1, "a single {"),
    ("a]", 2, "a single ]"),
    ("a{3,2}", 2, "out of order"),
    ("a{100001}", 2, "more than 100,000 times"),
    ("[b-a]", 2, "out of order"),
    (r"[\w-a]", 2, "a range of a whole class"),
    ("[a", 1, "unclosed character class"),
    ("(a", 1, "unclosed group"),
    ("a)", 2, "unopened group"),
    ("(?i:a)", 1, "no group"),
    ("(?<a>b)(?<a>c)", 8, "used twice"),
    ("(?<1>b)", 1, "no identifier"),
    ("a\\", 2, "nothing behind it"),
    (r"\a", 1, r"\\a is no escape"),
    (r"\A", 1, "no escape"),
    (r"\x4", 1, "2 hexadecimal digits"),
    (r"\u12", 1, "4 hexadecimal digits"),
    (r"\u{110000}", 1, "no such code point"),
    (r"\u{}", 1, "expected a code point"),
    (r"\p{Nope}", 1, "no property"),
    (r"\p{lu}", 1, "no property"),
    (r"\pL", 1, "no property"),
    ("(" * 51 + ")" * 51, 51, "nested parentheses"),
    ("(^|a)(^|a)b(^|a)", 13, "can only be followed"),
]


@pytest.mark.parametrize(("pattern", "column", "said"), WRONG)
def test_a_pattern_that_cannot_be_followed_is_refused_with_its_column(
    pattern: str, column: int, said: str
) -> None:
    with pytest.raises(PatternError, match=f"^column {column}: .*{said}") as refused:
        translated(pattern)
    assert refused.value.column == column
    with pytest.raises(InvalidGrammar, match=f"at /pattern: column {column}: "):
        taker({"pattern": pattern})


def test_many_anchors_are_refused_before_they_multiply() -> None:
    with pytest.raises(PatternError, match="more than 500 alternatives"):
        translated("".join("(^|a" for _ in range(20)) + ")" * 20 + "|(^b|c)" * 600)


@pytest.mark.parametrize("schema", [{"minLength": 2, "maxLength": 2}, {"pattern": "^.{2}$"}])
def test_lengths_count_code_points(schema: dict[str, Any]) -> None:
    takes = taker({"type": "string", **schema})
    assert takes('"😀é"')
    assert takes('"\\n\\""') is ("pattern" not in schema)
    assert not takes('"😀"')
