"""One request while it is computed. Pure: time is an argument, events are the result.

A generation lives on one sequence at a time. It says what of it is to be computed next, `apply`
takes in what came out. Between the two it changes nothing.
"""

from __future__ import annotations

import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from erllama.backend.base import (
    AdapterUse,
    Begin,
    Buffer,
    Draw,
    Prefill,
    Row,
    Sampled,
)
from erllama.cache.lineage import UNTOLD, Lineage
from erllama.model.markers import Markers, Opening
from erllama.model.reply import Reply
from erllama.model.request import Request
from erllama.model.resume import Cut, cut_of
from erllama.model.slicing import fill_rows, slice_rows
from erllama.sampling import draw_seed, plan_sampler
from erllama.types import (
    CacheUse,
    Completion,
    Event,
    FinishReason,
    PrefillProgress,
    Timings,
    TokenLogprobs,
    Usage,
)


@dataclass(frozen=True, slots=True)
class Restored:
    """What a generation starts from.

    Attributes:
        tokens: of the prompt, whose state its sequence holds already.
        lineage: what made that state; with nothing behind `pure_end` unless it is resumed.
        logits: of the last of them, if they are the whole prompt; then a token is drawn at once.
        resumed: it is the state that a reply left; the token behind it was sampled then.
        tier: where it came from; `live`: it was never taken off the sequence.
        seconds: that restoring took.
        stored: up to where it is in the cache too; None: all of it.
    """

    tokens: int = 0
    lineage: Lineage = UNTOLD
    logits: Buffer | None = None
    resumed: bool = False
    tier: Literal["ram", "ram_file", "disk", "live"] | None = None
    seconds: float = 0.0
    stored: int | None = None

    @property
    def pure_end(self) -> int:
        """Up to where the state was computed by the exact-slicing rule from 0 on."""
        return self.lineage.pure_end


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
        seq: the sequence that it is computed on.
        begun: whether that sequence has its sampler, and its cells are what they should be.
        adapters: in force for it.
        likeliest: of `verify`, the likeliest token after each row that was asked for.
        lineage: what makes its rows.
        keep_end: how much of what was computed is worth keeping in the cache; None: all.
        reply: what the sampled tokens say.
        steered: what they say may decide how the next one is chosen, so the event loop has to
            hear of each before the next is drawn.
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
        verify_from: int | None = None,
        adapters: tuple[AdapterUse, ...] = (),
        markers: Markers | None = None,
        opening: Opening | None = None,
        cut: Cut | None = None,
        fills: bool = False,
    ) -> None:
        self.prompt = prompt
        self.tokens: list[int] = []
        self.restored = restored
        self.lineage = _lineage(restored, len(prompt))
        self.position = restored.tokens
        self.stored = restored.tokens if restored.stored is None else restored.stored
        self.snapshot_at = restored.tokens
        self.saved_at = 0
        self.created = 0
        self.finish_key: str | None = None
        self.finished: FinishReason | None = None
        self._request = request
        self._sampler = plan_sampler(request.sampling)
        self._draws = self._sampler.draws
        self._seed = seed
        self.seq = seq
        self.likeliest: list[int] = []
        self._verify_from = verify_from
        self.adapters = adapters
        self.keep_end = verify_from
        # the last token needs no cell of its own: it is sampled and never computed
        self._budget = min(request.max_tokens or n_ctx, n_ctx - len(prompt) + 1)
        self._asked = asked
        self.admitted = admitted
        self._started = now
        self._prefill_only = prefill_only
        self._keep_logits = keep_logits
        self._fills = fills
        self.stops = stops
        self._first_token: float | None = None
        self._last_token = now
        self.reply = Reply(
            request.stop,
            markers,
            opening=opening or Opening(),
            thinking_budget=request.thinking_budget_tokens,
        )
        self.steered = self.reply.steers
        self._logprobs: list[TokenLogprobs] = []
        self._model_ended = False  # by a token that ends a generation
        self._stop_token: int | None = None
        self._mu = None if cut is None else cut.learned  # by mirostat
        self._ruled_from = len(prompt) if cut is None else cut.began
        self.begun = False

    @property
    def prefilling(self) -> bool:
        """Whether prompt tokens are left to compute."""
        return self.position < len(self.prompt)

    @property
    def prompt_left(self) -> int:
        """Prompt tokens that are left to compute."""
        return max(len(self.prompt) - self.position, 0)

    def joins(self, granule: int) -> bool:
        """Whether its next slice may share a step with slices of others: nothing sets it apart."""
        resumes = self.restored.resumed and self.position == self.restored.tokens
        rows = min(self.prompt_left, granule)
        filled = self._fills and fill_rows(self.position, rows, granule)
        plain = not (self.adapters or self.stops or resumes or filled)
        return plain and self._verify_from is None and self.position % granule == 0

    @property
    def pure_end(self) -> int:
        """Up to where its rows are a function of the tokens alone."""
        return self.lineage.pure_end

    @property
    def computed_tokens(self) -> list[int]:
        """The tokens that its sequence's cells hold."""
        return [*self.prompt, *self.tokens][: self.position]

    @property
    def cut(self) -> Cut | None:
        """What its reply needs to go on later, beside its tokens; None: nothing, or it ended."""
        end = len(self.prompt) + len(self.tokens)
        if not self.tokens or self._model_ended or self.position < end - 1:
            return None
        return cut_of(
            self._sampler,
            began=self._ruled_from,
            end=end,
            last=self.tokens[-1],
            mu=self._mu,
            bare=self.position <= self.pure_end,
        )

    @property
    def decode_rate(self) -> float:
        """Tokens per second after the first; 0 before the second."""
        if self._first_token is None or self._last_token <= self._first_token:
            return 0.0
        return (len(self.tokens) - 1) / (self._last_token - self._first_token)

    @property
    def starting(self) -> bool:
        """Whether nothing is to be computed before its first token is drawn."""
        return not self.begun and not self.prefilling and not self.tokens

    def begin(self) -> tuple[Begin, ...]:
        """What its sequence needs before the next step."""
        if self.begun:
            return ()
        history = array.array("i", self.prompt) if self._sampler.needs_history else None
        if history is None:
            return (Begin(self.seq, self._sampler, self.position, mu=self._mu),)
        history.extend(self.tokens)
        ruled = self._ruled_from
        return (Begin(self.seq, self._sampler, self.position, history, ruled, self._mu),)

    def row(self) -> Row:
        """The row of the latest token."""
        return self.row_at(self.position, self.tokens[-1])

    def row_at(self, position: int, token: int) -> Row:
        """The row of `token` behind `position` cells. From any thread."""
        return Row(self.seq, position, token)

    def slice(self, limit: int, granule: int) -> Prefill:
        """The next slice of the prompt, of at most `limit` rows."""
        rows = self._slice_rows(limit, granule)
        stop = self.position + rows
        return Prefill(
            self.seq,
            self.position,
            self.prompt[self.position : stop],
            logits=stop == len(self.prompt),
            greedy=self._rows_to_verify(stop),
            fill=fill_rows(self.position, rows, granule) if self._fills else 0,
        )

    def wants_logits(self, prefill: Prefill) -> bool:
        """Whether the logits after this slice are to be kept beside the rows."""
        return self._keep_logits and prefill.logits

    def first_draws(self) -> tuple[Draw, ...]:
        """The draw behind the prompt; none of a request that only prefills."""
        if self._prefill_only:
            return ()
        draw = self.draw(len(self.prompt))
        if self.begun or self.restored.logits is None:
            return (draw,)
        return (msgspec.structs.replace(draw, logits=self.restored.logits),)

    def draw(self, position: int) -> Draw:
        """The draw for the token at `position` of the context."""
        seed = draw_seed(self._seed, position) if self._draws else 0
        if not self.steered:  # also asked on the lane, while the reply may be behind
            return Draw(self.seq, seed)
        return Draw(self.seq, seed, greedy=self.reply.greedy, forced=self.reply.forced)

    def last_at(self, position: int) -> bool:
        """Whether the token drawn behind `position` cells is its last one. From any thread."""
        return position - len(self.prompt) + 1 >= self._budget

    def apply(
        self, position: int, sampled: Sampled | None, likeliest: Sequence[int], now: float
    ) -> list[Event]:
        """Take in a step that was done, and give out what a stream shows of it.

        Args:
            position: tokens that the sequence's cells hold now.
            sampled: the token that was drawn, if one was.
            likeliest: what the slice was asked for.
        """
        self.begun = True
        was_prefilling = self.prefilling
        self.position = position
        self.likeliest += likeliest
        events: list[Event] = []
        if was_prefilling and self._request.prefill_progress:
            events.append(PrefillProgress(self.position, len(self.prompt)))
        if sampled is not None:
            events += self._take(sampled, now)
        if self._prefill_only and not self.prefilling:
            self.finished = "length"
        return events

    def moved(self, seq: int) -> None:
        """Its state is on another sequence now, or was put back to `position`."""
        self.seq = seq
        self.begun = False

    def finish(self, reason: FinishReason, now: float) -> Completion:
        """The result, as far as it came."""
        self.finished = reason
        first = self._first_token if self._first_token is not None else now
        thinking = self.reply.thinking
        return Completion(
            text="".join(self.reply.text),
            tokens=list(self.tokens),
            finish_reason=reason,
            stop_sequence=self.reply.stop_sequence,
            stop_token_id=self._stop_token,
            thinking=None if thinking is None else "".join(thinking),
            tool_calls=list(self.reply.tool_calls),
            logprobs=self._logprobs if self._sampler.logprobs is not None else None,
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
        warm: Literal["exact", "partial", "sticky"] = "exact"
        if restored.logits is None:
            warm = "sticky" if restored.tier == "live" else "partial"
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

    def _rows_to_verify(self, stop: int) -> int:
        if self._verify_from is None:
            return 0
        return max(stop - max(self.position, self._verify_from), 0)

    def _take(self, sampled: Sampled, now: float) -> list[Event]:
        self.tokens.append(sampled.token)
        self._mu = sampled.mu
        if sampled.logprobs is not None:
            self._logprobs.append(sampled.logprobs)
        self._last_token = now
        if self._first_token is None:
            self._first_token = now
        if sampled.token in self._request.stop_token_ids:
            self._stop_token = sampled.token
            sampled = msgspec.structs.replace(sampled, piece=b"", special=b"")  # not shown
        self._model_ended = sampled.end
        if sampled.end or self._stop_token is not None:
            self.finished = "stop"
        elif len(self.tokens) >= self._budget:
            self.finished = "length"
        events = self.reply.take(sampled, last=self.finished is not None)
        if self.reply.stop_sequence is not None:
            self.finished = "stop"
        return events


def _lineage(restored: Restored, prompt: int) -> Lineage:
    """What makes the rows of a request of so many tokens that starts from there."""
    if restored.resumed:
        return restored.lineage.behind(restored.tokens, prompt)
    if restored.tokens > restored.pure_end:
        return restored.lineage
    return Lineage(pure_end=prompt)
