"""Configuration of a runtime, a model and a context.

Each field says its meaning, unit and limits once, in its annotation; a value outside them raises
`ConfigError`. `None` means that erllama or llama.cpp chooses, as the field's description says.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from erllama.checked import Checked
from erllama.errors import ConfigError

GRANULE = 64
"""Rows of the smallest prompt slice whose numbers do not depend on how a prompt was sliced."""

KvType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]
FingerprintMode = Literal["safe", "gguf_chunked", "fast_unsafe"]
SplitMode = Literal["none", "layer", "row", "tensor"]
RopeScaling = Literal["none", "linear", "yarn", "longrope"]
Pooling = Literal["none", "mean", "cls", "last", "rank"]

Marker = Annotated[str, Meta(max_length=256)]


class ModelConfig(Checked, frozen=True, kw_only=True):
    """How a model's weights are loaded."""

    gpu_layers: Annotated[
        int,
        Meta(ge=-1, le=100_000, description="Layers kept on a GPU, if there is one; -1: all."),
    ] = -1
    split_mode: Annotated[
        SplitMode, Meta(description="How a model is spread over several GPUs.")
    ] = "layer"
    main_gpu: Annotated[
        int, Meta(ge=0, le=1_000, description="The GPU that split_mode='none' uses.")
    ] = 0
    tensor_split: Annotated[
        Annotated[tuple[Annotated[float, Meta(ge=0, le=1e6)], ...], Meta(max_length=16)],
        Meta(description="Share of the model per GPU; empty: by free memory."),
    ] = ()
    use_mmap: Annotated[
        bool, Meta(description="Map the file instead of reading it, where the system can.")
    ] = True
    use_mlock: Annotated[
        bool, Meta(description="Ask the system to keep the weights in memory, never swapped.")
    ] = False
    vocab_only: Annotated[
        bool, Meta(description="Load the vocabulary only: the model can tokenize, not generate.")
    ] = False
    fingerprint: Annotated[
        Annotated[str, Meta(min_length=1, max_length=256)] | None,
        Meta(
            description="The caller's own name for the bytes, for fingerprint_mode='fast_unsafe'."
        ),
    ] = None
    fingerprint_mode: Annotated[
        FingerprintMode,
        Meta(
            description="What identifies the model: SHA-256 of the whole file (safe), of its "
            "metadata and samples of every tensor (gguf_chunked), or the caller's word "
            "(fast_unsafe)."
        ),
    ] = "safe"
    chat_template: Annotated[
        Annotated[str, Meta(min_length=1, max_length=1_000_000)] | None,
        Meta(
            description="A Jinja chat template in place of those in the file, or the name of one "
            "of them, which is then for all chats; None: the file's own, and with tools the one "
            "that is named tool_use."
        ),
    ] = None
    thinking_markers: Annotated[
        Annotated[tuple[Marker, ...], Meta(max_length=2)] | None,
        Meta(
            description="Texts that begin and end what the model thinks; they may contain control "
            "tokens; empty: it has none; None: those of the model family that its chat template "
            "mentions."
        ),
    ] = None
    tool_call_markers: Annotated[
        Annotated[tuple[Marker, ...], Meta(max_length=4)] | None,
        Meta(
            description="Texts that begin and end a call of a tool (an empty end: the next call, "
            "or the end of the reply); two more begin and end what is payload in it, and the rest "
            "of it is then sampled greedily; empty: none; None: those of the model family that "
            "the chat template mentions."
        ),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, lengths in (("thinking_markers", (0, 2)), ("tool_call_markers", (0, 2, 4))):
            markers = getattr(self, name)
            if markers is not None and len(markers) not in lengths:
                raise ConfigError(
                    f"ModelConfig.{name}: {len(markers)} texts; give "
                    f"{' or '.join(map(str, lengths[1:]))}: each beginning with its end, or ()"
                )
            for at, marker in enumerate(markers or ()):
                _check_unicode(f"ModelConfig.{name}", marker)
                if not marker and (name, at) != ("tool_call_markers", 1):
                    raise ConfigError(
                        f"ModelConfig.{name}: text {at + 1} of {len(markers)} is empty; give at "
                        "least one character"
                    )
        if (self.fingerprint_mode == "fast_unsafe") != (self.fingerprint is not None):
            raise ConfigError(
                "ModelConfig.fingerprint: give it together with fingerprint_mode='fast_unsafe', "
                "or leave both at their defaults"
            )


def _check_unicode(option: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{option}: has half of a surrogate pair; remove it") from None


class ContextConfig(Checked, frozen=True, kw_only=True):
    """The context a model computes in."""

    n_ctx: Annotated[
        Annotated[int, Meta(ge=GRANULE, le=16_777_216)] | None,
        Meta(
            description="Longest context of one request, in tokens; None: the model's own, "
            "at most 4,096."
        ),
    ] = None
    n_seq_max: Annotated[
        int, Meta(ge=1, le=256, description="Sequences computed side by side.")
    ] = 1
    n_batch: Annotated[
        int,
        Meta(ge=GRANULE, le=65_536, description="Most rows in one call of llama_decode."),
    ] = 512
    n_ubatch: Annotated[
        int,
        Meta(
            ge=GRANULE,
            le=65_536,
            multiple_of=GRANULE,
            description="Rows computed at a time inside a call: a multiple of 64.",
        ),
    ] = 512
    n_threads: Annotated[
        Annotated[int, Meta(ge=1, le=512)] | None,
        Meta(description="Threads for decoding; None: one per usable core."),
    ] = None
    n_threads_batch: Annotated[
        Annotated[int, Meta(ge=1, le=512)] | None,
        Meta(description="Threads for prefill; None: the same as n_threads."),
    ] = None
    flash_attn: Annotated[
        bool | None, Meta(description="Flash attention; None: llama.cpp's choice.")
    ] = None
    type_k: Annotated[KvType, Meta(description="Number format of the K cache.")] = "f16"
    type_v: Annotated[
        KvType, Meta(description="Number format of the V cache; a quantized one needs flash_attn.")
    ] = "f16"
    kv_unified: Annotated[
        bool,
        Meta(description="One KV buffer that all sequences share: slower, and never exact."),
    ] = False
    deterministic: Annotated[
        bool,
        Meta(
            description="Decode rows do not depend on what else is running: every decode call is "
            "padded to a multiple of 4 rows, at least 8."
        ),
    ] = False
    embeddings: Annotated[
        bool,
        Meta(
            description="The model can `embed`, in a small context of its own beside the one that "
            "generates; an encoder always can."
        ),
    ] = False
    pooling: Annotated[
        Pooling | None,
        Meta(
            description="How `embed` makes one vector of an input: the mean of its tokens' ones, "
            "the first (cls) or the last one, or the scores of a classifier (rank); None: as the "
            "file says. Where that, or this, is none: the last one."
        ),
    ] = None
    swa_full: Annotated[
        bool,
        Meta(description="Keep the whole context of sliding-window layers, not the window only."),
    ] = True
    rope_scaling: Annotated[
        RopeScaling | None, Meta(description="RoPE scaling; None: the model's own.")
    ] = None
    rope_freq_base: Annotated[
        Annotated[float, Meta(gt=0, le=1e12)] | None,
        Meta(description="RoPE base frequency; None: the model's own."),
    ] = None
    rope_freq_scale: Annotated[
        Annotated[float, Meta(gt=0, le=1e3)] | None,
        Meta(description="RoPE frequency factor; None: the model's."),
    ] = None
    decode_stall_ms: Annotated[
        float,
        Meta(
            ge=1,
            le=600_000,
            description="Longest pause of a running stream while prompts of others are computed; "
            "a slice of 64 rows is the least that is computed at a time.",
        ),
    ] = 100.0
    max_queue: Annotated[
        int,
        Meta(ge=1, le=100_000, description="Requests that may wait; one more gets QueueFull."),
    ] = 256
    queue_timeout_s: Annotated[
        Annotated[float, Meta(gt=0, le=31_536_000)] | None,
        Meta(description="Longest wait for a sequence, then CallTimeout; None: no limit."),
    ] = None
    session_idle_s: Annotated[
        float,
        Meta(
            gt=0,
            le=31_536_000,
            description="How long an idle session keeps its sequence; its rows stay in the cache.",
        ),
    ] = 300.0
    reader_stall_s: Annotated[
        float,
        Meta(
            gt=0,
            le=31_536_000,
            description="How long a stream that nobody reads keeps its sequence.",
        ),
    ] = 10.0
    step_timeout_s: Annotated[
        float,
        Meta(
            gt=0,
            le=86_400,
            description="Longest time of one step of the engine; then it is aborted and its "
            "requests get EngineStuck. Also of a save or restore, which cannot be aborted.",
        ),
    ] = 120.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.type_v not in ("f32", "f16", "bf16") and self.flash_attn is False:
            raise ConfigError(
                f"ContextConfig.type_v: {self.type_v} needs flash attention; "
                "set flash_attn to True or None, or type_v to f16"
            )
        if self.deterministic and self.kv_unified:
            raise ConfigError(
                "ContextConfig.deterministic: sequences that share one KV buffer do depend on each "
                "other; set kv_unified to False"
            )


class RuntimeConfig(Checked, frozen=True, kw_only=True):
    """What all models of a runtime share."""

    secret: ClassVar[tuple[str, ...]] = ("signing_key",)

    cache_dir: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        Meta(
            description="Folder for what outlives the process: KV rows, fingerprints; "
            "None: nothing is kept."
        ),
    ] = None
    ram_bytes: Annotated[
        int,
        Meta(ge=0, le=1 << 50, description="Most bytes of KV rows kept in memory; 0: none."),
    ] = 1 << 30
    ram_file_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=1 << 50,
            description="Most bytes of KV rows kept in files under shared memory, which outlive "
            "the process but not the machine; 0: none.",
        ),
    ] = 0
    ram_file_dir: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        Meta(description="Folder of those files; None: /dev/shm/erllama-<user id>."),
    ] = None
    disk_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=1 << 50,
            description="Most bytes of KV rows kept on disk, under cache_dir; 0: none.",
        ),
    ] = 10 << 30
    cache_read_only: Annotated[
        bool,
        Meta(description="Use the rows that lie under cache_dir, but write none and take no lock."),
    ] = False
    cache_if_locked: Annotated[
        Literal["refuse", "read_only"],
        Meta(description="What to do where another process has the rows under cache_dir open."),
    ] = "refuse"
    signing_key: Annotated[
        Annotated[str, Meta(min_length=16, max_length=1_024)] | None,
        Meta(
            description="Key of the HMAC-SHA256 in ThinkingEnd.signature, in UTF-8; "
            "None: nothing is signed."
        ),
    ] = None
    restart_intensity: Annotated[
        int,
        Meta(ge=0, le=1_000, description="Restarts of one child within restart_period_s."),
    ] = 5
    restart_period_s: Annotated[
        float, Meta(gt=0, le=86_400, description="Seconds in which restarts are counted.")
    ] = 60.0
    shutdown_s: Annotated[
        float,
        Meta(gt=0, le=3_600, description="Seconds that a child may take to stop."),
    ] = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_unicode("RuntimeConfig.signing_key", self.signing_key or "")
