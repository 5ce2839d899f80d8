"""What is computed next. Pure: the requests that hold sequences in, one step out.

A step is one call of `llama_decode`: either one row of every request that generates, or one slice
of a prompt; never both, or the numbers would depend on the company (docs/exact-slicing.md).
Requests that generate and prompts that wait take turns, and while anything generates a slice is
only as long as fits between two of its tokens. Prompts of like length share a step where the engine
can do that: those that come together are read together, and begin to generate together.

Whose slice: the classes of priority share the time of prompts by weight (start-time fair queueing,
Goyal, Vin and Cheng 1996); within a class the prompt goes first that has least left, so that short
ones do not wait for long ones. One that was passed over too often goes first, so none starves.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from erllama.model.request import Priority
from erllama.model.slicing import rows_within, slice_rows

WEIGHTS: dict[Priority, int] = {"low": 1, "normal": 4, "high": 16}
"""Shares of the classes where they compete."""

PATIENCE = 8
"""Slices that others may get before a prompt that waits goes first."""

TURN = 4
"""Decode steps of requests with the same adapters before others have theirs: to change adapters
costs llama.cpp up to half a step, as it plans its graphs anew."""

CONTENDED_S = 0.1
"""How long a prompt slice may keep the lane while other models compute too."""

SLICE_S = 0.6
"""How long slices may take where nothing else is computed: who comes meanwhile waits for the end,
and an abort is heard between two operations of the model, each of which goes over all rows."""

_LIKE = 2  # times as much of a prompt may be left as of another one that it shares steps with
_URGENT = 2.0  # times the estimated rest of a prompt, before its deadline


@dataclass(slots=True, eq=False)
class Entry:
    """A request that holds a sequence.

    Attributes:
        order: rises from request to request.
        left: tokens of its prompt that are still to be computed; 0: it generates.
        ready: False while it waits for its reader, or for its rows.
        deadline: when its caller stops waiting.
        most: rows of its slices at most, where the cells of the context ran short; 0: no limit.
        passed: slices that others got since its last one.
        group: requests of different groups never share a step: their adapters differ.
        alone: it is to be computed by itself, to find out whether it is the one that fails.
        joins: its next slice may be computed beside slices of other prompts, of the same length.
        held: its next slice waits for one that it may share a step with.
    """

    seq: int
    order: int
    priority: Priority = "normal"
    left: int = 0
    ready: bool = True
    deadline: float | None = None
    most: int = 0
    passed: int = 0
    alone: bool = False
    joins: bool = False
    held: bool = False
    group: Hashable = ()


@dataclass(frozen=True, slots=True)
class Decode:
    """One row for each of these sequences, in rising order."""

    seqs: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Slice:
    """A slice of at most `limit` rows of the prompt of one sequence.

    Attributes:
        beside: further sequences, next to that one, whose prompts have slices of just `limit` rows.
    """

    seq: int
    limit: int
    beside: tuple[int, ...] = ()

    @property
    def seqs(self) -> tuple[int, ...]:
        """All sequences that it computes, in rising order."""
        return tuple(sorted((self.seq, *self.beside)))


Decision = Decode | Slice


@dataclass(slots=True)
class Pace:
    """How fast the engine was lately.

    Attributes:
        prefill_rate: rows of a prompt per second; 0: unknown.
        decode_s: seconds that a decode step takes.
    """

    prefill_rate: float = 0.0
    decode_s: float = 0.0

    def note_decode(self, seconds: float) -> None:
        """Keep a moving average."""
        self.decode_s += 0.3 * (seconds - self.decode_s) if self.decode_s else seconds

    def note_prefill(self, rows: int, seconds: float) -> None:
        """The latest slice counts: the rate falls with the depth of the prompt."""
        if seconds > 0:
            self.prefill_rate = rows / seconds


class ClassShares:
    """What each class of priority has used, in weighted units."""

    def __init__(self) -> None:
        self._used = dict.fromkeys(WEIGHTS, 0.0)
        self._floor = 0.0

    def charge(self, priority: Priority, amount: float) -> None:
        """Note that a class has used this much."""
        used = max(self._used[priority], self._floor)
        self._floor = used
        self._used[priority] = used + amount / WEIGHTS[priority]

    def first(self, classes: Iterable[Priority]) -> Priority:
        """Whose turn it is among these; one that was away cannot have saved up turns."""
        return min(classes, key=lambda c: (max(self._used[c], self._floor), -WEIGHTS[c]))


def groups(entries: Iterable[Entry]) -> int:
    """How many groups take turns to decode."""
    return len({entry.group for entry in entries if entry.ready and not entry.left})


class Scheduler:
    """Plans the steps of one model.

    Args:
        n_batch: most rows in a step.
        n_joint: most rows in a step with slices of several prompts.
        granule: rows of the finest cut of a prompt.
        stall_s: longest time between two tokens of a request while prompts are computed.
        pace: how fast the engine was so far.
    """

    def __init__(
        self, *, n_batch: int, n_joint: int = 0, granule: int, stall_s: float, pace: Pace
    ) -> None:
        self._n_batch = n_batch
        self._n_joint = n_joint
        self._granule = granule
        self._stall_s = stall_s
        self._shares = ClassShares()
        self._since_decode = math.inf  # seconds of slices since the last decode step
        self._last: tuple[int, ...] = ()  # whose slice was the latest
        self._decodes = 0
        self._latest: dict[Hashable, int] = {}
        self._in_turn = 0
        self.pace = pace

    def plan(
        self, entries: Sequence[Entry], *, now: float, contended: bool = False
    ) -> Decision | None:
        """The next step; None: nothing is ready. Changes nothing.

        Args:
            entries: the requests that hold sequences.
            now: the time that deadlines are measured by.
            contended: whether other models compute too.
        """
        decoding = self._turn([entry for entry in entries if entry.ready and not entry.left])
        prompts = [entry for entry in entries if entry.ready and entry.left and not entry.held]
        chosen = self._choose(prompts, now) if prompts else None
        if decoding and not (chosen and self._fits(chosen)):
            alone = [entry.seq for entry in entries if entry.alone and entry.seq in decoding]
            return Decode(tuple(alone[:1] or sorted(decoding)))
        if chosen is None:
            return None
        limit = self._limit(chosen, bool(decoding), contended)
        rows = slice_rows(0, chosen.left, limit, self._granule)
        beside = self._beside(chosen, prompts, rows, limit) if self._n_joint else ()
        return Slice(chosen.seq, rows, beside) if beside else Slice(chosen.seq, limit)

    def took(self, decision: Decision, entries: Sequence[Entry], seconds: float) -> None:
        """Account for a step that was computed.

        Args:
            decision: what was planned.
            entries: the requests that held sequences then.
            seconds: that it took on the lane.
        """
        if isinstance(decision, Decode):
            self._since_decode = 0.0
            self._note_turn(decision, entries)
            self.pace.note_decode(seconds)
            return
        self._since_decode += seconds
        self._last = decision.seqs
        for entry in entries:
            if entry.seq in decision.seqs:
                entry.passed = 0
                self._shares.charge(entry.priority, seconds / len(decision.seqs))
            elif entry.ready and entry.left:
                entry.passed += 1

    def _fits(self, entry: Entry) -> bool:
        """Whether another slice may go before the next decode step.

        One always may. Further ones that make another prompt complete, as far as the pause allows:
        a step for a few rows that could have waited for more costs about as much as one for all.
        """
        if self._since_decode == 0.0:
            return True
        if not self.pace.prefill_rate or entry.left > self._granule or entry.seq in self._last:
            return False
        return entry.left / self.pace.prefill_rate <= self._spare_s

    @property
    def _spare_s(self) -> float:
        """Seconds that slices may take before the next decode step."""
        return self._stall_s - self.pace.decode_s - self._since_decode

    def _turn(self, decoding: list[Entry]) -> list[int]:
        """The sequences of the group whose turn it is: goes on, or has decoded least lately."""
        if not decoding:
            return []
        order = sorted(decoding, key=lambda entry: self._latest.get(entry.group, 0))
        goes_on = self._latest.get(order[-1].group) == self._decodes and self._in_turn < TURN
        group = order[-1 if goes_on else 0].group
        return [entry.seq for entry in decoding if entry.group == group]

    def _note_turn(self, decision: Decode, entries: Sequence[Entry]) -> None:
        group = next((entry.group for entry in entries if entry.seq in decision.seqs), ())
        went_on = self._latest.get(group) == self._decodes
        self._in_turn = self._in_turn + 1 if went_on else 1
        self._decodes += 1
        latest = {entry.group: self._latest.get(entry.group, 0) for entry in entries}
        self._latest = latest | {group: self._decodes}

    def _choose(self, prompts: list[Entry], now: float) -> Entry:
        first = self._shares.first({entry.priority for entry in prompts})
        own = [entry for entry in prompts if entry.priority == first]
        return min(own, key=lambda entry: self._rank(entry, now))

    def _rank(self, entry: Entry, now: float) -> tuple[int, float, int]:
        """What goes first within a class: the starved, the urgent, the shortest."""
        if entry.passed >= PATIENCE:
            return 0, float(entry.order), 0
        if entry.deadline is not None and self.pace.prefill_rate > 0:
            rest = entry.left / self.pace.prefill_rate
            if entry.deadline - now < _URGENT * rest:
                return 1, entry.deadline, entry.order
        return 2, float(entry.left), entry.order

    def _beside(
        self, chosen: Entry, prompts: Sequence[Entry], rows: int, limit: int
    ) -> tuple[int, ...]:
        """Whose slices of `rows` rows are computed with the chosen one, within its limit.

        Only of prompts that are not much longer: else a short one would wait for the beginning of
        a long one, which gains nothing by it.
        """
        most = min(limit, self._n_joint)
        if rows < 2 or 2 * rows > most or not self._shares_steps(chosen):
            return ()
        fit = {
            entry.seq
            for entry in prompts
            if self._shares_steps(entry)
            and (entry.priority, entry.group) == (chosen.priority, chosen.group)
            and entry.left <= _LIKE * chosen.left
            and slice_rows(0, entry.left, rows, self._granule) == rows
        }
        first = last = chosen.seq
        while (last - first + 2) * rows <= most and (last + 1 in fit or first - 1 in fit):
            if last + 1 in fit:
                last += 1
            else:
                first -= 1
        return tuple(seq for seq in range(first, last + 1) if seq != chosen.seq)

    @staticmethod
    def _shares_steps(entry: Entry) -> bool:
        return entry.joins and not entry.alone and not entry.most

    def _limit(self, entry: Entry, decoding: bool, contended: bool) -> int:
        """Rows of a slice: what fits into a time, which is short while others generate."""
        limit = min(entry.most, self._n_batch) if entry.most else self._n_batch
        if decoding:
            seconds = self._spare_s
        elif contended:
            seconds = CONTENDED_S
        elif self.pace.prefill_rate:
            seconds = SLICE_S
        else:
            return limit
        return min(limit, rows_within(seconds, self.pace.prefill_rate, self._granule))
