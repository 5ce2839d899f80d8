"""The sampling parameters of a request."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from erllama.checked import Checked
from erllama.errors import RequestError
from erllama.sampling.schema_text import MAX_SCHEMA_CHARACTERS, schema_text

MAX_SEED = 2**63 - 1
MAX_BIASES = 10_000
MAX_BREAKERS = 64
MAX_BREAKER_BYTES = 40
MAX_GRAMMAR_CHARACTERS = 200_000
MAX_REGEX_CHARACTERS = 10_000
JSON_WHITESPACE = 8
STRUCTURES = ("grammar", "json_schema", "regex")
_LONGEST = 2**31 - 1

_Window = Annotated[int, Meta(ge=-1, le=_LONGEST)]


class SamplingParams(Checked, frozen=True, kw_only=True):
    """How each token is drawn.

    The stages apply in the order logit_bias, grammar, repeat / frequency / presence penalties,
    DRY, top_k, typical_p, top_p, min_p, XTC, temperature; then one token is drawn. Mirostat takes
    the place of all from top_k on but the temperature. The random number of a draw depends on
    `seed` and the token's position only, so the same seed gives the same text however the request
    was scheduled.
    """

    error: ClassVar[type[Exception]] = RequestError

    temperature: Annotated[
        float, Meta(ge=0, le=100, description="Spread of the draw; 0 takes the likeliest token.")
    ] = 0.8
    top_k: Annotated[
        int, Meta(ge=0, le=_LONGEST, description="Keep the k likeliest tokens; 0: all.")
    ] = 40
    top_p: Annotated[
        float,
        Meta(gt=0, le=1, description="Keep the likeliest tokens whose probabilities reach p."),
    ] = 0.95
    min_p: Annotated[
        float,
        Meta(ge=0, le=1, description="Drop tokens below this share of the likeliest one's."),
    ] = 0.05
    typical_p: Annotated[
        float,
        Meta(
            gt=0,
            le=1,
            description="Keep the tokens of nearly the expected surprise whose probabilities "
            "exceed p; 1: all.",
        ),
    ] = 1.0
    repeat_penalty: Annotated[
        float,
        Meta(
            gt=0,
            le=100,
            description="Divides the logits of tokens seen in the last repeat_last_n; 1: none.",
        ),
    ] = 1.0
    repeat_last_n: Annotated[
        _Window,
        Meta(description="Tokens of the context that the penalties look at; -1: all, 0: none."),
    ] = 64
    frequency_penalty: Annotated[
        float,
        Meta(
            ge=-100,
            le=100,
            description="Taken off a token's logit for each time it was seen in repeat_last_n.",
        ),
    ] = 0.0
    presence_penalty: Annotated[
        float,
        Meta(
            ge=-100,
            le=100,
            description="Taken off a token's logit if it was seen in repeat_last_n.",
        ),
    ] = 0.0
    dry_multiplier: Annotated[
        float,
        Meta(
            ge=0,
            le=100,
            description="Strength of DRY, which keeps sequences from being repeated; 0: off.",
        ),
    ] = 0.0
    dry_base: Annotated[
        float,
        Meta(ge=1, le=100, description="How DRY's penalty grows with each token of a repetition."),
    ] = 1.75
    dry_allowed_length: Annotated[
        int, Meta(ge=1, le=_LONGEST, description="Repeated tokens that DRY does not mind.")
    ] = 2
    dry_penalty_last_n: Annotated[
        _Window,
        Meta(description="Tokens of the context that DRY looks at; -1: all, 0: none."),
    ] = -1
    dry_sequence_breakers: Annotated[
        tuple[Annotated[str, Meta(min_length=1)], ...],
        Meta(description="Texts over which DRY sees no repetition.", max_length=MAX_BREAKERS),
    ] = ("\n", ":", '"', "*")
    xtc_probability: Annotated[
        float,
        Meta(ge=0, le=1, description="How often XTC drops the likeliest tokens; 0: never."),
    ] = 0.0
    xtc_threshold: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="XTC drops all tokens of at least this probability but the last of them; "
            "above 0.5 it does nothing.",
        ),
    ] = 0.1
    mirostat: Annotated[
        Literal[0, 1, 2],
        Meta(description="Mirostat, by version, instead of the filters; 0: off."),
    ] = 0
    mirostat_tau: Annotated[
        float, Meta(gt=0, le=100, description="The surprise that mirostat aims at, in bits.")
    ] = 5.0
    mirostat_eta: Annotated[
        float, Meta(ge=0, le=10, description="How fast mirostat learns, per token.")
    ] = 0.1
    logit_bias: Annotated[
        dict[int, float],
        Meta(description="Added to logits, by token id; -inf bans a token."),
    ] = msgspec.field(default_factory=dict)
    ignore_eos: Annotated[
        bool, Meta(description="Whether tokens that end a generation are banned.")
    ] = False
    logprobs: Annotated[
        Annotated[int, Meta(ge=0, le=100)] | None,
        Meta(
            description="Report the log probability of each token and of this many likeliest ones, "
            "before any stage; None: none."
        ),
    ] = None
    grammar: Annotated[
        Annotated[str, Meta(min_length=1, max_length=MAX_GRAMMAR_CHARACTERS)] | None,
        Meta(description="A GBNF grammar whose `root` the text must match."),
    ] = None
    json_schema: Annotated[
        Annotated[str, Meta(min_length=1, max_length=MAX_SCHEMA_CHARACTERS)]
        | dict[str, Any]
        | None,
        Meta(description="A JSON schema, or its text, that the text as JSON must be valid for."),
    ] = None
    json_whitespace: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000,
            description="With json_schema, most characters of white space between two tokens of "
            "JSON; 0: none.",
        ),
    ] = JSON_WHITESPACE
    regex: Annotated[
        Annotated[str, Meta(min_length=1, max_length=MAX_REGEX_CHARACTERS)] | None,
        Meta(description="A regular expression that the whole text must match."),
    ] = None
    seed: Annotated[
        Annotated[int, Meta(ge=0, le=MAX_SEED)] | None,
        Meta(description="Seed of all draws; None: a fresh one per request."),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_bias(self.logit_bias)
        for breaker in self.dry_sequence_breakers:
            _check_text("dry_sequence_breakers", breaker)
            if len(breaker.encode()) > MAX_BREAKER_BYTES:
                raise RequestError(
                    f"dry_sequence_breakers: {breaker[:20]!r}… has more than {MAX_BREAKER_BYTES} "
                    "bytes; shorten it"
                )
        for field in STRUCTURES:
            if isinstance(getattr(self, field), str):
                _check_text(field, getattr(self, field))
        if isinstance(self.json_schema, dict):
            msgspec.structs.force_setattr(self, "json_schema", schema_text(self.json_schema))
        given = [field for field in STRUCTURES if getattr(self, field) is not None]
        if len(given) > 1:
            raise RequestError(f"{' and '.join(given)}: each rules the whole text; give only one")

    @property
    def structure(self) -> str | None:
        """The name of the field that rules the text: grammar, json_schema or regex."""
        return next((field for field in STRUCTURES if getattr(self, field) is not None), None)


def _check_bias(bias: Mapping[int, float]) -> None:
    if len(bias) > MAX_BIASES:
        raise RequestError(f"logit_bias: has {len(bias):,} tokens; give at most {MAX_BIASES:,}")
    for token, value in bias.items():
        if not 0 <= token <= _LONGEST:
            raise RequestError(f"logit_bias: {token} is no token id; ids begin at 0")
        if value != -math.inf and not abs(value) <= 1e4:
            raise RequestError(
                f"logit_bias: {value} for token {token}; give -10,000 to 10,000, or -inf for a ban"
            )


def _check_text(field: str, text: Any) -> None:
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        raise RequestError(f"{field}: has half of a surrogate pair; remove it")
