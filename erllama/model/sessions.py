"""Sticky sessions: whose next turn finds its state still on a sequence. Pure.

Contract
    State     per session: nothing yet, in use by one request, or idle; an idle one holds a
              sequence until it is given up (its rows are in the cache by then).
    Writer    the model's actor.
    Invariant one request at a time uses a session.
"""

from __future__ import annotations

import array
from dataclasses import dataclass

from erllama.cache.lineage import Lineage
from erllama.errors import SessionBusy
from erllama.model.resume import Cut
from erllama.model.scope import Scope
from erllama.model.slicing import common_prefix

_REMEMBERED = 10_000  # sessions without a sequence, of which only the key of their rows is kept


@dataclass(frozen=True, slots=True)
class Live:
    """What a finished request has left on its sequence.

    Attributes:
        seq: the sequence.
        tokens: those that its cells hold.
        sampled: the token after them, which was sampled and never computed; None: there is none.
        lineage: what made the rows.
        stored: up to where they are in the cache.
        scope: what they belong to.
        since: when it became idle.
        least: the fewest tokens that it can be cut to, beside none (`Capabilities.truncate`).
        cut: what its reply needs to go on, beside the tokens.
    """

    seq: int
    tokens: array.array[int]
    sampled: int | None
    lineage: Lineage
    stored: int
    scope: Scope
    since: float
    least: int = 0
    cut: Cut | None = None

    @property
    def bare(self) -> bool:
        """Whether nothing of the reply was computed, so that the rows are those of its prompt."""
        return self.lineage.pure_end >= len(self.tokens)


@dataclass(slots=True)
class _Session:
    key: str | None = None
    busy: bool = False


class Sessions:
    """All sessions of a model."""

    def __init__(self) -> None:
        self._sessions: dict[str, _Session] = {}
        self._live: dict[str, Live] = {}

    @property
    def held(self) -> int:
        """How many sequences sessions hold that no request has taken over."""
        return len(self._live)

    def busy(self, session_id: str) -> bool:
        """Whether a request uses the session."""
        session = self._sessions.get(session_id)
        return session is not None and session.busy

    def claim(self, session_id: str) -> None:
        """A request is to use the session.

        Raises:
            SessionBusy: another one does.
        """
        session = self._sessions.pop(session_id, None) or _Session()
        self._sessions[session_id] = session  # behind all others: the latest used
        if session.busy:
            raise SessionBusy(
                f"session_id: a request of session {session_id!r} is running; wait for it, or "
                "use another session"
            )
        session.busy = True
        self._forget_old()

    def take(self, session_id: str) -> Live | None:
        """What its last request left; it is no longer the session's."""
        return self._live.pop(session_id, None)

    def key(self, session_id: str) -> str | None:
        """The key of the rows that its last request left in the cache."""
        return self._sessions[session_id].key

    def release(self, session_id: str, live: Live | None, key: str | None) -> None:
        """Its request is over and leaves this; None: nothing beside what it did not take."""
        session = self._sessions[session_id]
        session.busy = False
        session.key = key or session.key
        if live is not None:
            self._live[session_id] = live

    def end(self, session_id: str) -> Live | None:
        """Forget a session; gives what it had on a sequence.

        Raises:
            SessionBusy: a request uses it.
        """
        session = self._sessions.get(session_id)
        if session is not None and session.busy:
            raise SessionBusy(
                f"session_id: a request of session {session_id!r} is running; end that first"
            )
        self._sessions.pop(session_id, None)
        return self._live.pop(session_id, None)

    def idle_longest(self) -> Live | None:
        """Take the sequence of the session that has been idle for longest."""
        if not self._live:
            return None
        return self._live.pop(min(self._live, key=lambda name: self._live[name].since))

    def idle_since(self, before: float) -> list[Live]:
        """Take the sequences of all that have been idle since before then."""
        due = [name for name, live in self._live.items() if live.since <= before]
        return [self._live.pop(name) for name in due]

    def _forget_old(self) -> None:
        if len(self._sessions) <= _REMEMBERED:
            return
        for session_id, session in self._sessions.items():
            if not session.busy and session_id not in self._live:
                del self._sessions[session_id]
                return


def reusable(
    live: Live,
    prompt: array.array[int],
    *,
    truncate: bool,
    resume: bool,
    exact: bool,
    granule: int,
) -> tuple[int, bool]:
    """How many of a live sequence's tokens a prompt can keep, and whether it resumes the reply.

    At least one token of the prompt is left to compute, because its logits are wanted.

    Args:
        truncate: whether cells can be dropped from the end.
        resume: whether the prompt may go on behind the reply, if it begins with all of it.
        exact: whether otherwise only rows are good enough that a cold run would make.
        granule: rows of the finest cut.
    """
    n = min(common_prefix(live.tokens, prompt), len(prompt) - 1)
    resumes = resume and live.sampled is not None and n == len(live.tokens)
    if exact and not resumes:
        n = min(n, live.lineage.pure_end)
        n -= n % granule
    if n < len(live.tokens) and (n < live.least or not truncate):
        return 0, False
    return n, resumes
