"""Which tokens may come next in a text of a grammar. Pure.

Following all texts of a large vocabulary would take 10 to 50 ms, so most are not followed. Behind
the first character of a token, one looks which characters may go on from there *in any order*, for
how long: inside a string nearly all, without an end. All tokens whose other characters are among
those are allowed, which one comparison of bits tells for all of them. The rest is followed at once,
a character at a time.
"""

from __future__ import annotations

import contextlib
import functools
import operator
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np

from erllama.sampling.automaton import Automaton, Bools
from erllama.sampling.effort import (
    BEGIN_STEPS,
    MASK_STEPS,
    Pause,
    TooAmbiguous,
    TooManySteps,
)
from erllama.sampling.token_bytes import LONGEST, RARE, Alphabet, TokenBytes

T = TypeVar("T")

_MASKS = 256  # that are remembered, as bits
_READY = 32  # that are made before the first text
_LENGTH = 16  # of a run; tokens of more characters are followed
_RUN_STEPS = 8_000  # behind which one looks no further
_STATES = 48  # that are looked at for what may go on in any order
_MANY = 2_000  # tokens, fewer of which are followed in less time than that takes
_FOR_EVER = LONGEST - 1
_NEVER = -1


class _Run(NamedTuple):
    """Classes, as bits, of which any may follow any behind a character, and how many may.

    `ends`: more of them may not come.
    """

    classes: int
    length: int
    ends: bool = False


_NO_RUN = _Run(0, 0)


class Masks:
    """The masks of one grammar over one vocabulary. Of one text after the other."""

    def __init__(
        self, automaton: Automaton, tokens: TokenBytes, alphabet: Alphabet | None = None
    ) -> None:
        self.automaton = automaton
        self.tokens = tokens
        self._alphabet = alphabet or Alphabet(automaton.rules, tokens)
        automaton.read(self._alphabet)
        self._masks: OrderedDict[int, Any] = OrderedDict()
        self._walks: OrderedDict[int, tuple[tuple[Any, Any], int]] = OrderedDict()
        self._runs: dict[int, tuple[_Run, int]] = {}
        self._ways: dict[int, dict[int, int]] = {}
        self._weights: dict[int, int] = {}

    def anew(self) -> Masks:
        """The same with nothing remembered."""
        return Masks(Automaton(self.automaton.rules), self.tokens, self._alphabet)

    def moved(self, state: int) -> Masks:
        """The same with nothing remembered; number 1 is this `state`."""
        return Masks(self.automaton.moved(state), self.tokens, self._alphabet)

    def begin(self, pause: Pause | None = None) -> None:
        """Have the masks of places near the beginning ready.

        Raises:
            TooAmbiguous: the very first one takes too many steps.
        """
        effort = self.automaton.effort
        most = effort.used + BEGIN_STEPS
        effort.pause(pause)
        try:
            self.mask(0)
            todo, seen = [0], {0}
            with contextlib.suppress(TooAmbiguous):  # whoever comes there is told
                while todo and len(self._walks) < _READY and effort.used < most:
                    state = todo.pop(0)
                    self.mask(state)
                    self.automaton.know(np.array([state]))
                    row = self.automaton.rows[state]
                    new = dict.fromkeys(row[row >= 0].tolist())
                    todo += [one for one in new if one not in seen]
                    seen.update(new)
        finally:
            effort.pause(None)

    def mask(self, state: int) -> Bools:
        """For each token whether it may come next.

        Raises:
            TooAmbiguous
        """
        packed: Any = _remembered(self._masks, state, lambda: self._mask(state))
        return np.unpackbits(packed, count=self.tokens.size).view(np.bool_)

    def _mask(self, state: int) -> Any:
        self.automaton.effort.allow(MASK_STEPS)
        packed, steps = self._counted(lambda: self._packed(state))
        if steps > MASK_STEPS:
            raise TooManySteps
        return packed

    def _packed(self, state: int) -> Any:
        """By the top of the stacks, which states of many depths share, as far as that tells."""
        if self.automaton.within(state):
            return np.packbits(self._within(state))
        shallow = self.automaton.shallow(state)
        make = functools.partial(self._counted, lambda: self._whole(shallow))
        (packed, unsure), steps = _remembered(self._walks, shallow, make)
        self.automaton.effort.counted += steps
        if not len(unsure):
            return packed
        allowed = np.unpackbits(packed, count=self.tokens.size).view(np.bool_)
        self._walk(state, unsure, allowed)
        return np.packbits(allowed)

    def _counted(self, work: Callable[[], T]) -> tuple[T, int]:
        """Do it, and tell how many steps it takes if nothing is remembered."""
        automaton, effort = self.automaton, self.automaton.effort
        around, counted = automaton.touched, effort.counted
        automaton.touched, effort.counted = np.zeros_like(around), 0
        try:
            done = work()
            steps = effort.counted + int(automaton.costs[automaton.touched].sum())
        finally:
            automaton.touched[:] = False
            automaton.touched[: len(around)] = around
            effort.counted = counted
        return done, steps

    def _within(self, state: int) -> Bools:
        """Behind the beginning of a character, of which few tokens are the rest."""
        allowed = np.zeros(self.tokens.size, np.bool_)
        if self.tokens.heads:
            behind = [self.automaton.along(state, head) for head in self.tokens.heads]
            states = np.array(behind, np.int32)[self.tokens.head]
            alive = states >= 0
            self._walk(states[alive], self.tokens.inner[alive], allowed)
        return allowed

    def _whole(self, state: int) -> tuple[Any, Any]:
        """The mask of a state, as bits, and the tokens of which it cannot be told."""
        self.automaton.know(np.array([state]))
        row = self.automaton.rows[state]
        sets, lengths, ends = self._going_on(row)
        first = self._alphabet.first
        among = (self._alphabet.sets & ~sets.take(first)) == 0
        allowed = among & (self._alphabet.rest <= lengths.take(first))
        left = ~allowed & self.tokens.outer
        if not self.automaton.opens(state):
            begun = row >= 0
            begun[-1] = True  # tokens that have but the beginning of a character
            left &= begun.take(first)
            left &= ~(among & ends.take(first))
        unsure = self._walk(state, np.flatnonzero(left), allowed)
        return np.packbits(allowed), unsure

    def _going_on(self, row: Any) -> tuple[Any, Any, Any]:
        """The run behind each first character, in parts."""
        sets = np.zeros(len(row), np.uint64)
        lengths = np.full(len(row), _NEVER, np.int16)
        ends = np.zeros(len(row), np.bool_)
        for state in dict.fromkeys(row[row >= 0].tolist()):
            here = row == state
            many = self._alphabet.beginning[here].sum() > _MANY
            run = self._run(state) if many else _NO_RUN
            sets[here], lengths[here], ends[here] = run.classes, run.length, run.ends
        return sets, lengths, ends

    def _walk(self, start: Any, tokens: Any, allowed: Bools) -> Any:
        """Follow these tokens from a state, or from one each, and note which are allowed.

        Returns:
            Those that are not, but came to the end of what is known.
        """
        alphabet, automaton = self._alphabet, self.automaton
        states = np.full(len(tokens), start, np.int32)
        opened = np.zeros(len(tokens), np.bool_)
        lost = []
        at = 0
        while len(tokens):
            opened |= automaton.opens(states)
            ended = self.tokens.counts[tokens] == at
            allowed[tokens[ended]] = self._may_end(tokens[ended], states[ended])
            lost.append(tokens[ended & opened])
            tokens, states, opened = tokens[~ended], states[~ended], opened[~ended]
            automaton.know(states)
            states = automaton.rows[states, alphabet.codes[self.tokens.firsts[tokens] + at]]
            dead = states < 0
            lost.append(tokens[dead & opened])
            tokens, states, opened = tokens[~dead], states[~dead], opened[~dead]
            at += 1
        unsure = np.concatenate(lost) if lost else tokens
        return unsure[~allowed[unsure]]

    def _may_end(self, tokens: Any, states: Any) -> Bools:
        """Whether tokens may come whose whole characters led to these states."""
        may = np.ones(len(tokens), np.bool_)
        tails = self.tokens.tails[tokens]
        for state in dict.fromkeys(states[tails >= 0].tolist()):
            here = (states == state) & (tails >= 0)
            may[here] = self.automaton.begins(state, self._alphabet)[tails[here]]
        return may

    # What may come in any order

    def _run(self, state: int) -> _Run:
        known = self._runs.get(state)
        if known is None:
            known = self._runs[state] = self._counted(lambda: self._run_from(state))
        self.automaton.effort.counted += known[1]
        return known[0]

    def _run_from(self, start: int) -> _Run:
        run, seen, front = _NO_RUN, {start}, [start]
        try:
            run = _Run(self._alive(start), 1)
            returned = False
            while run.classes and self._worth(len(seen)) and run.length < _LENGTH:
                classes, new = self._narrowed(run.classes, front)
                if new is None:
                    return run if returned else self._ended(run, front, seen)
                front = [one for one in new if one not in seen]
                if not front:
                    return _Run(classes, _FOR_EVER)
                returned |= len(front) < len(new)
                seen.update(front)
                run = _Run(classes, run.length + 1)
        except TooManySteps:
            raise
        except TooAmbiguous:
            pass  # as far as it went
        return run

    def _worth(self, seen: int) -> bool:
        """Whether to look on, behind so many states."""
        automaton = self.automaton
        return seen < _STATES and automaton.costs[automaton.touched].sum() < _RUN_STEPS

    def _ended(self, run: _Run, front: list[int], seen: set[int]) -> _Run:
        """A run, of which it is known whether none of its classes may come behind it."""
        last = [one for one, through in self._leads(front).items() if through & run.classes]
        goes_on = any(self._alive(one) & run.classes for one in last)
        opens = self.automaton.opens(np.array([*seen, *last])).any()
        return _Run(run.classes, run.length, not goes_on and not opens)

    def _narrowed(self, classes: int, front: list[int]) -> tuple[int, list[int] | None]:
        """The classes that may come once more behind `front`, and the states that they lead to.

        None in place of the states: too little would be left.
        """
        kept = classes
        leads = self._leads(front)
        for state, through in leads.items():
            if kept & through:
                alive = self._alive(state)
                kept = max(kept & alive, kept & ~through, key=self._weight)
        if 2 * self._weight(kept) < self._weight(classes):
            return classes, None
        return kept, [state for state, through in leads.items() if kept & through]

    def _leads(self, front: list[int]) -> dict[int, int]:
        """The states behind those of `front`, and the classes that lead there, as bits."""
        leads: dict[int, int] = {}
        for state in front:
            for after, through in self._behind(state).items():
                leads[after] = leads.get(after, 0) | through
        return leads

    def _behind(self, state: int) -> dict[int, int]:
        self.automaton.touched[state] = True
        known = self._ways.get(state)
        if known is None:
            self.automaton.know(np.array([state]))
            row = self.automaton.rows[state, : min(self._alphabet.size, RARE)]
            known = self._ways[state] = {}
            for number, after in enumerate(row.tolist()):
                if after >= 0:
                    known[after] = known.get(after, 0) | 1 << number
        return known

    def _alive(self, state: int) -> int:
        return functools.reduce(operator.or_, self._behind(state).values(), 0)

    def _weight(self, classes: int) -> int:
        known = self._weights.get(classes)
        if known is None:
            weights = self._alphabet.weights.tolist()
            known = sum(one for number, one in enumerate(weights) if classes >> number & 1)
            self._weights[classes] = known
        return known


class Follower:
    """Where a text is in a grammar."""

    def __init__(self, masks: Masks) -> None:
        self._masks = masks
        self._state = 0

    @property
    def complete(self) -> bool:
        """Whether the text may end here."""
        return self._masks.automaton.complete(self._state)

    def allowed(self) -> Bools:
        """For each token whether it may come next.

        Raises:
            TooAmbiguous
        """
        self._forget()
        return self._masks.mask(self._state)

    def accept(self, token: int) -> bool:
        """Go on behind `token`; False, and nothing changes, if it cannot come.

        Raises:
            TooAmbiguous
        """
        self._forget()
        piece = self._masks.tokens.pieces[token]
        state = self._masks.automaton.follow(self._state, piece) if piece else -1
        if state >= 0:
            self._state = state
        return state >= 0

    def _forget(self) -> None:
        """Begin a new automaton when this one remembers too much."""
        if self._masks.automaton.full:
            self._masks, self._state = self._masks.moved(self._state), 1


def _remembered(known: OrderedDict[int, T], key: int, make: Callable[[], T]) -> T:
    """What is known, or is made now; what was not asked for longest is forgotten."""
    found = known.pop(key, None)
    known[key] = found if found is not None else make()
    if len(known) > _MASKS:
        known.popitem(last=False)
    return known[key]
