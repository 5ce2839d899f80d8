"""Load options that a model or this machine cannot have, refused before memory is taken for them.

llama.cpp answers some of these by ending the process, others with a message that names none of
erllama's options.
"""

from __future__ import annotations

from erllama.backend.base import Family
from erllama.backend.cgroups import memory_present
from erllama.backend.llama.devices import device_names
from erllama.backend.llama.gguf_file import GgufHeader
from erllama.backend.llama.kv_types import KV_TYPES
from erllama.backend.llama.library import llama
from erllama.backend.llama.room import check_room, plan_room
from erllama.config import GRANULE, ContextConfig, ModelConfig
from erllama.errors import ConfigError

_DEFAULT_N_CTX = 4_096


class _Sizes:
    """What a header says of its model; 0 stands for what it does not say as a plain number."""

    def __init__(self, header: GgufHeader) -> None:
        self._metadata = header.metadata
        self._arch = str(header.metadata.get("general.architecture", ""))
        self.trained = self._number("context_length")
        self.n_layer = self._number("block_count")
        heads = self._number("attention.head_count")
        width = self._number("embedding_length") // heads if heads else 0
        self.head_k = self._number("attention.key_length") or width
        self.head_v = self._number("attention.value_length") or width
        self.window_k = self._number("attention.key_length_swa")
        self.window_v = self._number("attention.value_length_swa")
        self.heads_kv = self._number("attention.head_count_kv") or heads

    def _number(self, key: str) -> int:
        value = self._metadata.get(f"{self._arch}.{key}", 0)
        return value if isinstance(value, int) else 0


def wanted_context(config: ContextConfig, trained: int) -> int:
    """The longest context of a request, in tokens.

    Args:
        trained: tokens that the model was trained for; 0: not known.
    """
    return config.n_ctx or min(trained or _DEFAULT_N_CTX, _DEFAULT_N_CTX)


def check_options(model: ModelConfig, config: ContextConfig, header: GgufHeader) -> None:
    """Refuse options by what the file's header says.

    Raises:
        ConfigError: names the option, what is wrong with it, and what to set.
    """
    sizes = _Sizes(header)
    _check_devices(model)
    _check_batch(config)
    _check_length(config, sizes.trained)
    _check_kv_types(config, sizes)
    _check_memory(config, sizes)


def check_deterministic(config: ContextConfig, family: Family, *, decodes_alone: bool) -> None:
    """Refuse `deterministic` where an idle sequence cannot take a padding row and drop it.

    Args:
        decodes_alone: the model is not of an encoder and a decoder.

    Raises:
        ConfigError: says why.
    """
    if not config.deterministic:
        return
    if family not in ("plain", "sliding_window") or not decodes_alone:
        raise ConfigError(
            "ContextConfig.deterministic: this model has no state whose end can be dropped "
            f"(family {family}); set it to False"
        )
    if family == "sliding_window" and not config.swa_full:
        raise ConfigError(
            "ContextConfig.deterministic: needs the whole context of sliding-window layers; "
            "set swa_full to True"
        )


def _check_devices(model: ModelConfig) -> None:
    if model.split_mode == "tensor" and not device_names():
        raise ConfigError(
            "ModelConfig.split_mode: 'tensor' needs a GPU, and llama.cpp sees none here; use "
            "'layer', or a build of llama-cpp-python for the GPU"
        )
    room = llama().llama_max_devices()
    if len(model.tensor_split) > room:
        raise ConfigError(f"ModelConfig.tensor_split: at most {room} devices here")


def _check_batch(config: ContextConfig) -> None:
    if config.n_batch < config.n_ubatch and config.n_batch % GRANULE:
        raise ConfigError(
            f"ContextConfig.n_batch: {config.n_batch} is below n_ubatch {config.n_ubatch} and "
            f"no multiple of {GRANULE}; raise it or make it one"
        )


def _check_length(config: ContextConfig, trained: int) -> None:
    stretched = (config.rope_scaling, config.rope_freq_base, config.rope_freq_scale)
    if any(option is not None for option in stretched):
        return
    if config.n_ctx and 0 < trained < config.n_ctx:
        raise ConfigError(
            f"ContextConfig.n_ctx: {config.n_ctx:,} exceeds the {trained:,} tokens that the "
            "model was trained for; lower it, or stretch the context by rope_scaling, "
            "rope_freq_base or rope_freq_scale"
        )


def _check_kv_types(config: ContextConfig, sizes: _Sizes) -> None:
    """A head's values have to be whole blocks.

    With flash attention llama.cpp says so (`llama_init_from_model`), without it ends the process
    (`ggml_row_size`).
    """
    for field, kind, widths in (
        ("type_k", config.type_k, (sizes.head_k, sizes.window_k)),
        ("type_v", config.type_v, (sizes.head_v, sizes.window_v)),
    ):
        block = KV_TYPES[kind].block
        for width in widths:
            if width % block:
                raise ConfigError(
                    f"ContextConfig.{field}: {kind} stores blocks of {block} values, which do not "
                    f"divide this model's heads of {width}; use f16, bf16 or f32"
                )


def _check_memory(config: ContextConfig, sizes: _Sizes) -> None:
    room = plan_room(config, wanted_context(config, sizes.trained))
    check_room(config, room, llama().llama_max_parallel_sequences())
    row = sizes.heads_kv * (
        sizes.head_k * KV_TYPES[config.type_k].value_bytes
        + sizes.head_v * KV_TYPES[config.type_v].value_bytes
    )
    cells = room.total + (room.cells if config.embeddings else 0)
    needed = int(sizes.n_layer * row * cells)
    present = memory_present()
    if needed > present:
        raise ConfigError(
            f"ContextConfig.n_ctx: {room.cells:,} tokens for {room.n_seq} sequences need "
            f"{_gib(needed)} of KV cache, this machine or container has {_gib(present)}; lower "
            "n_ctx or n_seq_max"
        )


def _gib(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"
