"""What may follow in a text of a grammar: an automaton over bytes, made as far as it is used. Pure.

Contract
    State     a set of configurations: a terminal to match, how much of its character has come, and
              the stack of what is to be matched behind it. Sets are numbered as they are met;
              `_table[state, byte]` and `rows[state, class]` remember where a byte or a character
              leads.
    Writers   the lane, or whoever owns it; it is not safe for threads.
    Bounds    an ambiguous grammar may need a number of stacks that grows with the text, which
              llama.cpp follows until memory ends. Here it is `TooAmbiguous`.

Single texts are followed byte by byte. Masks look at whole characters, of which many are alike to
a grammar (`token_bytes.Alphabet`); `masks` makes them.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from erllama.sampling.gbnf import LAST_CODE_POINT, Ranges, Ref, Rules
from erllama.sampling.token_bytes import Alphabet

MAX_CONFIGURATIONS = 2_000
MAX_EXPANSIONS = 20_000
MAX_STATES = 4_096
MAX_CELLS = 8_000_000
_DEAD, _UNKNOWN = -1, -2
_END = -1
_ANY = -1  # bits of a character of which all that may come are taken
_COMPLETE, _OPEN = 1, 2  # nothing is left to match; what is left is not known
_EMPTY_STACK, _UNKNOWN_STACK = 0, 1
_FRAMES = 4  # of a stack, that masks look at before they look at all of it
_SHORTEST = (0, 0x80, 0x800, 0x10000)  # the first character that needs so many bytes more

Configuration: TypeAlias = "tuple[int, int, int, int]"
"""Terminal's position, stack behind it, bytes that its character lacks, bits of it so far."""

Content: TypeAlias = "tuple[frozenset[Configuration], int]"
"""Of a state: its configurations, and how a text may end there (`_COMPLETE`, `_OPEN`)."""

Bools: TypeAlias = "np.ndarray[Any, np.dtype[np.bool_]]"


class TooAmbiguous(Exception):
    """The text can be read in too many ways to follow them all."""


class Automaton:
    """The states of one grammar. Number 0 is its beginning.

    Attributes:
        rows: `rows[state, class]` is where a character of a class leads, once `know` was called;
            the column behind the last class leads nowhere.
        known: which rows those are.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self._terminals: list[Ranges | None] = []
        self._refs: list[int] = []
        self._starts: list[list[int]] = []
        self._flatten(rules)
        self._stacks: dict[tuple[int, int], int] = {}
        self._stack_parts: list[tuple[int, int]] = [(_END, 0), (_END, 0)]
        self._shallow_stacks: dict[int, int] = {}
        self._expanded: dict[tuple[int, int], Content] = {}
        self._numbers: dict[Content, int] = {}
        self._sets: list[Content] = []
        self._table = np.full((64, 256), _UNKNOWN, np.int32)
        self._flags = np.zeros(64, np.uint8)
        self._alphabet: Alphabet | None = None
        self._inside: dict[Ranges, int] = {}
        self._continued: dict[Ranges, Bools] = {}
        self.rows = np.full((64, 1), _UNKNOWN, np.int32)
        self.known = np.zeros(64, np.bool_)
        self._number(self._begin())

    def __len__(self) -> int:
        """How many states were met."""
        return len(self._sets)

    @property
    def full(self) -> bool:
        """Whether it remembers so much that a new one should take its place."""
        return len(self) > min(MAX_STATES, max(MAX_CELLS // self.rows.shape[1], 64))

    def complete(self, state: int) -> bool:
        """Whether the text may end here."""
        return bool(self._sets[state][1] & _COMPLETE)

    def step(self, state: int, byte: int) -> int:
        """The state behind `byte`; negative if it cannot come."""
        after = int(self._table[state, byte])
        return self._find(state, byte) if after == _UNKNOWN else after

    def follow(self, state: int, piece: bytes) -> int:
        """The state behind `piece`; negative if it cannot come."""
        for byte in piece:
            state = self.step(state, byte)
            if state < 0:
                break
        return state

    def moved(self, state: int) -> Automaton:
        """The same grammar with nothing remembered, whose number 1 is this `state`."""
        new = Automaton(self.rules)
        configurations, ends = self._sets[state]
        moved = {
            (at, new._adopt(self, stack), lacks, bits) for at, stack, lacks, bits in configurations
        }
        new._append((frozenset(moved), ends))
        return new

    # By classes of characters

    def read(self, alphabet: Alphabet) -> None:
        """Have rows for the classes of this alphabet from now on."""
        self._alphabet = alphabet
        self._inside.clear()
        self._continued.clear()
        self.rows = np.full((len(self._table), alphabet.size + 1), _DEAD, np.int32)
        self.known = np.zeros(len(self._table), np.bool_)

    def know(self, states: Any) -> None:
        """Fill in the rows of these states."""
        unknown = states[~self.known[states]]
        for state in dict.fromkeys(unknown.tolist()):
            self._fill(state)

    def opens(self, states: Any) -> Any:
        """For each state whether what may come behind it is not known altogether."""
        return (self._flags[states] & _OPEN) > 0

    def within(self, state: int) -> bool:
        """Whether the state lies within a character."""
        return any(lacks for _, _, lacks, _ in self._sets[state][0])

    def begins(self, state: int, alphabet: Alphabet) -> Bools:
        """For each of the vocabulary's `spans` whether such a character may come next."""
        found = np.zeros(len(alphabet.tokens.spans), np.bool_)
        for at in {at for at, _, lacks, _ in self._sets[state][0] if not lacks}:
            ranges = self._terminals[at] or ()
            known = self._continued.get(ranges)
            if known is None:
                known = self._continued[ranges] = alphabet.continued(ranges)
            found |= known
        return found

    def _fill(self, state: int) -> None:
        row = np.full(self.rows.shape[1], _DEAD, np.int32)
        for classes, places in self._parted(state):
            number = self._reached(places)
            if number >= 0:
                row[:-1][self._alphabet_read().flags(classes)] = number
        self.rows[state] = row
        self.known[state] = True

    def _parted(self, state: int) -> list[tuple[int, list[tuple[int, int]]]]:
        """The classes, in groups that go to the same places, and these."""
        parts: list[tuple[int, list[tuple[int, int]]]] = [(~0, [])]
        for at, stack, lacks, _ in self._sets[state][0]:
            inside = 0 if lacks else self._classes(self._terminals[at] or ())
            if not inside:
                continue
            new = []
            for classes, places in parts:
                if classes & inside:
                    new.append((classes & inside, [*places, (at + 1, stack)]))
                if classes & ~inside:
                    new.append((classes & ~inside, places))
            parts = new
        return [(classes, places) for classes, places in parts if places]

    def _reached(self, places: Sequence[tuple[int, int]]) -> int:
        found: set[Configuration] = set()
        ends = 0
        for at, stack in places:
            more, done = self._expand(at, stack)
            found |= more
            ends |= done
            if len(found) > MAX_CONFIGURATIONS:
                raise TooAmbiguous
        return self._number((frozenset(found), ends)) if found or ends else _DEAD

    def _classes(self, ranges: Ranges) -> int:
        known = self._inside.get(ranges)
        if known is None:
            known = self._inside[ranges] = self._alphabet_read().inside(ranges)
        return known

    def _alphabet_read(self) -> Alphabet:
        if self._alphabet is None:
            raise RuntimeError("no alphabet was read")
        return self._alphabet

    # The top of the stacks

    def shallow(self, state: int) -> int:
        """The state with all but the top of its stacks unknown: masks of any depth share it."""
        cut = {
            (at, self._shallow_stack(stack), lacks, bits)
            for at, stack, lacks, bits in self._sets[state][0]
        }
        return self._number((frozenset(cut), 0))

    def _shallow_stack(self, stack: int) -> int:
        known = self._shallow_stacks.get(stack)
        if known is None:
            known = self._shallow_stacks[stack] = self._cut(stack)
        return known

    def _cut(self, stack: int) -> int:
        parts: list[int] = []
        rest = stack
        while rest > _UNKNOWN_STACK and len(parts) < _FRAMES:
            at, rest = self._stack_parts[rest]
            parts.append(at)
        return self._stacked(parts, _EMPTY_STACK if rest == _EMPTY_STACK else _UNKNOWN_STACK)

    # States

    def _find(self, state: int, byte: int) -> int:
        found: set[Configuration] = set()
        ends = 0
        for configuration in self._sets[state][0]:
            more, done = self._after(configuration, byte)
            found |= more
            ends |= done
            if len(found) > MAX_CONFIGURATIONS:
                raise TooAmbiguous
        number = self._number((frozenset(found), ends)) if found or ends else _DEAD
        self._table[state, byte] = number
        return number

    def _number(self, content: Content) -> int:
        known = self._numbers.get(content)
        return self._append(content) if known is None else known

    def _append(self, content: Content) -> int:
        number = len(self._sets)
        if number == len(self._table):
            self._table = np.concatenate((self._table, np.full_like(self._table, _UNKNOWN)))
            self._flags = np.concatenate((self._flags, np.zeros_like(self._flags)))
            self.rows = np.concatenate((self.rows, np.full_like(self.rows, _DEAD)))
            self.known = np.concatenate((self.known, np.zeros_like(self.known)))
        self._numbers[content] = number
        self._sets.append(content)
        self._flags[number] = content[1]
        return number

    def _after(self, configuration: Configuration, byte: int) -> Content:
        at, stack, lacks, bits = configuration
        lacks, bits = _decoded(byte, lacks, bits)
        ranges = self._terminals[at]
        if lacks < 0 or ranges is None:
            return frozenset(), 0
        if bits != _ANY:
            low = (bits << (6 * lacks)) or _SHORTEST[lacks]
            high = (bits << (6 * lacks)) | ((1 << (6 * lacks)) - 1)
            if not _meets(ranges, low, high):
                return frozenset(), 0
            if _free(lacks, bits) and _covers(ranges, low, high):
                bits = _ANY
        if lacks:
            return frozenset({(at, stack, lacks, bits)}), 0
        return self._expand(at + 1, stack)

    # Stacks

    def _begin(self) -> Content:
        found: set[Configuration] = set()
        ends = 0
        for start in self._starts[self.rules.root]:
            more, done = self._expand(start, _EMPTY_STACK)
            found |= more
            ends |= done
        return frozenset(found), ends

    def _expand(self, at: int, stack: int) -> Content:
        """What can be matched first from position `at` on, and how a text may end there."""
        known = self._expanded.get((at, stack))
        if known is not None:
            return known
        found: set[Configuration] = set()
        ends = 0
        seen = {(at, stack)}
        todo = [(at, stack)]
        while todo:
            here, behind = todo.pop()
            if self._terminals[here] is not None:
                found.add((here, behind, 0, 0))
                continue
            if self._ends(here) and behind <= _UNKNOWN_STACK:
                ends |= _COMPLETE if behind == _EMPTY_STACK else _OPEN
                continue
            for one in self._following(here, behind):
                if one not in seen:
                    seen.add(one)
                    todo.append(one)
            if len(seen) > MAX_EXPANSIONS:
                raise TooAmbiguous
        self._expanded[at, stack] = frozenset(found), ends
        return self._expanded[at, stack]

    def _following(self, at: int, stack: int) -> list[tuple[int, int]]:
        """The places that position `at`, which matches nothing itself, leads to."""
        rule = self._refs[at]
        if rule == _END:
            return [self._stack_parts[stack]]
        if not self._ends(at + 1):  # otherwise nothing is to be matched behind it
            stack = self._push(at + 1, stack)
        return [(start, stack) for start in self._starts[rule]]

    def _ends(self, at: int) -> bool:
        return self._terminals[at] is None and self._refs[at] == _END

    def _push(self, at: int, stack: int) -> int:
        known = self._stacks.get((at, stack))
        if known is None:
            known = self._stacks[at, stack] = len(self._stack_parts)
            self._stack_parts.append((at, stack))
        return known

    def _adopt(self, other: Automaton, stack: int) -> int:
        parts = []
        while stack:
            at, stack = other._stack_parts[stack]
            parts.append(at)
        return self._stacked(parts, _EMPTY_STACK)

    def _stacked(self, parts: Sequence[int], stack: int) -> int:
        """`parts`, the top one first, on a stack."""
        for at in reversed(parts):
            stack = self._push(at, stack)
        return stack

    def _flatten(self, rules: Rules) -> None:
        """Number all elements, with an end behind each alternative."""
        for alternatives in rules.alternatives:
            starts = []
            for sequence in alternatives:
                starts.append(len(self._refs))
                for element in sequence:
                    is_ref = isinstance(element, Ref)
                    self._refs.append(element.rule if isinstance(element, Ref) else _END)
                    self._terminals.append(None if is_ref else element)  # type: ignore[arg-type]
                self._refs.append(_END)
                self._terminals.append(None)
            self._starts.append(starts)


def _decoded(byte: int, lacks: int, bits: int) -> tuple[int, int]:
    """The bytes that a UTF-8 character still lacks, and its bits so far; -1: it is none."""
    if lacks == 0:
        return _first_byte(byte)
    if byte >> 6 != 2:
        return -1, 0
    if bits == _ANY:
        return lacks - 1, bits
    bits = bits << 6 | byte & 63
    overlong = (lacks == 2 and bits < 0x20) or (lacks == 3 and bits < 0x10)
    surrogate = lacks == 2 and 0x360 <= bits <= 0x37F
    too_large = lacks == 3 and bits > 0x10F
    return (-1, 0) if overlong or surrogate or too_large else (lacks - 1, bits)


def _free(lacks: int, bits: int) -> bool:
    """Whether any byte of a character may come next, for all that UTF-8 asks."""
    return not ((lacks == 2 and bits in (0, 0xD)) or (lacks == 3 and bits in (0, 4)))


def _first_byte(byte: int) -> tuple[int, int]:
    if byte < 0x80:
        return 0, byte
    if 0xC2 <= byte < 0xE0:
        return 1, byte & 31
    if 0xE0 <= byte < 0xF0:
        return 2, byte & 15
    if 0xF0 <= byte < 0xF5:
        return 3, byte & 7
    return -1, 0


def _meets(ranges: Ranges, low: int, high: int) -> bool:
    """Whether a code point from `low` to `high` is in `ranges`."""
    at = bisect.bisect_right(ranges, (high, high))
    if at < len(ranges) and ranges[at][0] <= high:
        return True
    return at > 0 and ranges[at - 1][1] >= low


def _covers(ranges: Ranges, low: int, high: int) -> bool:
    """Whether all code points from `low` to `high` are in `ranges`."""
    at = bisect.bisect_right(ranges, (low, LAST_CODE_POINT + 1)) - 1
    return at >= 0 and ranges[at][1] >= high
