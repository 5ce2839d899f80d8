"""GBNF, the grammar notation of llama.cpp (grammars/README.md there): from text to rules. Pure.

Refused with their place, beside what is no GBNF: rules that are missing, defined twice or left
recursive or never end, nesting without end, characters that no text has, and repetitions that would
make a grammar of millions of rules.
llama.cpp's own parser ends the process on some of these. Terminals that name tokens (`<think>`,
`<[1000]>`) are refused as well: what has no text cannot be part of a text.
"""

from __future__ import annotations

import dataclasses
from typing import NoReturn, TypeAlias

from erllama.errors import InvalidGrammar
from erllama.sampling.effort import PAUSE_STEPS, Pause, paced
from erllama.sampling.graph import cycles, endless_rules, made_of

LAST_CODE_POINT = 0x10FFFF
MAX_DEPTH = 100
MAX_REPEAT = 10_000
MAX_ELEMENTS = 200_000

Ranges: TypeAlias = "tuple[tuple[int, int], ...]"
"""Code points, as inclusive ranges in rising order that do not touch."""


@dataclasses.dataclass(frozen=True, slots=True)
class Ref:
    """What another rule makes."""

    rule: int


Element: TypeAlias = "Ranges | Ref"
Elements: TypeAlias = "tuple[Element, ...]"

_FIRST = 1  # a NUL has to be named: no text should have one because a class has room for it
_SURROGATES = (0xD800, 0xDFFF)  # halves of UTF-16 pairs, which UTF-8 does not have
_ANY: Ranges = ((_FIRST, LAST_CODE_POINT),)
_ESCAPES = {"t": 9, "r": 13, "n": 10, "\\": 92, '"': 34, "[": 91, "]": 93, "-": 45}
_HEX = {"x": 2, "u": 4, "U": 8}
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-")
_DIGITS = frozenset("0123456789")


@dataclasses.dataclass(frozen=True, slots=True)
class Rules:
    """A grammar: for each rule its alternatives. The text matches rule `root`."""

    alternatives: tuple[tuple[Elements, ...], ...]
    root: int


def parse_gbnf(text: str, pause: Pause | None = None) -> Rules:
    """The rules of a grammar.

    Raises:
        InvalidGrammar: with the place and what is wrong there.
    """
    return _Parser(text, pause).parse()


class _Parser:
    def __init__(self, text: str, pause: Pause | None) -> None:
        self._text = text
        self._pause = pause
        self._next_pause = PAUSE_STEPS
        self._at = 0
        self._ids: dict[str, int] = {}
        self._used: dict[int, int] = {}
        self._defined: dict[int, int] = {}
        self._rules: list[tuple[Elements, ...]] = []
        self._elements = 0

    def parse(self) -> Rules:
        self._space(newlines=True)
        while self._here():
            self._rule()
        root = self._ids.get("root")
        if root is None or root not in self._defined:
            self._fail("there is no rule `root`; add one, such as root ::= ...", 0)
        for rule, place in self._used.items():
            if rule not in self._defined:
                name = next(name for name, known in self._ids.items() if known == rule)
                self._fail(f"the rule `{name}` is not defined", place)
        self._refuse_left_recursion()
        self._refuse_what_never_ends(root)
        return Rules(tuple(self._rules), root)

    # Rules

    def _rule(self) -> None:
        start = self._at
        name = self._name()
        rule = self._named(name)
        if rule in self._defined:
            self._fail(f"the rule `{name}` is defined twice", start)
        self._defined[rule] = start
        self._space()
        if not self._text.startswith("::=", self._at):
            self._fail("expected `::=`")
        self._at += 3
        self._space(newlines=True)
        self._rules[rule] = self._alternatives(0)
        if self._here() not in ("", "\n", "\r"):
            self._fail("expected a new line, `|` or something to match")
        self._space(newlines=True)

    def _alternatives(self, depth: int) -> tuple[Elements, ...]:
        found = [self._sequence(depth)]
        while self._here() == "|":
            self._at += 1
            self._space(newlines=True)
            found.append(self._sequence(depth))
        return tuple(found)

    def _sequence(self, depth: int) -> Elements:
        done: list[Element] = []
        item: list[Element] = []
        while True:
            char, start = self._here(), self._at
            if char in ("*", "+", "?", "{"):
                if not item:
                    self._fail(f"nothing before `{char}` to repeat")
                least, most = self._bounds()
                item = self._repeated(item, least, most, start)
            else:
                done += item
                found = self._item(char, depth)
                if found is None:
                    return tuple(done)
                item = found
            self._count(len(item), start)
            self._space(newlines=depth > 0)

    def _item(self, char: str, depth: int) -> list[Element] | None:
        if char == '"':
            return self._literal()
        if char == "[":
            return [self._class()]
        if char == ".":
            self._at += 1
            return [_ANY]
        if char == "(":
            return [self._group(depth)]
        if char in ("<", "!"):
            self._fail("terminals that name tokens are not supported; write the text itself")
        if char in _NAME:
            start = self._at
            rule = self._named(self._name())
            self._used.setdefault(rule, start)
            return [Ref(rule)]
        return None

    def _group(self, depth: int) -> Ref:
        if depth == MAX_DEPTH:
            self._fail(f"parentheses nested more than {MAX_DEPTH} deep")
        start = self._at
        self._at += 1
        self._space(newlines=True)
        made = self._made(self._alternatives(depth + 1))
        if self._here() != ")":
            self._fail("expected `)` for the `(`", start)
        self._at += 1
        return made

    # Repetitions

    def _bounds(self) -> tuple[int, int | None]:
        char = self._here()
        self._at += 1
        if char != "{":
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[char]
        self._space()
        least = self._number()
        most: int | None = least
        self._space()
        if self._here() == ",":
            self._at += 1
            self._space()
            most = self._number() if self._here() in _DIGITS else None
            self._space()
        if self._here() != "}":
            self._fail("expected `}`")
        self._at += 1
        if most is not None and most < least:
            self._fail(f"at least {least} and at most {most} times is never")
        return least, most

    def _repeated(
        self, item: list[Element], least: int, most: int | None, start: int
    ) -> list[Element]:
        """S{m,n} as S … S S', S' ::= S S'' | and so on; S{m,} as S … S S', S' ::= S S' |."""
        self._count(len(item) * (least + (1 if most is None else most - least)), start)
        result = item * least
        if most is None:
            again = Ref(len(self._rules))
            self._made(((*item, again), ()))
            return [*result, again]
        rest: list[Element] = []
        for _ in paced(range(most - least), self._pause):
            rest = [self._made(((*item, *rest), ()))]
        return result + rest

    def _count(self, n: int, place: int) -> None:
        self._elements += n
        if self._pause is not None and self._elements >= self._next_pause:
            self._next_pause = self._elements + PAUSE_STEPS
            self._pause()
        if self._elements > MAX_ELEMENTS:
            self._fail(f"the grammar grows beyond {MAX_ELEMENTS:,} elements here", place)

    # Characters

    def _literal(self) -> list[Element]:
        start = self._at
        self._at += 1
        found: list[Element] = []
        while self._here() != '"':
            place = self._at
            code = self._character("the string", start)
            found.append(self._possible(((code, code),), place))
        self._at += 1
        return found

    def _class(self) -> Ranges:
        start = self._at
        self._at += 1
        inverse = self._here() == "^"
        self._at += inverse
        found: list[tuple[int, int]] = []
        while self._here() != "]":
            place = self._at
            low = high = self._character("the character class", start)
            if self._here() == "-" and self._text[self._at + 1 : self._at + 2] != "]":
                self._at += 1
                high = self._character("the character class", start)
            if high < low:
                self._fail("the range goes downwards", place)
            found.append((low, high))
        self._at += 1
        if not found:
            self._fail("the character class is empty", start)
        ranges = _merged(found)
        return self._possible(_inverse(ranges) if inverse else ranges, start)

    def _possible(self, ranges: Ranges, place: int) -> Ranges:
        if all(_SURROGATES[0] <= low and high <= _SURROGATES[1] for low, high in ranges):
            self._fail("no character can match this; leave it out", place)
        return ranges

    def _character(self, inside: str, start: int) -> int:
        char = self._here()
        if not char:
            self._fail(f"{inside} does not end", start)
        self._at += 1
        return self._escape() if char == "\\" else ord(char)

    def _escape(self) -> int:
        place = self._at - 1
        char = self._here()
        self._at += 1
        if char in _ESCAPES:
            return _ESCAPES[char]
        if char not in _HEX:
            self._fail(f"there is no escape `\\{char}`", place)
        digits = self._text[self._at : self._at + _HEX[char]]
        self._at += _HEX[char]
        try:
            code = int(digits, 16) if digits.isalnum() and len(digits) == _HEX[char] else -1
        except ValueError:
            code = -1
        if not 0 <= code <= LAST_CODE_POINT:
            self._fail(f"expected {_HEX[char]} hexadecimal digits of a character", place)
        return code

    # Words and spaces

    def _named(self, name: str) -> int:
        if name not in self._ids:
            self._ids[name] = len(self._rules)
            self._rules.append(())
        return self._ids[name]

    def _made(self, alternatives: tuple[Elements, ...]) -> Ref:
        self._rules.append(alternatives)
        return Ref(len(self._rules) - 1)

    def _name(self) -> str:
        return self._run(_NAME, "expected the name of a rule (letters, digits and -)")

    def _number(self) -> int:
        start = self._at
        digits = self._run(_DIGITS, "expected a number")
        if len(digits) > 6 or int(digits) > MAX_REPEAT:
            self._fail(f"more than {MAX_REPEAT:,} repetitions", start)
        return int(digits)

    def _run(self, characters: frozenset[str], expected: str) -> str:
        start = self._at
        while self._here() in characters:
            self._at += 1
        if self._at == start:
            self._fail(expected)
        return self._text[start : self._at]

    def _here(self) -> str:
        return self._text[self._at : self._at + 1]

    def _space(self, *, newlines: bool = False) -> None:
        blank = " \t\r\n" if newlines else " \t"
        while char := self._here():
            if char == "#":
                end = self._text.find("\n", self._at)
                self._at = len(self._text) if end < 0 else end
            elif char in blank:
                self._at += 1
            else:
                return

    def _fail(self, reason: str, at: int | None = None) -> NoReturn:
        raise InvalidGrammar(reason, text=self._text, at=self._at if at is None else at)

    # Rules that no text can be made of

    def _refuse_what_never_ends(self, root: int) -> None:
        """Refuse rules that may be come to and always come to themselves again."""
        refs = [[_refs(one) for one in rule] for rule in paced(self._rules, self._pause)]
        endless = endless_rules(refs, root, self._pause)
        for name, rule in self._ids.items():
            if rule in endless:
                self._fail(
                    f"the rule `{name}` never ends, as each way through it leads to it again; add "
                    "an alternative that does not",
                    self._defined[rule],
                )

    def _refuse_left_recursion(self) -> None:
        """Refuse rules that come back to themselves with nothing matched and something left to do.

        One that comes back at its very end, such as (x?)*, only repeats what it did before.
        """
        steps = _first_steps(self._rules, self._pause)
        group = cycles([[step.rule for step in rule] for rule in steps], self._pause)
        names = {rule: name for name, rule in self._ids.items()}
        bad = {
            rule
            for rule, found in enumerate(steps)
            for step in found
            if not step.last and group[step.rule] == group[rule]
        }
        groups = {group[rule] for rule in bad}
        for rule in names:
            if group[rule] in groups:
                self._fail(
                    f"the rule `{names[rule]}` begins with itself (left recursion); put something "
                    "to match before it, or use * or +",
                    self._defined[rule],
                )
        if bad:
            self._fail("a repetition begins with itself, as what it repeats may be empty", 0)


@dataclasses.dataclass(frozen=True, slots=True)
class _Step:
    """A rule that another one may begin with; `last`: nothing follows it there."""

    rule: int
    last: bool


def _first_steps(rules: list[tuple[Elements, ...]], pause: Pause | None) -> list[list[_Step]]:
    empty = _maybe_empty(rules, pause)
    found: list[list[_Step]] = []
    for alternatives in paced(rules, pause):
        steps = []
        for sequence in alternatives:
            for at, element in enumerate(sequence):
                if not isinstance(element, Ref):
                    break
                steps.append(_Step(element.rule, at == len(sequence) - 1))
                if not empty[element.rule]:
                    break
        found.append(steps)
    return found


def _maybe_empty(rules: list[tuple[Elements, ...]], pause: Pause | None) -> list[bool]:
    """For each rule, whether it may match nothing."""
    refs = [[_refs(one) for one in rule if _only_refs(one)] for rule in paced(rules, pause)]
    return made_of(refs, pause)


def _refs(sequence: Elements) -> list[int]:
    return [element.rule for element in sequence if isinstance(element, Ref)]


def _only_refs(sequence: Elements) -> bool:
    return all(isinstance(element, Ref) for element in sequence)


def _merged(ranges: list[tuple[int, int]]) -> Ranges:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    return tuple(merged)


def _inverse(ranges: Ranges) -> Ranges:
    gaps, next_free = [], _FIRST
    for low, high in ranges:
        if low > next_free:
            gaps.append((next_free, low - 1))
        next_free = high + 1
    if next_free <= LAST_CODE_POINT:
        gaps.append((next_free, LAST_CODE_POINT))
    return tuple(gaps)
