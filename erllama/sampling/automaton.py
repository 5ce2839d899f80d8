"""What may follow in a text of a grammar: an automaton over bytes, made as far as it is used. Pure.

Contract
    State     a set of configurations: a terminal to match, how much of its character has come, and
              the stack of what is to be matched behind it. Sets are numbered as they are met, and
              `_table[state, byte]` remembers where a byte leads.
    Writers   the lane, or whoever owns it; it is not safe for threads.
    Bounds    an ambiguous grammar may need a number of stacks that grows with the text, which
              llama.cpp follows until memory ends. Here it is `TooAmbiguous`.

A mask over the vocabulary follows the texts of all tokens at once, byte by byte, with one look into
the table for each text; llama.cpp follows them one by one, decoding each and copying stacks.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np

from erllama.sampling.gbnf import Ranges, Ref, Rules

T = TypeVar("T")

MAX_CONFIGURATIONS = 2_000
MAX_EXPANSIONS = 20_000
MAX_STATES = 4_096
_MASKS = 32
_DEAD, _UNKNOWN = -1, -2
_END = -1
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


class TokenBytes:
    """The texts of a vocabulary; tokens without text are never part of one.

    Attributes:
        levels: the texts as a tree, byte by byte: texts that begin alike are followed once.
    """

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.size = len(pieces)
        self.pieces = pieces
        self.lengths = np.array([len(piece) for piece in pieces], np.int64)
        self.starts = np.concatenate(([0], np.cumsum(self.lengths)[:-1]))
        self.bytes = np.frombuffer(b"".join(pieces), np.uint8)
        self.levels = self._tree()

    def _tree(self) -> list[Level]:
        order = np.array(sorted(range(self.size), key=self.pieces.__getitem__), np.int64)
        order = order[self.lengths[order] > 0]
        parents, levels, depth = np.zeros(len(order), np.int64), [], 0
        while len(order):
            byte = self.bytes[self.starts[order] + depth]
            new = np.ones(len(order), np.bool_)
            new[1:] = (parents[1:] != parents[:-1]) | (byte[1:] != byte[:-1])
            node = np.cumsum(new) - 1
            depth += 1
            ended = self.lengths[order] == depth
            levels.append(Level(parents[new], byte[new], order[ended], node[ended]))
            order, parents = order[~ended], node[~ended]
        return levels


@dataclasses.dataclass(frozen=True, slots=True)
class Level:
    """The nodes of a tree of texts at one depth.

    Attributes:
        parents: of each node, its parent's number one level up.
        bytes: of each node, the byte that leads to it.
        tokens: those whose text ends here.
        nodes: of each of them, the node where.
    """

    parents: Any
    bytes: Any
    tokens: Any
    nodes: Any


class Automaton:
    """The states of one grammar. Number 0 is its beginning."""

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
        self._masks: OrderedDict[int, Bools] = OrderedDict()
        self._walks: OrderedDict[int, tuple[Bools, list[int]]] = OrderedDict()
        self._number(self._begin())

    def __len__(self) -> int:
        """How many states were met."""
        return len(self._sets)

    @property
    def full(self) -> bool:
        """Whether it remembers so much that a new one should take its place."""
        return len(self) > MAX_STATES

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

    def mask(self, state: int, tokens: TokenBytes) -> Bools:
        """For each token whether it may come next."""
        return _remembered(self._masks, state, lambda: self._mask(state, tokens))

    def moved(self, state: int) -> Automaton:
        """The same grammar with nothing remembered, whose number 1 is this `state`."""
        new = Automaton(self.rules)
        configurations, ends = self._sets[state]
        moved = {
            (at, new._adopt(self, stack), lacks, bits) for at, stack, lacks, bits in configurations
        }
        new._append((frozenset(moved), ends))
        return new

    # Masks

    def _mask(self, state: int, tokens: TokenBytes) -> Bools:
        """By the top of the stacks, which states of many depths share, as far as that tells."""
        shallow = self._shallow(state)
        allowed, unsure = _remembered(self._walks, shallow, lambda: self._walk(shallow, tokens))
        if unsure:
            allowed = allowed.copy()
            for token in unsure:
                allowed[token] = self.follow(state, tokens.pieces[token]) >= 0
        return allowed

    def _walk(self, state: int, tokens: TokenBytes) -> tuple[Bools, list[int]]:
        """Follow the texts of all tokens at once, a level of their tree at a time.

        Returns:
            Which tokens can come, and those of the others that came to the end of what is known.
        """
        allowed, unsure = np.zeros(tokens.size, np.bool_), np.zeros(tokens.size, np.bool_)
        states, opened = np.array([state], np.int32), np.zeros(1, np.bool_)
        for level in tokens.levels:
            before = states[level.parents]
            alive = np.flatnonzero(before >= 0)
            opened = opened[level.parents]
            opened[alive] |= (self._flags[before[alive]] & _OPEN) > 0
            if not len(alive) and not opened.any():
                break
            states = np.full(len(before), _DEAD, np.int32)
            states[alive] = self._steps(before[alive], level.bytes[alive])
            allowed[level.tokens] = states[level.nodes] >= 0
            unsure[level.tokens] = opened[level.nodes]
        return allowed, [int(token) for token in np.flatnonzero(unsure & ~allowed)]

    def _shallow(self, state: int) -> int:
        """The state with all but the top of its stacks unknown."""
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

    def _steps(self, states: Any, bytes_: Any) -> Any:
        after = self._table[states, bytes_]
        unknown = after == _UNKNOWN
        if unknown.any():
            for pair in np.unique(states[unknown] * 256 + bytes_[unknown]).tolist():
                self._find(pair >> 8, pair & 255)
            after = self._table[states, bytes_]
        return after

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
        low = bits << (6 * lacks)
        high = low | ((1 << (6 * lacks)) - 1)
        if not _meets(ranges, low or _SHORTEST[lacks], high):
            return frozenset(), 0
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


class Follower:
    """Where a text is in a grammar."""

    def __init__(self, automaton: Automaton, tokens: TokenBytes) -> None:
        self._automaton = automaton
        self._tokens = tokens
        self._state = 0

    @property
    def complete(self) -> bool:
        """Whether the text may end here."""
        return self._automaton.complete(self._state)

    def allowed(self) -> Bools:
        """For each token whether it may come next.

        Raises:
            TooAmbiguous
        """
        self._forget()
        return self._automaton.mask(self._state, self._tokens)

    def accept(self, token: int) -> bool:
        """Go on behind `token`; False, and nothing changes, if it cannot come.

        Raises:
            TooAmbiguous
        """
        self._forget()
        piece = self._tokens.pieces[token]
        state = self._automaton.follow(self._state, piece) if piece else _DEAD
        if state >= 0:
            self._state = state
        return state >= 0

    def _forget(self) -> None:
        """Begin a new automaton when this one remembers too much."""
        if self._automaton.full:
            self._automaton, self._state = self._automaton.moved(self._state), 1


def _remembered(known: OrderedDict[int, T], key: int, make: Callable[[], T]) -> T:
    """What is known, or is made now; what was not asked for longest is forgotten."""
    found = known.pop(key, None)
    known[key] = found if found is not None else make()
    if len(known) > _MASKS:
        known.popitem(last=False)
    return known[key]


def _decoded(byte: int, lacks: int, bits: int) -> tuple[int, int]:
    """The bytes that a UTF-8 character still lacks, and its bits so far; -1: it is none."""
    if lacks == 0:
        return _first_byte(byte)
    if byte >> 6 != 2:
        return -1, 0
    bits = bits << 6 | byte & 63
    overlong = (lacks == 2 and bits < 0x20) or (lacks == 3 and bits < 0x10)
    surrogate = lacks == 2 and 0x360 <= bits <= 0x37F
    too_large = lacks == 3 and bits > 0x10F
    return (-1, 0) if overlong or surrogate or too_large else (lacks - 1, bits)


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
