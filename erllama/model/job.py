"""A request on its way through a model actor."""

from __future__ import annotations

import array
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from erllama.actor import ReplyTo
from erllama.backend.base import SavedState
from erllama.cache.query import Named
from erllama.clock import Timer
from erllama.errors import CallTimeout
from erllama.model.generation import Generation
from erllama.model.request import Prompt, Request
from erllama.model.resume import Cut, split_key
from erllama.model.scheduler import Entry
from erllama.model.scope import Scope
from erllama.model.sessions import Live
from erllama.sampling import plan_sampler
from erllama.types import CacheUse, Completion, Event, FinishReason, Timings, Usage

_NEAR = 1_000  # characters from the end


class Sink(Protocol):
    """Where the events of a streamed request go.

    Attributes:
        on_space: called once whenever it is full no more.
    """

    on_space: Callable[[], object] | None

    @property
    def full(self) -> bool:
        """Whether its reader lags so far behind that no more tokens should be made for it."""

    def push(self, event: Event) -> None:
        """Add an event; also a full one takes it."""


class Job:
    """One request: what was asked, how far it is, whom to answer.

    Attributes:
        order: rises from request to request of one model.
        tokens: the prompt's ids, once it is tokenized.
        entry: what the scheduler sees of it, while it holds a sequence.
        generation: its computation, once it was admitted.
        timed_out, cancelled: why it is to end, if it is.
        compiling: what rules its text is being compiled, and its prompt tokenized behind that.
        answered: nothing that is still computed for it is wanted; also read from other threads.
        queued_too_long: it got no sequence in time.
        prefill_only: no token is to be sampled.
        verify_from: the first row of the prompt whose likeliest next token is wanted.
        marked: thinking and calls of tools are recognised in its reply.
        ending_text: what its prompt ends with, which may have opened a section of the reply.
        calls_bare: JSON alone, where a model writes its calls so, is a call in its reply.
        waits_for: the request whose prompt begins like its own and is being computed just now.
        waited: it has waited long enough for rows that are being saved.
        hurries: it waits for nobody any more to share a step with.
        shares: how many tokens its prompt has in common with others', by their numbers.
        known: how many tokens of its prompt the cache has, and when that was looked up.
        spilled: its state, while it holds no sequence although it has begun.
        has_all_cells: nobody else has any where that state is put back now.
        turn_from: tokens that it had computed when it got its sequence.
        to_spill: its sequence is wanted for somebody else.
        short: the cells of the context do not suffice for it beside the others.
        stays: its state could not be taken off its sequence, which is not tried again.
        paused: its reader lags too far behind.
        checked: the model can compute it.
        scope: with whom it may share rows; the adapters in it are in force for it.
        in_session: its session is its own until it is answered.
        left: what it leaves to its session.
        cut: the reply in which it goes on, if it does.
        parent_key: of the reply that it names to go on behind: its request, or its session.
        warnings: what of its schema limits nothing though it may have been meant to.
        chat_keys: of the remembered chats that it goes on, the longest first.
    """

    def __init__(
        self,
        *,
        prompt: Prompt,
        request: Request,
        seed: int,
        asked: float,
        sink: Sink | None,
        prefill_only: bool = False,
    ) -> None:
        self.prompt: Prompt = prompt
        self.request = request
        self.seed = seed
        self.asked = asked
        self.admitted = asked
        self.sink = sink
        self.prefill_only = prefill_only
        self.verify_from: int | None = None
        budget = request.thinking_budget_tokens
        self.marked = request.thinking is True or budget is not None
        self.ending_text = prompt[-_NEAR:] if isinstance(prompt, str) else ""
        self.calls_bare = False
        self.order = 0
        self.waits_for: Job | None = None
        self.waited = False
        self.hurries = False
        self.shares: dict[int, int] = {}
        self.known: tuple[int, int] | None = None
        self.tokens: array.array[int] | None = None if isinstance(prompt, str) else prompt
        self.entry: Entry | None = None
        self.generation: Generation | None = None
        self.reply: ReplyTo | None = None
        self.timers: dict[str, Timer] = {}
        self.cancelled = False
        self.timed_out = False
        self.compiling = False
        self.answered = False
        self.queued_too_long = False
        self.spilled: SavedState | None = None
        self.has_all_cells = False
        self.turn_from = 0
        self.to_spill = False
        self.short = False
        self.stays = False
        self.paused = False
        self.checked = False
        self.scope = Scope(request.cache_salt)
        self.in_session = False
        self.left: Live | None = None
        self.cut: Cut | None = None
        self.parent_key = request.parent_key
        self.warnings: tuple[str, ...] = ()
        self.chat_keys: Sequence[str] = ()

    def continue_chat(
        self, tokens: array.array[int], *, text: str, keys: Sequence[str], tools: bool
    ) -> None:
        """Its prompt is a chat.

        Args:
            keys: of the remembered chats that it goes on, the longest first: that is where it
                resumes, unless the request or its session says otherwise.
        """
        self.prompt = self.tokens = tokens
        self.ending_text = text[-_NEAR:]
        request = self.request
        self.calls_bare = tools and request.sampling.structure is None
        if request.parent_key is None and request.session_id is None and keys:
            self.request = msgspec.structs.replace(request, parent_key=keys[0])
            self.parent_key = keys[0]
        self.chat_keys = keys

    def join_session(self, left: str | None) -> None:
        """It is the next request of a session, whose last one left this key.

        A chat that does not go on behind that reply, as it was edited or is asked again, names
        what the remembered chats say.
        """
        self.in_session = True
        keys = self.chat_keys
        self.parent_key = self.parent_key or (keys[0] if keys and left not in keys else left)

    @property
    def names(self) -> Named | None:
        """The rows of the reply that it goes on behind, if its prompt begins with that reply."""
        return None if self.parent_key is None else split_key(self.parent_key)[0]

    def goes_on_in(self, cut: Cut) -> bool:
        """Whether it goes on in a reply that was cut so: same rules, and no text behind it."""
        return self.tokens is not None and cut.fits(
            plan_sampler(self.request.sampling), self.tokens
        )

    @property
    def seq(self) -> int:
        """The sequence that it holds.

        Raises:
            LookupError: it holds none.
        """
        if self.entry is None:
            raise LookupError("this request holds no sequence")
        return self.entry.seq

    @property
    def deadline(self) -> float | None:
        """When its caller stops waiting."""
        timeout = self.request.timeout
        return None if timeout is None else self.asked + timeout

    @property
    def likeliest(self) -> list[int]:
        """The likeliest tokens from `verify_from` on."""
        return [] if self.generation is None else self.generation.likeliest

    def stop_timer(self, name: str) -> None:
        """Let a timer of it pass without effect."""
        timer = self.timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def stop_timers(self) -> None:
        """Let all of them pass."""
        for name in list(self.timers):
            self.stop_timer(name)

    @property
    def ending(self) -> bool:
        """Whether it was told to end."""
        return self.cancelled or self.timed_out or self.queued_too_long

    def completion(self, reason: FinishReason, now: float) -> Completion:
        """The result, also of a request that never came to be computed."""
        if self.generation is not None:
            done = self.generation.finish(reason, now)
            return msgspec.structs.replace(done, warnings=list(self.warnings))
        tokens = list(self.tokens or ())
        waited = (now - self.asked) * 1e3
        return Completion(
            text="",
            tokens=[],
            finish_reason=reason,
            context_tokens=tokens,
            finish_key=None,
            cache=CacheUse(hit="cold", read=0, created=0, pure=True, tier=None),
            seed=self.seed,
            usage=Usage(prompt_tokens=len(tokens), completion_tokens=0),
            timings=Timings(queue_ms=waited, total_ms=waited),
        )

    def timeout_error(self, now: float) -> CallTimeout:
        """What a caller is told whose time is over."""
        if self.queued_too_long:
            return CallTimeout(
                f"queue_timeout_s: no sequence was free within {now - self.asked:.3g} s; try "
                "again later, or load the model with a larger n_seq_max"
            )
        n = len(self.generation.tokens) if self.generation else 0
        state = f"{n} tokens were generated" if self.generation else "it was still waiting"
        return CallTimeout(
            f"timeout: the request was not done after {now - self.asked:.3g} s ({state})"
        )
