"""A request on its way through a model actor."""

from __future__ import annotations

import array
from typing import Protocol

from erllama.actor import ReplyTo
from erllama.clock import Timer
from erllama.errors import CallTimeout
from erllama.model.generation import Generation
from erllama.model.request import Prompt, Request
from erllama.types import CacheUse, Completion, Event, FinishReason, Timings, Usage


class Sink(Protocol):
    """Where the events of a streamed request go."""

    def push(self, event: Event) -> None: ...


class Job:
    """One request: what was asked, how far it is, whom to answer.

    Attributes:
        tokens: the prompt's ids, once it is tokenized.
        generation: its computation, once it was admitted.
        timed_out, cancelled: why it is to end, if it is.
        prefill_only: no token is to be sampled.
        waited: it has waited for rows that were being saved.
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
        self.prompt = prompt
        self.request = request
        self.seed = seed
        self.asked = asked
        self.admitted = asked
        self.sink = sink
        self.prefill_only = prefill_only
        self.waited = False
        self.wait_timer: Timer | None = None
        self.tokens: array.array[int] | None = None if isinstance(prompt, str) else prompt
        self.generation: Generation | None = None
        self.reply: ReplyTo | None = None
        self.timer: Timer | None = None
        self.cancelled = False
        self.timed_out = False

    @property
    def ending(self) -> bool:
        """Whether it was told to end."""
        return self.cancelled or self.timed_out

    def completion(self, reason: FinishReason, now: float) -> Completion:
        """The result, also of a request that never came to be computed."""
        if self.generation is not None:
            return self.generation.finish(reason, now)
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
        n = len(self.generation.tokens) if self.generation else 0
        state = f"{n} tokens were generated" if self.generation else "it was still waiting"
        return CallTimeout(
            f"timeout: the request was not done after {now - self.asked:.3g} s ({state})"
        )
