"""From a file to an engine, in two parts: weights on a worker, first computation on the lane."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import pathlib
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import msgspec

from erllama.backend.base import (
    Capabilities,
    EngineInfo,
    Family,
    FingerprintMemory,
    Progress,
)
from erllama.backend.fingerprint import Extent, chunked_fingerprint, safe_fingerprint
from erllama.backend.llama.abort import AbortFlag, abort_function
from erllama.backend.llama.adapters import Adapters
from erllama.backend.llama.build import bindings, build
from erllama.backend.llama.chat_templates import Templates, choose_templates
from erllama.backend.llama.company import rows_keep_apart
from erllama.backend.llama.devices import offload
from erllama.backend.llama.embed_shape import EmbedShape, Facts, plan_embedding
from erllama.backend.llama.embedder import Embedder
from erllama.backend.llama.engine import LlamaEngine, bounds
from erllama.backend.llama.gguf_file import GgufHeader, read_header, shards
from erllama.backend.llama.header_check import find_fault
from erllama.backend.llama.keeping import (
    SWITCHES,
    Kept,
    RopeFactors,
    original_context,
    rope_factors,
    rows_to_test,
    slices_keep_apart,
    state_capabilities,
)
from erllama.backend.llama.kv_types import KV_TYPES
from erllama.backend.llama.library import capture_log, llama
from erllama.backend.llama.option_check import (
    check_deterministic,
    check_options,
    wanted_context,
)
from erllama.backend.llama.release import is_tested
from erllama.backend.llama.room import Room, plan_room, window_cells
from erllama.backend.llama.self_test import Verdict, self_test
from erllama.backend.llama.state_blob import BadState, memory_bytes
from erllama.backend.llama.states import States, WholeStates
from erllama.backend.llama.thread_check import check_threads
from erllama.backend.llama.vocabulary import Vocabulary
from erllama.config import GRANULE, ContextConfig, ModelConfig
from erllama.errors import ConfigError, ModelLoadError

S = TypeVar("S")

log = logging.getLogger("erllama.llama")

_SPLIT_MODES = {"none": 0, "layer": 1, "row": 2, "tensor": 3}  # llama_split_mode, llama.h
_ROPE_SCALING = {"none": 0, "linear": 1, "yarn": 2, "longrope": 3}  # llama_rope_scaling_type
_LOAD_MODES = {(False, False): 0, (True, False): 1, (False, True): 2, (True, True): 3}
_SELF_TEST = "self-test 1"


class LlamaBackend:
    """See `erllama.backend.base.Backend`."""

    def open(self, path: str, model: ModelConfig, context: ContextConfig) -> LlamaLoading:
        llama()  # imported here: whoever opens is on a thread of normal priority
        return LlamaLoading(pathlib.Path(path), model, context)


class LlamaLoading:
    """See `erllama.backend.base.Loading`. Owns the handles until the engine takes them."""

    def __init__(self, path: pathlib.Path, model: ModelConfig, context: ContextConfig) -> None:
        self._path = path
        self._model_config = model
        self._config = context
        self._model: Any = None
        self._context: Any = None
        self._embedder: Embedder | None = None
        self._encoder = False
        self._templates = Templates(None, {})
        self._flag = AbortFlag()
        self._headers: list[GgufHeader] = []
        self._memory: FingerprintMemory | None = None
        self._fingerprint = ""
        self._parts: Generator[None, None, None] = self._prepare()
        self._engine_made: LlamaEngine | None = None

    def fingerprint(self, memory: FingerprintMemory, progress: Progress) -> str:
        self._memory = memory
        self._fingerprint = self._identify(memory, progress)
        return self._fingerprint

    def _identify(self, memory: FingerprintMemory, progress: Progress) -> str:
        config = self._model_config
        if config.fingerprint is not None:
            return config.fingerprint
        files = shards(self._path)
        if config.fingerprint_mode == "gguf_chunked":
            return chunked_fingerprint((file, _extents(file)) for file in files)
        return safe_fingerprint(files, memory, progress)

    def load(self, progress: Progress) -> None:
        headers = [read_header(part) for part in shards(self._path)]
        header = headers[0]
        fault = find_fault(header.metadata, header.arrays, header.repeated_token)
        if fault is not None:
            raise ModelLoadError(f"{self._path}: its {fault}; download or convert it again")
        check_options(self._model_config, self._config, header)
        self._templates = choose_templates(header.metadata, self._model_config.chat_template)
        check_threads(self._config)
        self._headers = headers
        self._model = self._load_weights(progress)
        fault = Vocabulary(self._model).fault
        if fault is not None:
            raise ModelLoadError(f"{self._path}: its {fault}; convert it again")
        if not self._model_config.vocab_only:
            self._context = self._make_context(self._model)
            self._check_deterministic()
            self._make_embedder(header)

    def prepare(self) -> bool:
        try:
            next(self._parts)
        except StopIteration:
            return False
        return True

    def warm_up(self) -> LlamaEngine:
        while self.prepare():
            pass
        engine = self._engine_made
        if engine is None:
            raise ModelLoadError(f"{self._path}: was not loaded; call load before warm_up")
        self._model = self._context = self._embedder = None  # the engine owns them now
        return engine

    def _prepare(self) -> Generator[None, None, None]:
        if self._embedder is not None:
            self._embedder.try_out(Vocabulary(self._model).warm_up_token)
            yield
        engine = self._engine(can_abort=False, kept=None)
        if engine.capabilities.generate:
            token = Vocabulary(self._model).warm_up_token
            can_abort = self._first_computation(token)
            yield
            kept = yield from self._ways_to_keep(token)
            engine = self._engine(can_abort=can_abort, kept=kept)
        self._engine_made = engine

    def _first_computation(self, token: int) -> bool:
        """Compute once; returns whether a computation can be aborted."""
        with capture_log() as said:
            can_abort = self._decode_one(token, aborted=True) == 2
            code = self._decode_one(token, aborted=False)
        if code != 0:
            raise ModelLoadError(
                f"{self._path}: the model cannot compute; download or convert it again "
                f"(llama_decode returned {code}: {said.problems()})"
            )
        self._try_company()
        return can_abort

    def discard(self) -> None:
        lib = llama()
        if self._embedder is not None:
            self._embedder.close()
        if self._context:
            lib.llama_free(self._context)
        if self._model:
            lib.llama_model_free(self._model)
        self._model = self._context = self._embedder = None

    # Weights

    def _load_weights(self, progress: Progress) -> Any:
        lib = llama()
        stopped = False

        def report(share: float, _data: object) -> bool:
            nonlocal stopped
            stopped = stopped or not progress(share)
            return not stopped

        parameters = lib.llama_model_default_params()
        self._fill_model_parameters(parameters)
        callback = lib.llama_progress_callback(report)
        parameters.progress_callback = callback
        with capture_log() as said:
            model = lib.llama_model_load_from_file(os.fsencode(self._path), parameters)
        if model:
            return model
        if stopped:
            raise ModelLoadError(f"{self._path}: loading was given up")
        raise ModelLoadError(
            f"{self._path}: llama.cpp cannot load it; download it again, or look for a file that "
            f"its version knows ({said.problems()})"
        )

    def _fill_model_parameters(self, parameters: Any) -> None:
        config = self._model_config
        parameters.n_gpu_layers = config.gpu_layers
        parameters.split_mode = _SPLIT_MODES[config.split_mode]
        parameters.main_gpu = config.main_gpu
        parameters.load_mode = _LOAD_MODES[config.use_mmap, config.use_mlock]
        parameters.vocab_only = config.vocab_only
        if config.tensor_split:
            room = llama().llama_max_devices()
            parameters.tensor_split = (ctypes.c_float * room)(*config.tensor_split)

    # Context

    def _make_context(self, model: Any) -> Any:
        """Make the context; the engine does it again after a step that was given up."""
        parameters = llama().llama_context_default_params()
        self._fill_context_parameters(parameters, model)
        return self._init_context(model, parameters)

    def _init_context(self, model: Any, parameters: Any) -> Any:
        lib = llama()
        with capture_log() as said:
            context = lib.llama_init_from_model(model, parameters)
        if not context:
            raise ModelLoadError(
                f"{self._path}: llama.cpp cannot make the context; change the options of "
                f"ContextConfig that it names, or lower n_ctx ({said.problems()})"
            )
        return context

    def _fill_context_parameters(self, parameters: Any, model: Any) -> None:
        config = self._config
        room = self._room(model)
        parameters.n_ctx = room.total
        parameters.n_batch = config.n_batch
        parameters.n_ubatch = min(config.n_ubatch, config.n_batch)
        parameters.n_seq_max = room.n_seq
        parameters.n_threads = self._n_threads
        parameters.n_threads_batch = config.n_threads_batch or self._n_threads
        parameters.flash_attn_type = -1 if config.flash_attn is None else int(config.flash_attn)
        parameters.type_k = KV_TYPES[config.type_k].number
        parameters.type_v = KV_TYPES[config.type_v].number
        parameters.kv_unified = config.kv_unified
        parameters.swa_full = config.swa_full
        parameters.no_perf = True
        parameters.abort_callback = abort_function()
        parameters.abort_callback_data = self._flag.address
        if config.rope_scaling is not None:
            parameters.rope_scaling_type = _ROPE_SCALING[config.rope_scaling]
        if config.rope_freq_base is not None:
            parameters.rope_freq_base = config.rope_freq_base
        if config.rope_freq_scale is not None:
            parameters.rope_freq_scale = config.rope_freq_scale

    def _make_embedder(self, header: GgufHeader) -> None:
        """Make the context that embeds, if one is wanted; an encoder's takes the other's place."""
        lib = llama()
        self._encoder = not lib.llama_get_memory(self._context)
        if not self._encoder and not self._config.embeddings:
            return
        if lib.llama_model_has_encoder(self._model) and not self._encoder:
            raise ConfigError(
                "ContextConfig.embeddings: this model, of an encoder and a decoder, cannot embed; "
                "set it to False"
            )
        shape = plan_embedding(self._config, self._room(self._model), self._embed_facts(header))
        if self._encoder:
            lib.llama_free(self._context)
            self._context = None
        flag = AbortFlag()
        parameters = lib.llama_context_default_params()
        self._fill_context_parameters(parameters, self._model)
        _make_it_embed(parameters, shape, flag)
        self._embedder = Embedder(
            context=self._init_context(self._model, parameters),
            shape=shape,
            flag=flag,
            n_vocab=lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self._model)),
            largest=bounds,
        )

    def _embed_facts(self, header: GgufHeader) -> Facts:
        lib, model = llama(), self._model
        arch = header.metadata.get("general.architecture", "")
        return Facts(
            encoder=self._encoder,
            causal=bool(header.metadata.get(f"{arch}.attention.causal", True)),
            pooling_type=lib.llama_pooling_type(self._context),
            has_head=any(
                tensor.name.startswith("cls.") for part in self._headers for tensor in part.tensors
            ),
            n_embd=lib.llama_model_n_embd_out(model),
            n_scores=lib.llama_model_n_cls_out(model),
            n_ctx_train=lib.llama_model_n_ctx_train(model),
        )

    @property
    def _n_threads(self) -> int:
        return self._config.n_threads or len(os.sched_getaffinity(0))

    def _room(self, model: Any) -> Room:
        trained = int(llama().llama_model_n_ctx_train(model))
        n_ctx = wanted_context(self._config, trained)
        return plan_room(self._config, n_ctx, original=original_context(self._headers, model))

    def _check_deterministic(self) -> None:
        lib = llama()
        family = self._family(has_memory=bool(lib.llama_get_memory(self._context)))
        whole = not lib.llama_model_has_encoder(self._model)
        check_deterministic(self._config, family, decodes_alone=whole)

    def _try_company(self) -> None:
        """Refuse the option where this machine's kernels do not keep it."""
        if not self._config.deterministic:
            return
        n_vocab = llama().llama_vocab_n_tokens(llama().llama_model_get_vocab(self._model))
        if not rows_keep_apart(self._context, self._room(self._model).n_seq, n_vocab):
            raise ConfigError(
                "ContextConfig.deterministic: decode rows of this model do depend on each other "
                "here; set it to False, or for a quantized mixture of experts start Python with "
                "GGML_CPU_TILED_MM=0 in the environment"
            )

    # The engine

    def _ways_to_keep(self, token: int) -> Generator[None, None, Kept | None]:
        """How states are kept here, by what a self-test finds; None: in no way that works."""
        for make, name in ((self._learn_rows, "rows"), (self._learn_whole, "whole")):
            states = make(token)
            if states is None:
                continue
            verdict = yield from self._tested(states)
            if verdict.restored != "wrong":
                return Kept(states, verdict.exact and not self._config.kv_unified)
            log.warning("%s: states do not survive being kept as %s", self._path, name)
        log.warning("%s: states cannot be saved, so nothing is cached", self._path)
        return None

    def _tested(self, states: States | WholeStates) -> Generator[None, None, Verdict]:
        """What a self-test finds, or found when this model was loaded in this way before."""
        key = self._self_test_key(states)
        known = self._memory.recall(key) if self._memory is not None else None
        if known is not None:
            with contextlib.suppress(msgspec.MsgspecError):
                return msgspec.json.decode(known, type=Verdict)
        engine = self._engine(can_abort=False, kept=Kept(states, exact=True))
        verdict = yield from self_test(engine, rows_to_test(self._headers))
        if self._memory is not None:
            self._memory.remember(key, msgspec.json.encode(verdict).decode())
        return verdict

    def _self_test_key(self, states: States | WholeStates) -> str:
        """Everything that the outcome depends on."""
        lib, config = llama(), self._config
        facts = (
            self._fingerprint,
            repr(states.shape) if isinstance(states, States) else "whole",
            *(lib.llama_n_ubatch(self._context), lib.llama_n_batch(self._context)),
            *(lib.llama_n_seq_max(self._context), config.kv_unified, config.swa_full),
            *(self._n_threads, config.n_threads_batch, self._rope_factors, config.deterministic),
            *(config.rope_scaling, config.rope_freq_base, config.rope_freq_scale),
            *(offload(self._model_config), build(), lib.llama_print_system_info()),
            *(os.environ.get(name) for name in SWITCHES),
        )
        return f"{_SELF_TEST}:{hashlib.sha256(repr(facts).encode()).hexdigest()}"

    def _learn_rows(self, token: int) -> States | None:
        """How states are laid out here; None if in a way that is not known."""
        family = self._family(has_memory=True)
        return self._learn(token, lambda: States(self._context, family, seq=0, n=1))

    def _learn_whole(self, token: int) -> WholeStates | None:
        return self._learn(token, lambda: WholeStates(self._context, seq=0))

    def _learn(self, token: int, make: Callable[[], S]) -> S | None:
        try:
            if self._decode_one(token, aborted=False, keep=True) != 0:
                return None
            return make()
        except BadState as bad:
            log.warning("%s: states are laid out in an unknown way: %s", self._path, bad)
            return None
        finally:
            lib = llama()
            lib.llama_memory_clear(lib.llama_get_memory(self._context), True)

    def _engine(self, *, can_abort: bool, kept: Kept | None) -> LlamaEngine:
        vocabulary = Vocabulary(self._model)
        states = kept.states if kept is not None else None
        return LlamaEngine(
            model=self._model,
            context=self._context,
            make_context=functools.partial(self._make_context, self._model),
            vocabulary=vocabulary,
            abort_flag=self._flag,
            capabilities=self._capabilities(can_abort=can_abort, kept=kept),
            states=states,
            info=self._info(vocabulary, states),
            embedder=self._embedder,
            adapters=Adapters(self._model, self._path),
            room=self._room(self._model),
            unified=self._config.kv_unified,
        )

    def _capabilities(self, *, can_abort: bool, kept: Kept | None) -> Capabilities:
        lib, context = llama(), self._any_context
        has_memory = bool(context) and bool(lib.llama_get_memory(context))
        family = self._family(has_memory=has_memory)
        return Capabilities(
            generate=has_memory and not lib.llama_model_has_encoder(self._model),
            abort=can_abort,
            n_seq_max=self._config.n_seq_max,
            n_ctx=self._room(self._model).n_ctx if context else 0,
            n_batch=lib.llama_n_batch(context) if context else 0,
            n_joint=lib.llama_n_ubatch(context) if self._joins(family, kept) else 0,
            fills=self._fills(family, kept),
            granule=GRANULE,
            family=family,
            truncate=kept is not None and self._can_truncate(family),
            deterministic=self._config.deterministic,
            adapters=has_memory and not lib.llama_model_has_encoder(self._model),
            embed=None if self._embedder is None else self._embedder.can,
            state=None
            if kept is None
            else state_capabilities(
                kept,
                model=self._model,
                context=context,
                config=self._model_config,
                factors=self._rope_factors,
            ),
        )

    def _joins(self, family: Family, kept: Kept | None) -> bool:
        """Whether slices of several prompts may share a call."""
        exact = kept is not None and kept.exact and family == "plain"
        return exact and slices_keep_apart(self._headers, self._model_config)

    def _fills(self, family: Family, kept: Kept | None) -> bool:
        """Whether short slices are quicker with padding, and it can be dropped.

        llama.cpp's attention for CPUs goes by tiles of 64 rows, and with fewer row by row
        (`ggml_compute_forward_flash_attn_ext_f16` in ggml-cpu/ops.cpp). In a shared buffer padding
        would need cells that are somebody's.
        """
        config = self._config
        tiled = config.type_k == config.type_v and config.type_k in ("f16", "f32")
        flash = tiled and self._flash_attn(None if kept is None else kept.states)
        own = kept is not None and family == "plain" and not config.kv_unified
        return own and bool(flash) and not offload(self._model_config)

    @property
    def _any_context(self) -> Any:
        """The context; of an encoder, that which embeds."""
        return self._embedder.context if self._encoder and self._embedder else self._context

    def _can_truncate(self, family: Family) -> bool:
        """Whether `seq_rm` of the end of a sequence leaves what computing the rest would have.

        A window's rows are kept whole only in streams of their own: in a shared buffer, rows that
        have left the window make room for others.
        """
        if family == "sliding_window":
            return self._config.swa_full and not self._config.kv_unified
        return family == "plain"

    @property
    def _rope_factors(self) -> RopeFactors:
        return rope_factors(self._headers, self._model, self._context)

    def _family(self, *, has_memory: bool) -> Family:
        lib, model = llama(), self._model
        if self._any_context and not has_memory:
            return "encoder"
        if lib.llama_model_is_hybrid(model):
            return "hybrid"
        if lib.llama_model_is_recurrent(model):
            return "recurrent"
        return "sliding_window" if lib.llama_model_n_swa(model) > 0 else "plain"

    def _info(self, vocabulary: Vocabulary, states: States | WholeStates | None) -> EngineInfo:
        lib, model, config = llama(), self._model, self._config
        context = self._any_context
        n_layer = lib.llama_model_n_layer(model)  # 0 if vocab_only: asking for heads would abort
        return EngineInfo(
            architecture=self._meta("general.architecture"),
            name=self._meta("general.name"),
            description=self._text(lib.llama_model_desc),
            n_params=lib.llama_model_n_params(model),
            size=lib.llama_model_size(model),
            n_vocab=vocabulary.size,
            n_layer=n_layer,
            n_embd=lib.llama_model_n_embd(model),
            n_head=lib.llama_model_n_head(model) if n_layer else 0,
            n_head_kv=lib.llama_model_n_head_kv(model) if n_layer else 0,
            n_ctx_train=lib.llama_model_n_ctx_train(model),
            n_seq_allocated=lib.llama_n_seq_max(context) if context else 0,
            n_ctx_allocated=lib.llama_n_ctx_seq(context) if context else 0,
            kv_bytes=self._kv_bytes(states),
            n_ubatch=lib.llama_n_ubatch(context) if context else 0,
            n_threads=self._n_threads,
            flash_attn=self._flash_attn(states),
            type_k=config.type_k,
            type_v=config.type_v,
            chat_template=self._templates.default,
            chat_templates=self._templates.named,
            begin_token=vocabulary.begin_token,
            embeds_only=self._embeds_only(vocabulary),
            bos_token=vocabulary.bos_token,
            eos_token=vocabulary.eos_token,
            backend=build(),
            backend_tested=is_tested(bindings()),
            devices=lib.llama_print_system_info().decode(),
        )

    def _kv_bytes(self, states: States | WholeStates | None) -> int | None:
        """What the states of all sequences take."""
        if not isinstance(states, States):
            return None
        lib = llama()
        room, n_swa = self._room(self._model), lib.llama_model_n_swa(self._model)
        n_ubatch = lib.llama_n_ubatch(self._context)
        window = window_cells(room, self._config, n_swa=n_swa, n_ubatch=n_ubatch)
        return memory_bytes(states.shape, n_seq=room.n_seq, cells=room.total, window=window)

    def _flash_attn(self, states: States | WholeStates | None) -> bool | None:
        """What llama.cpp chose: with flash attention V is not transposed."""
        if not isinstance(states, States):
            return self._config.flash_attn
        section = states.shape.full or states.shape.window
        return self._config.flash_attn if section is None else not section.v_trans

    def _embeds_only(self, vocabulary: Vocabulary) -> bool:
        """Also of a model of which only the vocabulary is there."""
        arch = self._meta("general.architecture")
        causal = self._headers[0].metadata.get(f"{arch}.attention.causal")
        has_encoder = bool(llama().llama_model_has_encoder(self._model))
        return self._encoder or has_encoder or vocabulary.is_of_encoders or causal is False

    def _meta(self, key: str) -> str:
        lib = llama()
        return self._text(
            lambda model, buffer, room: lib.llama_model_meta_val_str(
                model, key.encode(), buffer, room
            )
        )

    def _text(self, read: Any) -> str:
        buffer = ctypes.create_string_buffer(1_024)
        n = read(self._model, buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace") if n >= 0 else ""

    def _decode_one(self, token: int, *, aborted: bool, keep: bool = False) -> int:
        """Decode one token, with the abort flag set or not; clear the memory again unless told not.

        Also pages the weights in, so that the first request does not have to.
        """
        lib = llama()
        if aborted:
            self._flag.set()
        else:
            self._flag.clear()
        tokens = (ctypes.c_int32 * 1)(token)
        code = int(lib.llama_decode(self._context, lib.llama_batch_get_one(tokens, 1)))
        if not keep:
            lib.llama_memory_clear(lib.llama_get_memory(self._context), True)
        self._flag.clear()
        return code


def _make_it_embed(parameters: Any, shape: EmbedShape, flag: AbortFlag) -> None:
    """Change the parameters of a context that generates into those of one that embeds."""
    parameters.n_ctx = shape.cells
    parameters.n_batch = parameters.n_ubatch = shape.rows
    parameters.n_seq_max = shape.can.n_inputs
    parameters.kv_unified = True
    parameters.embeddings = True
    parameters.pooling_type = shape.pooling_type
    parameters.abort_callback_data = flag.address


def _extents(path: pathlib.Path) -> list[Extent]:
    """The header of a file, then its tensors."""
    header = read_header(path)
    return [
        Extent(0, header.data_offset),
        *(Extent(tensor.offset, tensor.size) for tensor in header.tensors),
    ]
