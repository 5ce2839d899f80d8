"""What a model actor is sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from erllama.backend.base import StepOutcome
from erllama.model.job import Job


@dataclass(frozen=True, slots=True)
class Submit:
    """Call: carry out a request; answered with its `Completion` when it is over."""

    job: Job


@dataclass(frozen=True, slots=True)
class Cancel:
    """Urgent: end a request now, with what it has."""

    job: Job


@dataclass(frozen=True, slots=True)
class Expire:
    """Urgent: the time of a request is over."""

    job: Job


@dataclass(frozen=True, slots=True)
class StepDone:
    """Urgent: the lane is through with a step."""

    outcome: StepOutcome | None
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class AwaitReady:
    """Call: answered with the `ModelInfo` once the model is loaded."""


@dataclass(frozen=True, slots=True)
class Tokenize:
    """Call: answered with token ids."""

    text: str
    add_special: bool
    parse_special: bool


@dataclass(frozen=True, slots=True)
class Detokenize:
    """Call: answered with text."""

    tokens: Sequence[int]


@dataclass(frozen=True, slots=True)
class Tokenized:
    """Tag of the background task that tokenizes a prompt."""

    job: Job
