"""One request while it is computed. Pure: time is an argument, events are the result.

A generation lives on one sequence. `plan` says what to compute next, `apply` takes in what came
out of it. Between the two it changes nothing.
"""

from __future__ import annotations

import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from erllama.backend.base import (
    Begin,
    Buffer,
    Draw,
    Prefill,
    Row,
    Sampled,
    StepOutcome,
    StepPlan,
)
from erllama.model.request import Request
from erllama.model.slicing import slice_rows
from erllama.sampling import draw_seed, plan_sampler
from erllama.text import Utf8Decoder
from erllama.types import (
    CacheUse,
    Completion,
    Event,
    FinishReason,
    PrefillProgress,
    Text,
    Timings,
    Usage,
)


@dataclass(frozen=True, slots=True)
class Restored:
    """What a generation starts from.

    Attributes:
        tokens: of the prompt, whose state its sequence holds already.
        pure_end: up to where that state was computed by the exact-slicing rule from 0 on.
        logits: of the last of them, if they are the whole prompt; then a token is drawn at once.
        resumed: it is the state that a reply left; the token behind it was sampled then.
        tier: where it came from.
        seconds: that restoring took.
    """

    tokens: int = 0
    pure_end: int = 0
    logits: Buffer | None = None
    resumed: bool = False
    tier: Literal["ram", "ram_file", "disk"] | None = None
    seconds: float = 0.0


NOTHING = Restored()


class Generation:
    """The state of one request on one sequence.

    Attributes:
        prompt: its token ids.
        tokens: the sampled ones.
        position: how many tokens the sequence's cells hold.
        admitted: when its turn came.
        finished: why it ended, once it has.
        restored: what it started from.
        stored: up to where its rows are in the cache, or on their way.
        snapshot_at: `position` at the latest snapshot, of a model whose state cannot be cut.
        saved_at: `position` at the latest save of a reply.
        created: tokens whose rows it added to the cache.
        finish_key: names the state that it leaves in the cache.
        stops: where slices of the prompt end, because a snapshot is wanted there.
    """

    def __init__(
        self,
        *,
        prompt: array.array[int],
        request: Request,
        seed: int,
        seq: int,
        n_ctx: int,
        asked: float,
        admitted: float,
        now: float,
        restored: Restored = NOTHING,
        prefill_only: bool = False,
        keep_logits: bool = False,
        stops: Sequence[int] = (),
    ) -> None:
        self.prompt = prompt
        self.tokens: list[int] = []
        self.restored = restored
        self.position = restored.tokens
        self.stored = restored.tokens
        self.snapshot_at = restored.tokens
        self.saved_at = 0
        self.created = 0
        self.finish_key: str | None = None
        self.finished: FinishReason | None = None
        self._request = request
        self._sampler = plan_sampler(request.sampling)
        self._seed = seed
        self._seq = seq
        # the last token needs no cell of its own: it is sampled and never computed
        self._budget = min(request.max_tokens or n_ctx, n_ctx - len(prompt) + 1)
        self._asked = asked
        self.admitted = admitted
        self._started = now
        self._prefill_only = prefill_only
        self._keep_logits = keep_logits
        self.stops = stops
        self._first_token: float | None = None
        self._last_token = now
        self._decoder = Utf8Decoder()
        self._text: list[str] = []
        self._begun = False

    @property
    def prefilling(self) -> bool:
        """Whether prompt tokens are left to compute."""
        return self.position < len(self.prompt)

    @property
    def pure_end(self) -> int:
        """Up to where its rows are a function of the tokens alone."""
        restored = self.restored
        if restored.tokens > restored.pure_end or restored.resumed:
            return restored.pure_end
        return len(self.prompt)

    @property
    def computed_tokens(self) -> list[int]:
        """The tokens that its sequence's cells hold."""
        return [*self.prompt, *self.tokens][: self.position]

    @property
    def decode_rate(self) -> float:
        """Tokens per second after the first; 0 before the second."""
        if self._first_token is None or self._last_token <= self._first_token:
            return 0.0
        return (len(self.tokens) - 1) / (self._last_token - self._first_token)

    def plan(self, number: int, *, slice_limit: int, granule: int) -> StepPlan:
        """The next step: a slice of the prompt, or the row of the latest token."""
        keep = self.restored.tokens > 0
        begin = () if self._begun else (Begin(self._seq, self._sampler, keep),)
        if not self._begun and not self.prefilling:
            return StepPlan(number=number, begin=begin, draws=self._draws(len(self.prompt)))
        if not self.prefilling:
            row = Row(self._seq, self.position, self.tokens[-1])
            return StepPlan(number=number, rows=(row,), draws=(self._draw(self.position + 1),))
        end = len(self.prompt)
        stop = self.position + self._slice_rows(slice_limit, granule)
        prefill = Prefill(
            self._seq, self.position, self.prompt[self.position : stop], logits=stop == end
        )
        return StepPlan(
            number=number,
            begin=begin,
            prefill=prefill,
            draws=self._draws(end) if stop == end else (),
            keep_logits=self._keep_logits and stop == end,
        )

    def apply(self, outcome: StepOutcome, now: float) -> list[Event]:
        """Take in a step that was done, and give out what a stream shows of it."""
        self._begun = True
        was_prefilling = self.prefilling
        self.position = outcome.positions[self._seq]
        events: list[Event] = []
        if was_prefilling and self._request.prefill_progress:
            events.append(PrefillProgress(self.position, len(self.prompt)))
        for sampled in outcome.sampled:
            events += self._take(sampled, now)
        if self._prefill_only and not self.prefilling:
            self.finished = "length"
        return events

    def finish(self, reason: FinishReason, now: float) -> Completion:
        """The result, as far as it came."""
        self.finished = reason
        first = self._first_token if self._first_token is not None else now
        return Completion(
            text="".join(self._text),
            tokens=list(self.tokens),
            finish_reason=reason,
            context_tokens=[*self.prompt, *self.tokens],
            finish_key=self.finish_key,
            cache=self._cache_use(),
            seed=self._seed,
            usage=Usage(
                prompt_tokens=len(self.prompt),
                completion_tokens=len(self.tokens),
                cached_tokens=self.restored.tokens,
            ),
            timings=Timings(
                queue_ms=(self.admitted - self._asked) * 1e3,
                restore_ms=(self._started - self.admitted) * 1e3,
                prefill_ms=(first - self._started) * 1e3,
                decode_ms=(now - first) * 1e3,
                ttft_ms=(first - self._asked) * 1e3 if self._first_token is not None else 0.0,
                total_ms=(now - self._asked) * 1e3,
            ),
        )

    def _cache_use(self) -> CacheUse:
        restored = self.restored
        warm: Literal["exact", "partial"] = "partial" if restored.logits is None else "exact"
        return CacheUse(
            hit=warm if restored.tokens else "cold",
            read=restored.tokens,
            created=self.created,
            pure=self.pure_end >= len(self.prompt),
            tier=restored.tier,
        )

    def _slice_rows(self, limit: int, granule: int) -> int:
        """Rows of the next slice: up to the next position where a snapshot is wanted."""
        if self.restored.resumed and self.position == self.restored.tokens:
            return 1  # the stream that this resumes would have computed it alone
        rows = slice_rows(self.position, len(self.prompt), limit, granule)
        ahead = [stop - self.position for stop in self.stops if stop > self.position]
        return min([rows, *ahead])

    def _draws(self, position: int) -> tuple[Draw, ...]:
        if self._prefill_only:
            return ()
        draw = self._draw(position)
        if self._begun or self.restored.logits is None:
            return (draw,)
        return (Draw(draw.seq, draw.seed, self.restored.logits),)

    def _take(self, sampled: Sampled, now: float) -> list[Event]:
        self.tokens.append(sampled.token)
        self._last_token = now
        if self._first_token is None:
            self._first_token = now
        if sampled.end:
            self.finished = "stop"
        elif len(self.tokens) >= self._budget:
            self.finished = "length"
        text = self._decoder.feed(sampled.piece)
        if self.finished is not None:
            text += self._decoder.flush()
        if not text:
            return []
        self._text.append(text)
        return [Text(text, sampled.token)]

    def _draw(self, position: int) -> Draw:
        """The draw for the token at `position` of the context."""
        return Draw(self._seq, draw_seed(self._seed, position))
