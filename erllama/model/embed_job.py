"""What is to be embedded, and what of it is computed together. Pure."""

from __future__ import annotations

import array
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from erllama.actor import ReplyTo
from erllama.backend.base import AdapterUse, Buffer, EmbedCapabilities
from erllama.errors import PromptTooLong, RequestError
from erllama.model.request import Prompt, check_prompt, check_tokens
from erllama.model.slicing import slice_rows

MAX_INPUTS = 10_000
"""Most inputs of one call of `embed`."""

Vector = list[float]


@dataclass(slots=True, eq=False)
class EmbedJob:
    """Inputs that somebody wants the vectors of.

    Attributes:
        normalize: whether vectors get length 1; scores of a classifier never do.
        adapters: in force for it.
        tokens: of each input, once all are tokenized.
        vectors: of the inputs so far.
        position: tokens of the next input that are computed already.
        reply: whom to answer.
    """

    prompts: list[Prompt]
    normalize: bool
    adapters: tuple[AdapterUse, ...] = ()
    tokens: list[array.array[int]] | None = None
    vectors: list[Vector] = field(default_factory=list)
    position: int = 0
    reply: ReplyTo | None = None

    @property
    def size(self) -> int:
        """Characters and token ids of all inputs."""
        return sum(map(len, self.prompts))

    @property
    def left(self) -> list[array.array[int]]:
        """The inputs that have no vector yet, as far as they are tokenized."""
        return [] if self.tokens is None else self.tokens[len(self.vectors) :]


class Share(NamedTuple):
    """Tokens of one job's input, for one call."""

    job: EmbedJob
    tokens: array.array[int]


class Portion(NamedTuple):
    """What is computed in one call: inputs, or a part of one."""

    shares: list[Share]
    pos: int = 0
    more: bool = False


def check_inputs(
    prompt: str | Sequence[int] | Sequence[str | Sequence[int]],
) -> tuple[list[Prompt], bool]:
    """One prompt or several, and whether it is several.

    Raises:
        RequestError: no prompts, or too many, or one that cannot be used.
    """
    if not _is_many(prompt):
        return [check_prompt(prompt)], False  # type: ignore[arg-type]
    if len(prompt) > MAX_INPUTS:
        raise RequestError(
            f"prompt: {len(prompt):,} inputs; give at most {MAX_INPUTS:,} in one call"
        )
    return [_check_one(i, one) for i, one in enumerate(prompt)], True


def _is_many(prompt: object) -> bool:
    if isinstance(prompt, str) or not isinstance(prompt, list | tuple) or not prompt:
        return False
    return not isinstance(prompt[0], int)


def _check_one(i: int, prompt: object) -> Prompt:
    try:
        return check_prompt(prompt)  # type: ignore[arg-type]
    except RequestError as wrong:
        raise RequestError(f"prompt[{i}]{str(wrong).removeprefix('prompt')}") from None


def check_embeddable(tokens: Sequence[array.array[int]], *, n_vocab: int, n_input: int) -> None:
    """Refuse inputs that the model cannot take.

    Raises:
        RequestError: one of no tokens, or an id outside the vocabulary.
        PromptTooLong: one of more tokens than can be embedded.
    """
    for i, one in enumerate(tokens):
        if len(one) > n_input:
            name = "prompt" if len(tokens) == 1 else f"prompt[{i}]"
            raise PromptTooLong(
                f"{name}: has {len(one):,} tokens, at most {n_input:,} can be embedded; "
                "shorten it, or load the model with a larger n_ctx and n_ubatch"
            )
        check_tokens(one, n_vocab=n_vocab, n_ctx=n_input)


def pack(jobs: Sequence[EmbedJob], can: EmbedCapabilities, limit: int, granule: int) -> Portion:
    """What of `jobs` is computed next: of each in turn one input, while they fit a call.

    Those of the first one's adapters only: a call has the same ones for all of it.

    An input that was begun comes first, as another one would have it forgotten. One that exceeds
    `limit` is cut if that can be, and goes alone. Where no vector may depend on the company, the
    cuts are those of the exact-slicing rule.

    Args:
        jobs: with inputs left; at least one.
        limit: most rows, at least a granule; a first input that cannot be cut may exceed it.
        granule: rows of the finest cut.
    """
    begun = next((job for job in jobs if job.position), None)
    first = begun or jobs[0]
    size = len(first.left[0])
    if not can.whole and (begun or can.n_inputs == 1 or size > limit):
        return _part(first, size, limit, granule)
    alike = [job for job in jobs if job.adapters == first.adapters]
    return Portion(_together(alike, can.n_inputs, limit))


def _part(job: EmbedJob, size: int, limit: int, granule: int) -> Portion:
    start = job.position
    stop = start + slice_rows(start, size, limit, granule)
    return Portion([Share(job, job.left[0][start:stop])], pos=start, more=stop < size)


def _together(jobs: Sequence[EmbedJob], n_inputs: int, limit: int) -> list[Share]:
    turns = deque((job, job.left, 0) for job in jobs)
    shares: list[Share] = []
    rows = 0
    while turns and len(shares) < n_inputs:
        job, left, i = turns.popleft()
        rows += len(left[i])
        if shares and rows > limit:
            break
        shares.append(Share(job, left[i]))
        if i + 1 < len(left):
            turns.append((job, left, i + 1))
    return shares


def vector_of(buffer: Buffer, *, normalize: bool) -> Vector | None:
    """The numbers of a vector, of length 1 if `normalize`; None where they are not finite.

    A vector of zeros has no direction and stays as it is.
    """
    values = array.array("f")
    values.frombytes(memoryview(buffer).cast("B"))  # type: ignore[arg-type]  # numpy has it
    length = math.hypot(*values)
    if not math.isfinite(length):
        return None
    if not normalize or length == 0.0:
        return values.tolist()
    return [value / length for value in values]
