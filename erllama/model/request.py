"""What a caller asks for."""

from __future__ import annotations

import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import msgspec
from msgspec import Meta

from erllama.checked import Checked, unknown_keyword
from erllama.errors import PromptTooLong, RequestError
from erllama.model.resume import KEY_PATTERN
from erllama.sampling import SamplingParams

MAX_STOPS = 64
MAX_STOP_CHARACTERS = 1_000


Priority = Literal["low", "normal", "high"]


class Request(Checked, frozen=True, kw_only=True):
    """The options of one request, beside its prompt."""

    error: ClassVar[type[Exception]] = RequestError

    max_tokens: Annotated[
        Annotated[int, Meta(ge=1, le=2**31 - 1)] | None,
        Meta(description="Most tokens to generate; None: until the model ends or n_ctx is full."),
    ] = None
    timeout: Annotated[
        Annotated[float, Meta(gt=0, le=31_536_000)] | None,
        Meta(description="Seconds from the call to the end, waiting included; then CallTimeout."),
    ] = None
    prefill_progress: Annotated[
        bool, Meta(description="Whether a stream has PrefillProgress events.")
    ] = False
    parent_key: Annotated[
        Annotated[str, Meta(pattern=KEY_PATTERN)] | None,
        Meta(description="A finish_key: resume exactly there, if the prompt begins with it."),
    ] = None
    cache_salt: Annotated[
        Annotated[str, Meta(max_length=1_024)],
        Meta(description="Requests share rows of the cache only with those of the same salt."),
    ] = ""
    exact: Annotated[
        bool,
        Meta(description="Begin with rows that a cold run would make only, also behind a reply."),
    ] = False
    session_id: Annotated[
        Annotated[str, Meta(min_length=1, max_length=256)] | None,
        Meta(description="The next request of the same session finds this one's state in place."),
    ] = None
    priority: Annotated[
        Priority,
        Meta(
            description="Class of the request: higher ones get more of the time, and may interrupt."
        ),
    ] = "normal"
    stop: Annotated[
        str | tuple[str, ...],
        Meta(
            description="Texts that end the generation and are not shown; the first met wins. They "
            "may contain control tokens."
        ),
    ] = ()
    stop_token_ids: Annotated[
        Annotated[tuple[Annotated[int, Meta(ge=0, le=2**31 - 1)], ...], Meta(max_length=MAX_STOPS)],
        Meta(description="Tokens that end the generation and are not shown, wherever they come."),
    ] = ()
    stream_buffer: Annotated[
        int,
        Meta(
            ge=1,
            le=65_536,
            description="Unread tokens at which a stream pauses its request until half are read.",
        ),
    ] = 256
    thinking: Annotated[
        bool | None,
        Meta(
            description="In a chat, whether its template asks the model to think (None: as the "
            "template does by itself); elsewhere True has thinking and tool calls recognised."
        ),
    ] = None
    thinking_budget_tokens: Annotated[
        Annotated[int, Meta(ge=0, le=2**31 - 1)] | None,
        Meta(
            description="Most tokens of thinking, after which its end marker is forced; "
            "None: no limit."
        ),
    ] = None
    sampling: SamplingParams = msgspec.field(default_factory=SamplingParams)

    def __post_init__(self) -> None:
        super().__post_init__()
        stops = (self.stop,) if isinstance(self.stop, str) else self.stop
        _check_stops(stops)
        _check_unicode("cache_salt", self.cache_salt)
        _check_unicode("session_id", self.session_id or "")
        msgspec.structs.force_setattr(self, "stop", stops)
        ruling = self.sampling.structure
        if self.thinking_budget_tokens is not None and ruling is not None:
            raise RequestError(
                f"thinking_budget_tokens: {ruling} rules every token, so none can be forced; give "
                "either"
            )


def make_request(options: Mapping[str, Any]) -> Request:
    """A `Request` from keyword arguments: its own fields and those of `SamplingParams`.

    Raises:
        TypeError: an unknown keyword; names the nearest known one.
        RequestError: a value out of range, or both `sampling` and one of its fields.
    """
    own = {name: value for name, value in options.items() if name in Request.__struct_fields__}
    rest = {name: value for name, value in options.items() if name not in own}
    for name in rest:
        if name not in SamplingParams.__struct_fields__:
            known = (*Request.__struct_fields__, *SamplingParams.__struct_fields__)
            raise TypeError(unknown_keyword("a request", name, known))
    if "sampling" in own:
        _check_sampling(own["sampling"])
    if not rest:
        return Request(**own)
    if "sampling" in own:
        raise RequestError(
            f"sampling: it has the same options as {', '.join(map(repr, rest))}; give either"
        )
    return Request(**own, sampling=SamplingParams(**rest))


def _check_stops(stops: tuple[str, ...]) -> None:
    if len(stops) > MAX_STOPS:
        raise RequestError(f"stop: has {len(stops):,} texts; give at most {MAX_STOPS}")
    for stop in stops:
        if not 1 <= len(stop) <= MAX_STOP_CHARACTERS:
            raise RequestError(
                f"stop: a text of {len(stop):,} characters; give 1 to {MAX_STOP_CHARACTERS:,}, or "
                "leave it out"
            )
        _check_unicode("stop", stop)


def _check_unicode(name: str, text: str) -> None:
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        raise RequestError(f"{name}: {text[:20]!r} has half of a surrogate pair; remove it")


def _check_sampling(sampling: object) -> None:
    # msgspec would take a mapping for the struct, and leave it one
    if not isinstance(sampling, SamplingParams):
        raise RequestError(
            f"sampling: expected SamplingParams(...), got {type(sampling).__name__}; or give its "
            "options as keywords of their own"
        )


Prompt: TypeAlias = "str | array.array[int]"


def check_prompt(prompt: str | Sequence[int]) -> Prompt:
    """The prompt as text or as one flat array of ids.

    Raises:
        RequestError: empty, or neither text nor token ids.
    """
    if isinstance(prompt, str):
        if not prompt:
            raise RequestError("prompt: is empty; give at least one character")
        return str.__str__(prompt)  # of a subclass too what it is, not what it says
    tokens = check_ids(prompt, name="prompt", kind="text or a sequence of token ids")
    if not tokens:
        raise RequestError("prompt: is empty; give at least one token")
    return tokens


def check_ids(
    tokens: Iterable[int], *, name: str, kind: str = "a sequence of token ids"
) -> array.array[int]:
    """Token ids as one flat array.

    Raises:
        RequestError: not a sequence of integers of 32 bits; calls it `name`.
    """
    # text has no ids, and bytes would be taken for the array's own memory
    if isinstance(tokens, str | bytes | bytearray | memoryview) or not isinstance(tokens, Iterable):
        raise RequestError(f"{name}: expected {kind}, got {type(tokens).__name__}")
    try:
        return array.array("i", tokens)
    except (TypeError, OverflowError) as wrong:
        raise RequestError(f"{name}: expected token ids, but {wrong}") from None


def check_text(text: object, *, name: str = "text") -> str:
    """The text, of Python's own class; what is none is refused.

    Raises:
        RequestError: as the words say.
    """
    if not isinstance(text, str):
        raise RequestError(f"{name}: expected a str, got {type(text).__name__}")
    return str.__str__(text)


def check_timeout(timeout: object) -> None:
    """Refuse what is no number of seconds.

    Raises:
        RequestError: as `Request.timeout`.
    """
    Request(timeout=timeout)  # type: ignore[arg-type]


def check_fits(n_tokens: int, n_ctx: int) -> None:
    """Refuse a prompt of too many tokens.

    Raises:
        PromptTooLong: says how many.
    """
    if n_tokens > n_ctx:
        raise PromptTooLong(
            f"prompt: has {n_tokens:,} tokens, the context holds {n_ctx:,}; shorten it, or load "
            "the model with a larger n_ctx"
        )


def check_stop_tokens(tokens: Sequence[int], n_vocab: int) -> None:
    """Refuse a token that can never be drawn.

    Raises:
        RequestError: an id outside the vocabulary.
    """
    bad = next((token for token in tokens if token >= n_vocab), None)
    if bad is not None:
        raise RequestError(
            f"stop_token_ids: token id {bad} is not in the vocabulary; ids go from 0 to "
            f"{n_vocab - 1}"
        )


def check_tokens(tokens: array.array[int], *, n_vocab: int, n_ctx: int) -> None:
    """Refuse a prompt that the model cannot take.

    Raises:
        RequestError: no tokens, or an id outside the vocabulary.
        PromptTooLong: more tokens than the context holds.
    """
    if not tokens:
        raise RequestError("prompt: has no tokens in this vocabulary")
    check_fits(len(tokens), n_ctx)
    if min(tokens) < 0 or max(tokens) >= n_vocab:
        bad = next(t for t in tokens if not 0 <= t < n_vocab)
        raise RequestError(
            f"prompt: token id {bad} is not in the vocabulary; ids go from 0 to {n_vocab - 1}"
        )
