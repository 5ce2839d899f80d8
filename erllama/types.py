"""Results, events and snapshots: what erllama hands out. All frozen."""

from __future__ import annotations

from typing import Literal

import msgspec

from erllama.config import Pooling

FinishReason = Literal["stop", "length", "cancelled"]
Phase = Literal["loading", "idle", "running", "stuck", "failed", "stopping"]


class CacheUse(msgspec.Struct, frozen=True, kw_only=True):
    """What the KV cache did for a request.

    Attributes:
        hit: `exact`: the whole prompt with its logits, nothing was computed; `sticky`: the state
            that the session's last request left in place; `partial`; `cold`.
        read: tokens of the prompt that were restored.
        created: tokens whose rows were new.
        pure: the answer equals that of a cold run bit for bit, as far as the engine promises it.
        tier: where the rows came from: the slowest of `ram`, `ram_file`, `disk`; `live`: they
            were in place; None: nowhere.
    """

    hit: Literal["exact", "partial", "cold", "sticky"]
    read: int
    created: int
    pure: bool
    tier: Literal["ram", "ram_file", "disk", "live"] | None


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of a request; `cached_tokens` of the prompt were restored, not computed."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the time of a request went, in milliseconds.

    `ttft_ms` runs from the call to the first sampled token; 0 if none was sampled.
    """

    queue_ms: float = 0.0
    restore_ms: float = 0.0
    prefill_ms: float = 0.0
    decode_ms: float = 0.0
    ttft_ms: float = 0.0
    total_ms: float = 0.0


class TokenLogprobs(msgspec.Struct, frozen=True):
    """How likely a token was, by the model alone: before temperature, penalties and filters.

    `logprob` is the natural logarithm of its probability; `top` has the likeliest ids with
    theirs, in falling order.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a request.

    `tokens` are the sampled ones, an end-of-generation token included; `context_tokens` is the
    prompt plus `tokens`. `seed` is the one that was used, so that a run can be repeated.
    `finish_key` as `parent_key` with `context_tokens`, and anything behind it, as the prompt
    resumes exactly here; None if there is nothing to resume: no row was saved, and mirostat and
    grammars, whose state goes with it, were not used. `stop_sequence` is the one that ended the
    text, which does not show it; `tokens` has its tokens. `stop_token_id` is the one of
    `stop_token_ids` that ended it, the last of `tokens`; the text does not show it either.

    `text` is what lies outside of thinking and of tool calls, in requests where these are
    recognised. `thinking` is what lies between the thinking markers, also if it was cut off; None
    if there was none. `tool_calls` has the text of each call that was ended, as it stands between
    its markers, white space included.

    `warnings` has a line for each part of the `json_schema` that may have been meant to limit the
    text and limits nothing: unknown keywords, and formats that are not followed, each with its JSON
    pointer.
    """

    text: str
    tokens: list[int]
    finish_reason: FinishReason
    context_tokens: list[int]
    finish_key: str | None
    cache: CacheUse
    seed: int
    usage: Usage
    timings: Timings
    stop_sequence: str | None = None
    stop_token_id: int | None = None
    logprobs: list[TokenLogprobs] | None = None
    thinking: str | None = None
    tool_calls: list[str] = []
    warnings: list[str] = []


class Prefill(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt that was computed and saved, with nothing generated."""

    finish_key: str | None
    context_tokens: list[int]
    cache: CacheUse
    timings: Timings


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """How far the model's greedy choice agrees with some candidates.

    Attributes:
        accepted: candidates, from the first on, that it would have chosen itself.
        next_token: what it chooses behind those.
    """

    accepted: int
    next_token: int


class Text(msgspec.Struct, frozen=True, tag=True):
    """Whole characters, and the token that completed them.

    A reader that lags far behind gets the text of several tokens at once, and the last token.
    `logprob` is the natural logarithm of the token's probability, if the request asked for it.
    """

    text: str
    token: int
    logprob: float | None = None


class ThinkingDelta(msgspec.Struct, frozen=True, tag=True):
    """Whole characters of what the model thinks, without the markers around it."""

    text: str


class ThinkingEnd(msgspec.Struct, frozen=True, tag=True):
    """The model has ended thinking.

    `signature` is the HMAC-SHA256, in hex, of the texts of the `ThinkingDelta`s since it began, in
    UTF-8, under `RuntimeConfig.signing_key`; None without a key.
    """

    signature: str | None


class ToolCallDelta(msgspec.Struct, frozen=True, tag=True):
    """Whole characters of a call of a tool, without the markers around it."""

    text: str


class ToolCallEnd(msgspec.Struct, frozen=True, tag=True):
    """A call of a tool is complete: its text between the markers, exactly as it was sampled."""

    text: str


class PrefillProgress(msgspec.Struct, frozen=True, tag=True):
    """`done` of `total` prompt tokens are computed."""

    done: int
    total: int


class Done(msgspec.Struct, frozen=True, tag=True):
    """The last event of a stream."""

    completion: Completion


Event = Text | ThinkingDelta | ThinkingEnd | ToolCallDelta | ToolCallEnd | PrefillProgress | Done


class Adapter(msgspec.Struct, frozen=True, kw_only=True):
    """A LoRA adapter that is loaded.

    Attributes:
        id: unique among those of its model.
        path: its file.
        sha256: of that file, in hex.
        scale: how strongly it is in force for new requests; 0: not at all.
    """

    id: int
    path: str
    sha256: str
    scale: float


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A model and the context it runs in. Sizes in bytes, lengths in tokens.

    `cached_as` says how its state is kept in the KV cache: `rows`, cut at any token;
    `rows+snapshots` and `snapshots`, which are taken at some places only; `none`, not at all.
    `n_seq_allocated` sequences of `n_ctx_allocated` cells take `kv_bytes` of memory (None: not
    known for this model); with a unified KV cache the cells are those of all sequences.
    `pooling`: how `embed` makes one vector of an input; None where `can_embed` is False.
    `chat_template` is the one that chats are written with (None: none), `chat_templates` has others
    by the names that the file gives them; of these, `tool_use` is for chats with tools.
    `thinking_markers` and `tool_call_markers` are those in force (see `ModelConfig`); empty: none;
    an empty end is that of the reply.
    `backend`: the build of llama.cpp and the release of llama-cpp-python; `backend_tested`: whether
    erllama was tested on that release.
    `exact`: pure rows continue bit for bit as a cold run (docs/exact-slicing.md).
    """

    id: str
    path: str
    fingerprint: str
    architecture: str
    name: str
    description: str
    family: str
    n_params: int
    size: int
    n_vocab: int
    n_layer: int
    n_embd: int
    n_head: int
    n_head_kv: int
    n_ctx_train: int
    n_ctx: int
    n_seq_max: int
    n_seq_allocated: int
    n_ctx_allocated: int
    kv_bytes: int | None
    n_batch: int
    n_ubatch: int
    n_threads: int
    flash_attn: bool | None
    type_k: str
    type_v: str
    can_generate: bool
    can_abort: bool
    can_embed: bool
    pooling: Pooling | None
    granule: int
    cached_as: Literal["rows", "rows+snapshots", "snapshots", "none"]
    exact: bool
    chat_template: str | None
    bos_token: str
    eos_token: str
    backend: str
    devices: str
    chat_templates: dict[str, str] = {}
    thinking_markers: tuple[str, ...] = ()
    tool_call_markers: tuple[str, ...] = ()
    backend_tested: bool = True


class ModelStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What a model is doing now.

    Attributes:
        phase: loading, idle, running, failed or stopping; stuck: the engine does not come back
            from a native call and does not obey its abort flag, so the process must be restarted.
        load_progress: 0 to 1 while loading.
        active: requests that hold a sequence.
        pending: requests that wait for one.
        sessions: idle sessions that hold a sequence.
        restarts: how often the model was loaded again after a crash.
        decode_tokens_per_s: of the latest generation; 0 before the first.
        prefill_tokens_per_s: of the latest prompt; 0 before the first.
        heartbeat_age_s: seconds since the last sign of life of a step that is running; else 0.
        warnings: what slows it down at present, and what to do: threads that have to share their
            cores with other processes (docs/busy-machine.md). Looked for while it does something.
    """

    id: str
    phase: Phase
    load_progress: float
    active: int
    pending: int
    sessions: int
    restarts: int
    decode_tokens_per_s: float
    prefill_tokens_per_s: float
    heartbeat_age_s: float
    warnings: tuple[str, ...] = ()


class ActorNode(msgspec.Struct, frozen=True, kw_only=True):
    """An actor in the supervision tree."""

    id: str
    state: str
    restarts: int
    children: tuple[ActorNode, ...] = ()


class LaneInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The compute thread.

    Attributes:
        alive: it runs and takes jobs.
        generation: how often one was started in this process.
        queued: jobs that wait, of all models.
        busy_s: seconds that the running job has taken; 0 between jobs.
        stuck: it does not come back from a native call; the process must be restarted.
    """

    alive: bool
    generation: int
    queued: int
    busy_s: float
    stuck: bool = False


class RuntimeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A runtime at a moment."""

    tree: ActorNode
    models: tuple[ModelStatus, ...]
    lane: LaneInfo
