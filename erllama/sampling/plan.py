"""The plan of a sampler chain: which stages, in which order.

A plan is plain data, so that it can travel to an engine in another process. The engine builds
the chain; the seed of each draw comes with the step that draws.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from erllama.errors import RequestError
from erllama.sampling.params import JSON_WHITESPACE, SamplingParams

COLDEST = 1e-30
"""Below this temperature the logits overflow; a draw there would be greedy anyway."""


GrammarKind = Literal["grammar", "json_schema", "regex"]


class LogitBias(msgspec.Struct, frozen=True, tag=True):
    """Add to the logits of some tokens; tokens in `banned` are never drawn."""

    tokens: tuple[int, ...]
    values: tuple[float, ...]
    banned: tuple[int, ...] = ()


class IgnoreEnd(msgspec.Struct, frozen=True, tag=True):
    """Never draw a token that ends a generation."""


class Grammar(msgspec.Struct, frozen=True, tag=True):
    """Draw only what continues a text that `text` rules.

    It is a GBNF grammar, matched from its rule `root`, a JSON schema or a regular expression.
    `whitespace`: of a JSON schema, how many characters of it may stand between two tokens.
    """

    text: str
    kind: GrammarKind = "grammar"
    whitespace: int = JSON_WHITESPACE


class Penalties(msgspec.Struct, frozen=True, tag=True):
    """Make tokens of the last `last_n` of the context less likely (-1: of all).

    Logits are divided by `repeat` (multiplied, if negative; Keskar et al. 2019), then lowered by
    `frequency` for each time the token was seen, and by `presence`.
    """

    last_n: int
    repeat: float
    frequency: float
    presence: float


class Dry(msgspec.Struct, frozen=True, tag=True):
    """Make tokens less likely that would extend a repetition (p-e-w, "Don't Repeat Yourself").

    A token that would make a repetition of n + 1 tokens loses multiplier * base ** (n -
    allowed_length). `breakers` are texts over which nothing repeats.
    """

    multiplier: float
    base: float
    allowed_length: int
    last_n: int
    breakers: tuple[str, ...]


class TopK(msgspec.Struct, frozen=True, tag=True):
    """Keep the `k` likeliest tokens."""

    k: int


class Typical(msgspec.Struct, frozen=True, tag=True):
    """Keep the tokens whose surprise is nearest the expected one (Meister et al. 2022)."""

    p: float


class TopP(msgspec.Struct, frozen=True, tag=True):
    """Keep the smallest set of tokens whose probabilities sum to `p` (Holtzman et al. 2020)."""

    p: float


class MinP(msgspec.Struct, frozen=True, tag=True):
    """Drop tokens less probable than `p` times the likeliest one (Nguyen et al. 2024)."""

    p: float


class Xtc(msgspec.Struct, frozen=True, tag=True):
    """With `probability`, drop all tokens of at least `threshold` but the least likely of them."""

    probability: float
    threshold: float


class Temperature(msgspec.Struct, frozen=True, tag=True):
    """Divide the logits by `t` (> 0)."""

    t: float


class Mirostat(msgspec.Struct, frozen=True, tag=True):
    """Draw so that the surprise stays near `tau` bits (Basu et al. 2020); ends a chain."""

    version: Literal[1, 2]
    tau: float
    eta: float


class Greedy(msgspec.Struct, frozen=True, tag=True):
    """Take the likeliest token; ends a chain and needs no draw."""


Stage = (
    LogitBias
    | IgnoreEnd
    | Grammar
    | Penalties
    | Dry
    | TopK
    | Typical
    | TopP
    | MinP
    | Xtc
    | Temperature
    | Mirostat
    | Greedy
)


class SamplerPlan(msgspec.Struct, frozen=True):
    """The stages of a chain, first to last.

    One that ends in neither `Greedy` nor `Mirostat` ends in a draw. `logprobs`: how many of the
    likeliest tokens to report with each drawn one; None: no log probabilities at all.
    """

    stages: tuple[Stage, ...]
    logprobs: int | None = None

    @property
    def draws(self) -> bool:
        """Whether choosing a token takes a random number."""
        return not (self.stages and isinstance(self.stages[-1], Greedy))

    @property
    def needs_history(self) -> bool:
        """Whether choosing a token takes the tokens before it: `Begin.history`."""
        return any(isinstance(stage, Grammar | Penalties | Dry) for stage in self.stages)

    @property
    def needs_preparing(self) -> bool:
        """Whether `Engine.prepare` has something to check or to do."""
        asking = LogitBias | IgnoreEnd | Grammar | Dry
        return any(isinstance(stage, asking) for stage in self.stages)

    @property
    def grammar(self) -> Grammar | None:
        """What rules the text."""
        return next((stage for stage in self.stages if isinstance(stage, Grammar)), None)


def check_biases(plan: SamplerPlan, n_vocab: int) -> None:
    """Refuse a bias for a token that there is not.

    Raises:
        RequestError: names it.
    """
    for stage in plan.stages:
        if isinstance(stage, LogitBias):
            last = max((*stage.tokens, *stage.banned), default=0)
            if last >= n_vocab:
                raise RequestError(
                    f"logit_bias: token id {last} is not in the vocabulary; ids go from 0 to "
                    f"{n_vocab - 1}"
                )


def plan_sampler(params: SamplingParams) -> SamplerPlan:
    """The chain for `params`; stages that would change nothing are left out."""
    stages = [*_edits(params), *_repetition(params)]
    if params.temperature < COLDEST:
        stages.append(Greedy())
    else:
        stages += _tail(params)
    return SamplerPlan(tuple(stages), params.logprobs)


def _edits(params: SamplingParams) -> list[Stage]:
    stages: list[Stage] = []
    if params.logit_bias:
        kept = {token: bias for token, bias in params.logit_bias.items() if bias > float("-inf")}
        banned = tuple(token for token in params.logit_bias if token not in kept)
        stages.append(LogitBias(tuple(kept), tuple(kept.values()), banned))
    if params.ignore_eos:
        stages.append(IgnoreEnd())
    if params.grammar is not None:
        stages.append(Grammar(params.grammar))
    if isinstance(params.json_schema, str):  # always, if it is given: the parameters see to it
        stages.append(Grammar(params.json_schema, "json_schema", params.json_whitespace))
    if params.regex is not None:
        stages.append(Grammar(params.regex, "regex"))
    return stages


def _repetition(params: SamplingParams) -> list[Stage]:
    stages: list[Stage] = []
    amounts = (params.repeat_penalty, params.frequency_penalty, params.presence_penalty)
    if params.repeat_last_n and amounts != (1, 0, 0):
        stages.append(Penalties(params.repeat_last_n, *amounts))
    if params.dry_multiplier > 0 and params.dry_penalty_last_n:
        stages.append(
            Dry(
                params.dry_multiplier,
                params.dry_base,
                params.dry_allowed_length,
                params.dry_penalty_last_n,
                params.dry_sequence_breakers,
            )
        )
    return stages


def _tail(params: SamplingParams) -> list[Stage]:
    warmth: list[Stage] = []
    if params.temperature != 1:
        warmth.append(Temperature(params.temperature))
    if params.mirostat:
        return [*warmth, Mirostat(params.mirostat, params.mirostat_tau, params.mirostat_eta)]
    stages: list[Stage] = []
    if params.top_k > 0:
        stages.append(TopK(params.top_k))
    if params.typical_p < 1:
        stages.append(Typical(params.typical_p))
    if params.top_p < 1:
        stages.append(TopP(params.top_p))
    if params.min_p > 0:
        stages.append(MinP(params.min_p))
    if params.xtc_probability > 0 and params.xtc_threshold <= 0.5:
        stages.append(Xtc(params.xtc_probability, params.xtc_threshold))
    return [*stages, *warmth]
