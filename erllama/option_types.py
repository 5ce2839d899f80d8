"""What the keyword arguments of the public calls may be, for editors and type checkers.

Made from the structs of options by `docs/make_option_types.py`. The structs check the values
(docs/configuration.md); nothing here does anything when a program runs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal, TypedDict

from erllama.sampling.params import SamplingParams


class RuntimeOptions(TypedDict, total=False):
    """Options of `Runtime`."""

    cache_dir: str | os.PathLike[str] | None
    ram_bytes: int
    ram_file_bytes: int
    ram_file_dir: str | os.PathLike[str] | None
    disk_bytes: int
    cache_read_only: bool
    cache_if_locked: Literal["refuse", "read_only"]
    signing_key: str | None
    restart_intensity: int
    restart_period_s: float
    shutdown_s: float


class LoadOptions(TypedDict, total=False):
    """Options of `Runtime.load_model` and `load`."""

    gpu_layers: int
    split_mode: Literal["none", "layer", "row", "tensor"]
    main_gpu: int
    tensor_split: tuple[float, ...] | list[float]
    use_mmap: bool
    use_mlock: bool
    vocab_only: bool
    fingerprint: str | None
    fingerprint_mode: Literal["safe", "gguf_chunked", "fast_unsafe"]
    chat_template: str | None
    thinking_markers: tuple[str, ...] | list[str] | None
    tool_call_markers: tuple[str, ...] | list[str] | None
    n_ctx: int | None
    n_seq_max: int
    n_batch: int
    n_ubatch: int
    n_threads: int | None
    n_threads_batch: int | None
    flash_attn: bool | None
    type_k: Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]
    type_v: Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]
    kv_unified: bool
    deterministic: bool
    embeddings: bool
    pooling: Literal["none", "mean", "cls", "last", "rank"] | None
    swa_full: bool
    rope_scaling: Literal["none", "linear", "yarn", "longrope"] | None
    rope_freq_base: float | None
    rope_freq_scale: float | None
    decode_stall_ms: float
    max_queue: int
    queue_timeout_s: float | None
    session_idle_s: float
    reader_stall_s: float
    step_timeout_s: float
    enabled: bool
    min_tokens: int
    cold_min_tokens: int
    cold_max_tokens: int | None
    continued_interval: int | None
    session_resume_wait_ms: float
    block_tokens: int
    snapshot_share: float
    restore_margin: float
    tiers: tuple[Literal["ram", "ram_file", "disk"], ...] | list[Literal["ram", "ram_file", "disk"]]
    write_through: bool


class DraftOptions(TypedDict, total=False):
    """Options of `Model.draft`, which has `max_tokens` in its `n`."""

    timeout: float | None
    prefill_progress: bool
    parent_key: str | None
    cache_salt: str
    exact: bool
    priority: Literal["low", "normal", "high"]
    stop: str | tuple[str, ...] | list[str]
    stop_token_ids: tuple[int, ...] | list[int]
    stream_buffer: int
    thinking: bool | None
    thinking_budget_tokens: int | None
    sampling: SamplingParams
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    repeat_penalty: float
    repeat_last_n: int
    frequency_penalty: float
    presence_penalty: float
    dry_multiplier: float
    dry_base: float
    dry_allowed_length: int
    dry_penalty_last_n: int
    dry_sequence_breakers: tuple[str, ...] | list[str]
    xtc_probability: float
    xtc_threshold: float
    mirostat: Literal[0, 1, 2]
    mirostat_tau: float
    mirostat_eta: float
    logit_bias: Mapping[int, float]
    ignore_eos: bool
    logprobs: int | None
    grammar: str | None
    json_schema: str | Mapping[str, Any] | None
    json_whitespace: int
    regex: str | None
    seed: int | None


class SessionlessOptions(DraftOptions, total=False):
    """Options of `Model.completions` and `verify`, which leave sessions as they are."""

    max_tokens: int | None


class RequestOptions(SessionlessOptions, total=False):
    """Options of `Model.complete`, `stream`, `chat`, `stream_chat` and `prefill`."""

    session_id: str | None
