"""What may follow in a text of a grammar: an automaton over bytes, made as far as it is used. Pure.

Contract
    State     a set of configurations: a terminal to match, how much of its character has come, and
              the stack of what is to be matched behind it. Sets are numbered as they are met;
              `_table[state, byte]` and `rows[state, class]` remember where a byte or a character
              leads.
    Writers   the lane, or whoever owns it; it is not safe for threads.
    Bounds    an ambiguous grammar may need a number of stacks that grows with the text, which
              llama.cpp follows until memory ends. Here it is `TooAmbiguous`, and so is what takes
              more steps than `effort` allows, whether parts of it are remembered or not.

Single texts are followed byte by byte. Masks look at whole characters, of which many are alike to
a grammar (`token_bytes.Alphabet`); `masks` makes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from erllama.sampling.characters import ANY, SHORTEST, covers, decoded, free, meets
from erllama.sampling.effort import ACCEPT_STEPS, PAUSE_STEPS, Effort, TooAmbiguous, TooManySteps
from erllama.sampling.gbnf import Ranges, Ref, Rules
from erllama.sampling.token_bytes import Alphabet

MAX_CONFIGURATIONS = 2_000
MAX_EXPANSIONS = 20_000
MAX_STATES = 4_096
MAX_HELD = 1_000_000
MAX_CELLS = 8_000_000
_DEAD, _UNKNOWN = -1, -2
_END = -1
_COMPLETE, _OPEN = 1, 2  # nothing is left to match; what is left is not known
_EMPTY_STACK, _UNKNOWN_STACK = 0, 1
_CHEAP = 256  # steps, which are not counted behind a single byte
_ROW = 20  # steps that any row takes
_FLAGS = 8  # steps that it takes to mark some classes in a row
_CLASSES = 256  # that one step looks at
_FEW = 4  # places, whose closures are remembered one by one
_NO_WAY = (0, 0, -1, 0)  # a configuration that lacks what never comes
_FRAMES = 4  # of a stack, that masks look at before they look at all of it

Configuration: TypeAlias = "tuple[int, int, int, int]"
"""Terminal's position, stack behind it, bytes that its character lacks, bits of it so far."""

Place: TypeAlias = "tuple[int, int]"
"""A position that nothing has come of, and the stack behind it."""

Content: TypeAlias = "tuple[frozenset[Configuration], int]"
"""Of a state: its configurations, and how a text may end there (`_COMPLETE`, `_OPEN`)."""

Reached: TypeAlias = "tuple[frozenset[Configuration], int, int]"
"""What a state may have, and the steps that it takes to find it if nothing is remembered."""

Bools: TypeAlias = "np.ndarray[Any, np.dtype[np.bool_]]"


class Automaton:
    """The states of one grammar. Number 0 is its beginning.

    Attributes:
        rows: `rows[state, class]` is where a character of a class leads, once `know` was called;
            the column behind the last class leads nowhere.
        known: which rows those are.
        costs: how many steps each of those takes.
        touched: the states that `know` was called for; whoever reads that clears it as well.
        effort: the steps that were taken.
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
        self._expanded: dict[tuple[int, int], Reached] = {}
        self._numbers: dict[Content, int] = {}
        self._sets: list[Content] = []
        self._table = np.full((64, 256), _UNKNOWN, np.int32)
        self._dear: dict[tuple[int, int], int] = {}
        self._held = 0
        self._flags = np.zeros(64, np.uint8)
        self._alphabet: Alphabet | None = None
        self._inside: dict[Ranges, int] = {}
        self._continued: dict[Ranges, Bools] = {}
        self.rows = np.full((64, 1), _UNKNOWN, np.int32)
        self.known = np.zeros(64, np.bool_)
        self.costs = np.zeros(64, np.int64)
        self.touched = np.zeros(64, np.bool_)
        self.effort = Effort()
        self._number(self._begin())

    def __len__(self) -> int:
        """How many states were met."""
        return len(self._sets)

    @property
    def full(self) -> bool:
        """Whether it remembers so much that a new one should take its place."""
        most = min(MAX_STATES, max(MAX_CELLS // self.rows.shape[1], 64))
        return len(self) > most or self._held > MAX_HELD

    def complete(self, state: int) -> bool:
        """Whether the text may end here."""
        return bool(self._sets[state][1] & _COMPLETE)

    def step(self, state: int, byte: int) -> int:
        """The state behind `byte`; negative if it cannot come."""
        after = int(self._table[state, byte])
        if after == _UNKNOWN:
            return self._find(state, byte)
        if self._dear:
            self.effort.spend(self._dear.get((state, byte), 0))
        return after

    def follow(self, state: int, piece: bytes) -> int:
        """The state behind `piece`; negative if it cannot come.

        Raises:
            TooAmbiguous
        """
        self.effort.allow(ACCEPT_STEPS)
        return self.along(state, piece)

    def along(self, state: int, piece: bytes) -> int:
        """The same as a part of other work."""
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
        self.costs = np.zeros(len(self._table), np.int64)
        self.touched = np.zeros(len(self._table), np.bool_)

    def know(self, states: Any) -> None:
        """Fill in the rows of these states."""
        self.touched[states] = True
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
        self.effort.spend(len(self._sets[state][0]))
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
        parts, steps = self._parted(state)
        for classes, places in parts:
            found, ends, took = self._reached(places, self.effort.left - steps)
            number = self._number((found, ends)) if found or ends else _DEAD
            if classes.bit_count() == 1:
                row[classes.bit_length() - 1] = number
                steps += took
            else:
                row[:-1][self._alphabet_read().flags(classes)] = number
                steps += took + _FLAGS + self.rows.shape[1] // _CLASSES
        self.rows[state] = row
        self.known[state] = True
        self.costs[state] = steps
        self.effort.use(steps)

    def _parted(self, state: int) -> tuple[list[tuple[int, list[Place]]], int]:
        """The classes, in groups that go to the same places, and these; and the steps taken."""
        begun: dict[int, list[Place]] = {}
        for at, stack, lacks, _ in self._sets[state][0]:
            inside = 0 if lacks else self._classes(self._terminals[at] or ())
            if inside:
                begun.setdefault(inside, []).append((at + 1, stack))
        steps = _ROW + len(self._sets[state][0]) * (1 + self.rows.shape[1] // _CLASSES)
        parts: list[tuple[int, list[Place]]] = [(~0, [])]
        for inside, more in begun.items():
            steps += len(parts)
            if steps > self.effort.left:
                raise TooManySteps
            new = []
            for classes, places in parts:
                if classes & inside:
                    new.append((classes & inside, [*places, *more]))
                if classes & ~inside:
                    new.append((classes & ~inside, places))
            parts = new
        return [(classes, places) for classes, places in parts if places], steps

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
        self.effort.spend(len(self._sets[state][0]))
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
        places: list[Place] = []
        within: set[Configuration] = set()
        for configuration in self._sets[state][0]:
            at, stack, lacks, bits = self._after(configuration, byte)
            if lacks > 0:
                within.add((at, stack, lacks, bits))
            elif not lacks:
                places.append((at + 1, stack))
        steps = len(self._sets[state][0])
        found, ends, took = self._reached(places, self.effort.left - steps)
        if within:
            found |= within
        number = self._number((found, ends)) if found or ends else _DEAD
        self._table[state, byte] = number
        if steps + took > _CHEAP:
            self._dear[state, byte] = steps + took
            self.effort.spend(steps + took)
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
            self.costs = np.concatenate((self.costs, np.zeros_like(self.costs)))
            self.touched = np.concatenate((self.touched, np.zeros_like(self.touched)))
        self._numbers[content] = number
        self._sets.append(content)
        self._flags[number] = content[1]
        self._held += len(content[0])
        return number

    def _after(self, configuration: Configuration, byte: int) -> Configuration:
        """How far a terminal is behind a byte: it lacks nothing where it is through, or never."""
        at, stack, lacks, bits = configuration
        lacks, bits = decoded(byte, lacks, bits)
        ranges = self._terminals[at]
        if lacks < 0 or ranges is None:
            return _NO_WAY
        if bits != ANY:
            low = (bits << (6 * lacks)) or SHORTEST[lacks]
            high = (bits << (6 * lacks)) | ((1 << (6 * lacks)) - 1)
            if not meets(ranges, low, high):
                return _NO_WAY
            if free(lacks, bits) and covers(ranges, low, high):
                bits = ANY
        return at, stack, lacks, bits

    # Stacks

    def _begin(self) -> Content:
        places = [(start, _EMPTY_STACK) for start in self._starts[self.rules.root]]
        found, ends, _ = self._closure(places, self.effort.left)
        return found, ends

    def _reached(self, places: Sequence[Place], left: int) -> Reached:
        """What can be matched first at one of these places.

        Those of a few places are remembered. Of many, which mostly lead to the same, all is looked
        for at once: a text of n readings takes n steps so, and not n times n.
        """
        if len(places) > _FEW:
            return self._closure(places, left)
        found: frozenset[Configuration] = frozenset()
        ends, steps = 0, 0
        for place in places:
            known = self._expanded.get(place)
            if known is None:
                known = self._expanded[place] = self._closure([place], left)
                self._held += len(known[0])
            more, done, took = known
            found = found | more if found else more
            ends |= done
            steps += took
            _check(len(found), left - steps)
        return found, ends, steps

    def _closure(self, places: Sequence[Place], left: int) -> Reached:
        """What can be matched first from these places on, and how a text may end there."""
        found: set[Configuration] = set()
        ends = 0
        seen, todo = set(places), list(places)
        next_rest = PAUSE_STEPS
        while todo:
            here, behind = todo.pop()
            if len(seen) > next_rest:
                next_rest += PAUSE_STEPS
                self.effort.rest()
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
            _check(len(found), min(left, MAX_EXPANSIONS) - len(seen))
        _check(len(found), left - len(seen))
        return frozenset(found), ends, len(seen)

    def _following(self, at: int, stack: int) -> list[Place]:
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


def _check(configurations: int, left: int) -> None:
    if configurations > MAX_CONFIGURATIONS:
        raise TooAmbiguous
    if left < 0:
        raise TooManySteps
