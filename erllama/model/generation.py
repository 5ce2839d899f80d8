"""One request while it is computed. Pure: time is an argument, events are the result.

A generation lives on one sequence. `plan` says what to compute next, `apply` takes in what came
out of it. Between the two it changes nothing.
"""

from __future__ import annotations

import array

from erllama.backend.base import Begin, Draw, Prefill, Row, Sampled, StepOutcome, StepPlan
from erllama.model.request import Request
from erllama.model.slicing import slice_rows
from erllama.sampling import draw_seed, plan_sampler
from erllama.text import Utf8Decoder
from erllama.types import (
    Completion,
    Event,
    FinishReason,
    PrefillProgress,
    Text,
    Timings,
    Usage,
)


class Generation:
    """The state of one request on one sequence.

    Attributes:
        prompt: its token ids.
        tokens: the sampled ones.
        position: how many tokens the sequence's cells hold.
        admitted: when its turn came.
        finished: why it ended, once it has.
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
        now: float,
    ) -> None:
        self.prompt = prompt
        self.tokens: list[int] = []
        self.position = 0
        self.finished: FinishReason | None = None
        self._request = request
        self._sampler = plan_sampler(request.sampling)
        self._seed = seed
        self._seq = seq
        # the last token needs no cell of its own: it is sampled and never computed
        self._budget = min(request.max_tokens or n_ctx, n_ctx - len(prompt) + 1)
        self._asked = asked
        self.admitted = now
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
    def decode_rate(self) -> float:
        """Tokens per second after the first; 0 before the second."""
        if self._first_token is None or self._last_token <= self._first_token:
            return 0.0
        return (len(self.tokens) - 1) / (self._last_token - self._first_token)

    def plan(self, number: int, *, slice_limit: int, granule: int) -> StepPlan:
        """The next step: a slice of the prompt, or the row of the latest token."""
        begin = () if self._begun else (Begin(self._seq, self._sampler),)
        if not self.prefilling:
            row = Row(self._seq, self.position, self.tokens[-1])
            return StepPlan(number=number, rows=(row,), draws=(self._draw(self.position + 1),))
        end = len(self.prompt)
        rows = slice_rows(self.position, end, slice_limit, granule)
        stop = self.position + rows
        prefill = Prefill(
            self._seq, self.position, self.prompt[self.position : stop], logits=stop == end
        )
        draws = (self._draw(end),) if stop == end else ()
        return StepPlan(number=number, begin=begin, prefill=prefill, draws=draws)

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
            seed=self._seed,
            usage=Usage(prompt_tokens=len(self.prompt), completion_tokens=len(self.tokens)),
            timings=Timings(
                queue_ms=(self.admitted - self._asked) * 1e3,
                prefill_ms=(first - self.admitted) * 1e3,
                decode_ms=(now - first) * 1e3,
                ttft_ms=(first - self._asked) * 1e3 if self._first_token is not None else 0.0,
                total_ms=(now - self._asked) * 1e3,
            ),
        )

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
