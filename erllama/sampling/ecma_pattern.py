r"""A `pattern` of JSON Schema in the notation that llguidance takes. Pure.

JSON Schema means the regular expressions of ECMA-262 with the `u` flag, which need not match the
whole text. llguidance takes those of the Rust library, in which `[a&&b]`, `[a--b]` and
`[[:alpha:]]` are operations, `.` and `\s` are other sets and `^` means the beginning only in front.
So a pattern is read here and written again from sets of code points, always for the whole text.

What can be followed while a text is written is regular: look-around, back references and word
boundaries are refused, and `^` and `$` where they are not at the ends of an alternative.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from erllama.sampling.ecma_classes import (
    LAST,
    CharacterSet,
    dot,
    one,
    shorthand,
    unicode_property,
)

MAX_REPETITIONS = 100_000
MAX_GROUPS_DEEP = 50
MAX_ALTERNATIVES = 500
_ANYTHING = "(?s:.*)"
_CONTROLS = {"t": 0x09, "n": 0x0A, "v": 0x0B, "f": 0x0C, "r": 0x0D}
_NOT_REGULAR = {
    "?=": "look-around",
    "?!": "look-around",
    "?<=": "look-around",
    "?<!": "look-around",
}


class PatternError(ValueError):
    """What is wrong with a pattern, and at which character, counted from 1."""

    def __init__(self, at: int, reason: str) -> None:
        super().__init__(f"column {at + 1}: {reason}")
        self.column = at + 1


@dataclass(frozen=True, slots=True)
class _Anchor:
    sign: str
    at: int


@dataclass(frozen=True, slots=True)
class _Group:
    """A choice; `repeated` is the quantifier behind it."""

    choices: tuple[tuple[_Node, ...], ...]
    repeated: str = ""


_Node = str | _Anchor | _Group
"""A string is an expression that has no anchor in it."""
_Sequence = tuple[_Node, ...]


def translated(pattern: str) -> str:
    """A pattern that matches the whole of those texts in which `pattern` matches a part.

    Raises:
        PatternError: it is no pattern, or cannot be followed.
    """
    whole = _Parser(pattern).pattern()
    lines = []
    for line in _unfolded(whole):
        starts = bool(line) and _is(line[0], "^")
        ends = bool(line) and _is(line[-1], "$")
        while line and _is(line[0], "^"):
            line = line[1:]
        while line and _is(line[-1], "$"):
            line = line[:-1]
        before, behind = ("" if starts else _ANYTHING), ("" if ends else _ANYTHING)
        lines.append(f"{before}{_written(line)}{behind}")
    return f"^(?:{'|'.join(lines)})$"


# Anchors


def _is(node: _Node, sign: str) -> bool:
    return isinstance(node, _Anchor) and node.sign == sign


def _anchored(node: _Node) -> bool:
    if isinstance(node, _Group):
        return any(_anchored(one) for choice in node.choices for one in choice)
    return isinstance(node, _Anchor)


def _unfolded(choices: tuple[_Sequence, ...]) -> list[_Sequence]:
    """The choices with groups at their ends taken apart that have anchors in them."""
    done: list[_Sequence] = []
    todo = list(reversed(choices))
    while todo:
        line = todo.pop()
        at, group = _group_with_anchors(line)
        if group is None:
            done.append(line)
        else:
            todo += [line[:at] + choice + line[at + 1 :] for choice in reversed(group.choices)]
        if len(todo) + len(done) > MAX_ALTERNATIVES:
            raise PatternError(0, f"more than {MAX_ALTERNATIVES} alternatives around ^ or $")
    return done


def _group_with_anchors(line: _Sequence) -> tuple[int, _Group | None]:
    """A group that may be taken apart, and its place: behind or before nothing but anchors."""
    first = next((at for at, node in enumerate(line) if not _is(node, "^")), None)
    last = next((at for at in reversed(range(len(line))) if not _is(line[at], "$")), None)
    for at in (first, last):
        node = None if at is None else line[at]
        if at is not None and isinstance(node, _Group) and not node.repeated and _anchored(node):
            return at, node
    return 0, None


def _written(nodes: _Sequence) -> str:
    """As the Rust library has it.

    Raises:
        PatternError: there is an anchor.
    """
    return "".join(map(_node, nodes))


def _node(node: _Node) -> str:
    if isinstance(node, _Anchor):
        where = "beginning" if node.sign == "^" else "end"
        raise PatternError(
            node.at, f"{node.sign} can only be followed at the {where} of an alternative"
        )
    if isinstance(node, _Group):
        inside = "|".join(_written(choice) for choice in node.choices)
        return f"(?:{inside}){node.repeated}"
    return node


# The grammar of ECMA-262, 22.2.1, with the u flag


class _Parser:
    def __init__(self, pattern: str) -> None:
        self._text = pattern
        self._at = 0
        self._deep = 0
        self._names: set[str] = set()

    def pattern(self) -> tuple[_Sequence, ...]:
        choices = self._choices()
        if self._at < len(self._text):
            self._fail("unopened group: ) without (")
        return choices

    def _fail(self, reason: str, at: int | None = None) -> NoReturn:
        raise PatternError(self._at if at is None else at, reason)

    def _peek(self, length: int = 1) -> str:
        return self._text[self._at : self._at + length]

    def _take(self) -> str:
        char = self._peek()
        self._at += 1
        return char

    def _takes(self, text: str) -> bool:
        if not self._text.startswith(text, self._at):
            return False
        self._at += len(text)
        return True

    def _choices(self) -> tuple[_Sequence, ...]:
        choices = [self._sequence()]
        while self._takes("|"):
            choices.append(self._sequence())
        return tuple(choices)

    def _sequence(self) -> _Sequence:
        nodes: list[_Node] = []
        while self._at < len(self._text) and self._peek() not in "|)":
            nodes.append(self._term())
        return tuple(nodes)

    def _term(self) -> _Node:
        at = self._at
        atom = self._atom()
        quantifier = self._quantifier()
        if not quantifier:
            return atom
        if isinstance(atom, _Anchor):
            self._fail(f"{atom.sign} cannot be repeated", at)
        if isinstance(atom, _Group):
            return _Group(atom.choices, quantifier)
        return f"{atom}{quantifier}"

    def _quantifier(self) -> str:
        char = self._peek()
        if char and char in "*+?":
            quantifier = self._take()
        elif char == "{":
            quantifier = self._braces()
        else:
            return ""
        self._takes("?")  # lazy: of the same texts
        if self._peek() and self._peek() in "*+?{":
            self._fail("nothing to repeat")
        return quantifier

    def _braces(self) -> str:
        at = self._at
        self._take()
        least = self._number()
        most = least
        comma = self._takes(",")
        if comma:
            most = self._number()
        if least is None or not self._takes("}"):
            self._fail("{ is no quantifier here; write \\{ for the character", at)
        if max(least, most or 0) > MAX_REPETITIONS:
            self._fail(f"repeats more than {MAX_REPETITIONS:,} times", at)
        if most is not None and most < least:
            self._fail("the numbers of the quantifier are out of order", at)
        if not comma:
            return f"{{{least}}}"
        return f"{{{least},{'' if most is None else most}}}"

    def _number(self) -> int | None:
        start = self._at
        while self._peek() and self._peek() in "0123456789":
            self._at += 1
        digits = self._text[start : self._at]
        return int(digits[:12]) if digits else None

    def _atom(self) -> _Node:
        at = self._at
        char = self._take()
        match char:
            case "^" | "$":
                return _Anchor(char, at)
            case "(":
                return self._group(at)
            case "[":
                return self._class(at).rust()
            case ".":
                return dot().rust()
            case "\\":
                return self._escape(at).rust()
            case "*" | "+" | "?":
                self._fail("nothing to repeat", at)
            case "{" | "}" | "]":
                self._fail(f"a single {char}; write \\{char} for the character", at)
        return one(ord(char)).rust()

    def _group(self, at: int) -> _Group:
        self._deep += 1
        if self._deep > MAX_GROUPS_DEEP:
            self._fail(f"more than {MAX_GROUPS_DEEP} nested parentheses", at)
        if self._peek() == "?":
            self._kind_of_group(at)
        choices = self._choices()
        if not self._takes(")"):
            self._fail("unclosed group", at)
        self._deep -= 1
        return _Group(choices)

    def _kind_of_group(self, at: int) -> None:
        if self._takes("?:"):
            return
        for sign, what in _NOT_REGULAR.items():
            if self._peek(len(sign)) == sign:
                self._fail(f"{what} cannot be followed while a text is written", at)
        if not self._takes("?<"):
            self._fail("no group of ECMA-262", at)
        end = self._text.find(">", self._at)
        name = self._text[self._at : end] if end > 0 else ""
        if not name.replace("$", "_").isidentifier() or name in self._names:
            self._fail("a group's name is no identifier, or is used twice", at)
        self._names.add(name)
        self._at = end + 1

    # Escapes

    def _escape(self, at: int, *, in_class: bool = False) -> CharacterSet:
        char = self._take()
        if not char:
            self._fail("a backslash with nothing behind it", at)
        known = shorthand(char)
        if known is not None:
            return known
        if char in "pP":
            return self._property(at, negated=char == "P")
        return one(self._code(char, at, in_class))

    def _code(self, char: str, at: int, in_class: bool) -> int:
        if char in _CONTROLS:
            return _CONTROLS[char]
        if char == "b" and in_class:
            return 0x08
        if char == "0" and not self._peek().isdecimal():
            return 0
        if char == "c" and self._peek().isascii() and self._peek().isalpha():
            return ord(self._take()) % 32
        if char == "x":
            return self._hex(2, at)
        if char == "u":
            return self._unicode(at)
        if char.isascii() and char.isprintable() and not char.isalnum() and char != " ":
            return ord(char)  # more than the u flag takes, with the one meaning that it can have
        return self._no_escape(char, at, in_class)

    def _no_escape(self, char: str, at: int, in_class: bool) -> NoReturn:
        if char in "bB" and not in_class:
            self._fail("word boundaries cannot be followed while a text is written", at)
        if char == "k" or (char.isdecimal() and not in_class):
            self._fail("backreferences are not supported", at)
        self._fail(f"\\{char} is no escape of ECMA-262", at)

    def _hex(self, length: int, at: int) -> int:
        digits = self._peek(length)
        if len(digits) < length or any(one not in "0123456789abcdefABCDEF" for one in digits):
            self._fail(f"expected {length} hexadecimal digits", at)
        self._at += length
        return int(digits, 16)

    def _unicode(self, at: int) -> int:
        if self._takes("{"):
            end = self._text.find("}", self._at)
            digits = self._text[self._at : end].lstrip("0") or "0"
            if end <= self._at or len(digits) > 6:
                self._fail("expected a code point in hexadecimal digits and }", at)
            self._at = end - len(digits)
            code = self._hex(len(digits), at)
            self._at = end + 1
            if code > LAST:
                self._fail("there is no such code point", at)
            return code
        code = self._hex(4, at)
        if 0xD800 <= code < 0xDC00 and self._peek(2) == "\\u" and self._peek(3) != "\\u{":
            before = self._at
            self._at += 2
            low = self._hex(4, before)
            if 0xDC00 <= low < 0xE000:
                return 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
            self._at = before
        return code

    def _property(self, at: int, *, negated: bool) -> CharacterSet:
        end = self._text.find("}", self._at)
        text = self._text[self._at + 1 : end] if self._peek() == "{" and end > 0 else ""
        found = unicode_property(text, negated=negated)
        if found is None:
            self._fail("no property of ECMA-262; write one such as \\p{L} or \\p{Script=Greek}", at)
        self._at = end + 1
        return found

    # Classes

    def _class(self, at: int) -> CharacterSet:
        found = CharacterSet(negated=self._takes("^"))
        while not self._takes("]"):
            if self._at >= len(self._text):
                self._fail("unclosed character class", at)
            self._class_part(found)
        return found

    def _class_part(self, found: CharacterSet) -> None:
        at = self._at
        first = self._class_atom()
        if self._peek() != "-" or self._peek(2) in ("-", "-]"):
            found.add(first)
            return
        self._take()
        last = self._class_atom()
        low, high = _single(first), _single(last)
        if low is None or high is None:
            self._fail("a range of a whole class; write \\- for the character", at)
        if low > high:
            self._fail("a range of a character class is out of order", at)
        found.ranges.append((low, high))

    def _class_atom(self) -> CharacterSet:
        at = self._at
        char = self._take()
        return self._escape(at, in_class=True) if char == "\\" else one(ord(char))


def _single(found: CharacterSet) -> int | None:
    if found.properties or len(found.ranges) != 1 or found.ranges[0][0] != found.ranges[0][1]:
        return None
    return found.ranges[0][0]
