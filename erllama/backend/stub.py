"""An engine without a model: deterministic, immediate, and strict about the protocol.

Its "language": byte-level tokens (ids 0 to 255 are bytes, 256 ends a generation, 257 begins a
text). The next token is a hash of the tokens so far, mapped to a lower-case letter or, now and
then, a space; so text depends on every token before it, as with a real model, and on nothing else.
Ships with erllama for tests of programs that use it.
"""

from __future__ import annotations

import array
import hashlib
import pathlib
import threading
import time
from collections.abc import Callable, Sequence

from erllama.backend.aborts import Aborts
from erllama.backend.base import (
    AdapterUse,
    Buffer,
    Capabilities,
    Draw,
    EmbedCapabilities,
    EmbedOutcome,
    EmbedPlan,
    EngineInfo,
    FingerprintMemory,
    Frame,
    LayerRows,
    Progress,
    Sampled,
    SavedState,
    StateCapabilities,
    StepOutcome,
    StepPlan,
    StepStatus,
    token_array,
)
from erllama.backend.embed_check import check_embed
from erllama.backend.plan_check import check_plan, sequences
from erllama.config import GRANULE, ContextConfig, ModelConfig
from erllama.errors import DecodeFailed, EngineError, ModelLoadError, RequestError
from erllama.sampling import SamplerPlan, check_biases
from erllama.sampling.effort import Pause
from erllama.sampling.structure import check_structure

END, BEGIN = 256, 257
N_VOCAB = 258
_TOKEN_BYTES = 4
_N_EMBD = 32
_NO_SEED = -1
_LETTERS = b"abcdefghijklmnopqrstuvwxyz    "


class StubBackend:
    """Opens stubs.

    Args:
        row_s: seconds that a row takes to "compute".
        on_step: called on the lane before each step; may raise, to play a failing engine.
        on_load: called on the worker while loading; may raise.
        on_draw: called on the lane before each draw; may raise, to play logits that no token can
            be drawn from.
        on_embed: called on the lane before each call of `embed`; may raise.
        on_rebuild: called on the lane before each `rebuild`; may raise.
        on_save: called on the lane with the sequence before each `save`; may raise.
        on_restore: called on the lane with the sequence before each `restore`; may raise.
        on_decode: called on the lane before the rows of a step are computed; may give the status
            that it ends with in their place, to play a `llama_decode` that refuses them.
        cells: tokens that all sequences hold together, as in a unified cache; None: n_ctx each.
        row_ns: what each row is said to have taken; None: what the step took.
        end_after: sampled tokens after which every generation ends by itself; None: never.
        joint: slices of several prompts may share a step.
        fills: slices may have padding.
    """

    def __init__(
        self,
        *,
        row_s: float = 0.0,
        on_step: Callable[[StepPlan], None] | None = None,
        on_load: Callable[[str], None] | None = None,
        on_draw: Callable[[Draw], None] | None = None,
        on_embed: Callable[[EmbedPlan], None] | None = None,
        on_rebuild: Callable[[], None] | None = None,
        on_save: Callable[[int], None] | None = None,
        on_restore: Callable[[int], None] | None = None,
        on_decode: Callable[[StepPlan], StepStatus | None] | None = None,
        cells: int | None = None,
        row_ns: int | None = None,
        end_after: int | None = None,
        joint: bool = False,
        fills: bool = False,
    ) -> None:
        self.row_s = row_s
        self.on_step = on_step
        self.on_load = on_load
        self.on_draw = on_draw
        self.on_embed = on_embed
        self.on_rebuild = on_rebuild
        self.on_save = on_save
        self.on_restore = on_restore
        self.on_decode = on_decode
        self.cells = cells
        self.row_ns = row_ns
        self.end_after = end_after
        self.joint = joint
        self.fills = fills
        self.engines: list[StubEngine] = []

    def open(self, path: str, model: ModelConfig, context: ContextConfig) -> StubLoading:
        return StubLoading(self, path, model, context)


class StubLoading:
    """See `erllama.backend.base.Loading`."""

    def __init__(
        self, backend: StubBackend, path: str, model: ModelConfig, context: ContextConfig
    ) -> None:
        self._backend = backend
        self._path = path
        self._model = model
        self._context = context
        self.discarded = False

    def fingerprint(self, memory: FingerprintMemory, progress: Progress) -> str:
        return self._model.fingerprint or hashlib.sha256(self._path.encode()).hexdigest()

    def load(self, progress: Progress) -> None:
        if self._backend.on_load is not None:
            self._backend.on_load(self._path)
        for tenth in range(11):
            if not progress(tenth / 10):
                raise ModelLoadError(f"{self._path}: loading was given up")

    def prepare(self) -> bool:
        return False

    def warm_up(self) -> StubEngine:
        engine = StubEngine(self._backend, self._model, self._context)
        self._backend.engines.append(engine)
        return engine

    def discard(self) -> None:
        self.discarded = True


class StubFrame:
    """See `erllama.backend.base.Frame`: the ids of the tokens, four bytes each."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.cells = bytearray(_TOKEN_BYTES * n)

    @property
    def nbytes(self) -> int:
        return len(self.cells)

    def put_rows(self, start: int, rows: Buffer, n_rows: int, n: int) -> None:
        view = self.segments(start, start + n)[0]
        view[:] = bytes(rows)[: _TOKEN_BYTES * n]

    def segments(self, start: int, stop: int) -> list[memoryview]:
        return [memoryview(self.cells)[_TOKEN_BYTES * start : _TOKEN_BYTES * stop]]

    def put_snapshot(self, snapshot: Buffer) -> None:
        raise DecodeFailed("a stub's state has no snapshots")


class StubEngine:
    """See `erllama.backend.base.Engine`."""

    def __init__(self, backend: StubBackend, model: ModelConfig, context: ContextConfig) -> None:
        self._backend = backend
        self._cells: list[list[int]] = [[] for _ in range(context.n_seq_max)]
        self._samplers: dict[int, SamplerPlan] = {}
        self._drawn: dict[int, int] = {}
        self._given: dict[int, Buffer] = {}
        self._abort = threading.Event()
        self._aborts = Aborts(self._abort)
        self._embed_abort = threading.Event()
        self._embed_aborts = Aborts(self._embed_abort)
        self._input: list[int] = []
        self._adapters: dict[int, str] = {}
        self._in_force: tuple[AdapterUse, ...] = ()
        self.closed = False
        self.capabilities = Capabilities(
            generate=not model.vocab_only,
            abort=True,
            n_seq_max=context.n_seq_max,
            n_ctx=context.n_ctx or 4_096,
            n_batch=context.n_batch,
            n_joint=context.n_ubatch if backend.joint else 0,
            fills=backend.fills,
            granule=GRANULE,
            family="plain",
            truncate=True,
            deterministic=context.deterministic,
            state=StateCapabilities(
                layers=(LayerRows(0, _TOKEN_BYTES, 0, 0),),
                snapshot=False,
                snapshot_bytes=0,
                exact=True,
            ),
            adapters=not model.vocab_only,
            embed=_embed_capabilities(context) if context.embeddings else None,
        )
        self.info = _info(model, context)

    def step(self, plan: StepPlan) -> StepOutcome:
        started = time.perf_counter_ns()
        self._check(plan)
        aborted = self._aborts.enter(plan.number)
        if self._backend.on_step is not None:
            self._backend.on_step(plan)
        self._end_and_begin(plan)
        self._in_force = plan.adapters
        status: StepStatus = "aborted" if aborted else self._compute(plan)
        done = status == "done"
        self._given = {draw.seq: draw.logits for draw in plan.draws if draw.logits is not None}
        failures: dict[int, str] = {}
        sampled = self._draw_all(plan.draws, failures) if done else ()
        return StepOutcome(
            number=plan.number,
            status=status,
            positions={seq: len(self._cells[seq]) for seq in sequences(plan)},
            sampled=sampled,
            failures=failures,
            greedy=self._greedy(plan) if done else (),
            detail="" if done else f"the stub ends its step as {status!r}",
            elapsed_ns=self._elapsed(plan, started),
            logits=self._logits(plan) if plan.keep_logits and done else {},
        )

    def _elapsed(self, plan: StepPlan, started: int) -> int:
        if self._backend.row_ns is None:
            return time.perf_counter_ns() - started
        return plan.n_rows * self._backend.row_ns

    def embed(self, plan: EmbedPlan) -> EmbedOutcome:
        started = time.perf_counter_ns()
        if self.closed:
            raise DecodeFailed("the engine is closed")
        can = check_embed(
            plan,
            can=self.capabilities.embed,
            n_vocab=N_VOCAB,
            held=len(self._input),
            adapters=self._adapters,
        )
        aborted = self._embed_aborts.enter(plan.number)
        if self._backend.on_embed is not None:
            self._backend.on_embed(plan)
        rows = sum(map(len, plan.inputs))
        if aborted or self._embed_abort.wait(rows * self._backend.row_s):
            self._input = []
            return EmbedOutcome(number=plan.number, status="aborted", detail="aborted")
        begun = self._input[: plan.pos]
        inputs = [[*begun, *tokens] for tokens in plan.inputs]
        self._input = inputs[0] if plan.more else []
        return EmbedOutcome(
            number=plan.number,
            status="done",
            vectors=()
            if plan.more
            else tuple(_vector(tokens, can.n_out, plan.adapters) for tokens in inputs),
            elapsed_ns=time.perf_counter_ns() - started,
        )

    def abort_embed(self, number: int) -> None:
        self._embed_aborts.abort(number)

    def abort(self, number: int) -> None:
        self._aborts.abort(number)

    def save(
        self,
        seq: int,
        ranges: Sequence[tuple[int, int]],
        *,
        snapshot: bool,
        end: int | None = None,
        drop: bool = False,
    ) -> SavedState:
        started = time.perf_counter_ns()
        self._check_seq(seq)
        if self._backend.on_save is not None:
            self._backend.on_save(seq)
        cells = self._cells[seq]
        if drop and end:
            del cells[end:]
        snapshot = snapshot and end in (None, len(cells))
        for start, stop in ranges:
            if not 0 <= start < stop <= len(cells):
                raise DecodeFailed(f"sequence {seq} holds {len(cells)} tokens, not {start}:{stop}")
        rows = tuple(token_array(cells[start:stop]).tobytes() for start, stop in ranges)
        elapsed = time.perf_counter_ns() - started
        return SavedState(rows=rows, snapshot=b"" if snapshot else None, elapsed_ns=elapsed)

    def frame(self, seq: int, n: int) -> StubFrame:
        self._check_seq(seq)
        return StubFrame(n)

    def restore(self, seq: int, frame: Frame) -> None:
        self._check_seq(seq)
        if not isinstance(frame, StubFrame) or frame.n > self.capabilities.n_ctx:
            raise DecodeFailed(f"a frame of another engine, or over n_ctx, for sequence {seq}")
        if self._backend.on_restore is not None:
            self._backend.on_restore(seq)
        self._cells[seq] = []
        if not self._fits(frame.n):
            raise DecodeFailed(f"no cells for {frame.n} tokens of sequence {seq}")
        self._cells[seq] = list(array.array("i", bytes(frame.cells)))

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> array.array[int]:
        if self.closed:
            raise EngineError("the model was unloaded")
        try:
            tokens = token_array(text.encode())
        except UnicodeEncodeError:
            raise RequestError("prompt: has half of a surrogate pair; remove it") from None
        if add_special:
            tokens.insert(0, BEGIN)
        return tokens

    def prepare(self, sampler: SamplerPlan, pause: Pause | None = None) -> None:
        check_biases(sampler, N_VOCAB)
        if sampler.grammar is not None:
            check_structure(sampler.grammar, pause)

    def detokenize(self, tokens: Sequence[int]) -> str:
        if self.closed:
            raise EngineError("the model was unloaded")
        for token in tokens:
            if not 0 <= token < N_VOCAB:
                raise RequestError(
                    f"prompt: token id {token} is not in the vocabulary; ids go from 0 to "
                    f"{N_VOCAB - 1}"
                )
        return bytes(token for token in tokens if token < END).decode("utf-8", "replace")

    def check_adapter(self, path: str) -> None:
        if not pathlib.Path(path).is_file():
            raise ModelLoadError(f"{path}: no such file; check the path")

    def load_adapter(self, number: int, path: str) -> None:
        if self.closed:
            raise DecodeFailed("the engine is closed")
        if number in self._adapters:
            raise DecodeFailed(f"adapter {number} is loaded already")
        self._adapters[number] = path

    def free_adapter(self, number: int) -> None:
        self._adapters.pop(number, None)

    def rebuild(self) -> None:
        if self.closed:
            raise DecodeFailed("the engine is closed")
        if self._backend.on_rebuild is not None:
            self._backend.on_rebuild()
        self._cells = [[] for _ in self._cells]
        self._samplers.clear()

    def close(self) -> None:
        self.closed = True

    def _end_and_begin(self, plan: StepPlan) -> None:
        for seq in plan.end:
            self._cells[seq] = []
            self._samplers.pop(seq, None)
        for begin in plan.begin:
            del self._cells[begin.seq][begin.keep :]
            self._samplers[begin.seq] = begin.sampler
            self._drawn[begin.seq] = 0

    def _compute(self, plan: StepPlan) -> StepStatus:
        """Take the rows in, unless the step is aborted or refused."""
        if not self._fits(plan.n_rows):
            return "no_slot"
        refused = self._backend.on_decode(plan) if self._backend.on_decode is not None else None
        if refused is not None:
            return refused
        if self._abort.is_set() or self._abort.wait(plan.n_rows * self._backend.row_s):
            return "aborted"
        for one in plan.slices:
            self._cells[one.seq] += one.tokens
        for row in plan.rows:
            self._cells[row.seq].append(row.token)
        return "done"

    def _fits(self, rows: int) -> bool:
        cells = self._backend.cells
        return cells is None or sum(map(len, self._cells)) + rows <= cells

    def _logits(self, plan: StepPlan) -> dict[int, Buffer]:
        """A float32 for each token; the first ones are the bytes of the hash of the tokens."""
        digests = {one.seq: self._key(self._cells[one.seq]) for one in plan.slices if one.logits}
        return {
            seq: array.array("f", [*digest, *bytes(N_VOCAB - len(digest))]).tobytes()
            for seq, digest in digests.items()
        }

    def _greedy(self, plan: StepPlan) -> tuple[int, ...]:
        if plan.prefill is None:
            return ()
        cells = self._cells[plan.prefill.seq]
        ends = range(len(cells) - plan.prefill.greedy + 1, len(cells) + 1)
        return tuple(_letter(self._key(cells[:end])) for end in ends)

    def _check_seq(self, seq: int) -> None:
        if self.closed:
            raise DecodeFailed("the engine is closed")
        if not 0 <= seq < self.capabilities.n_seq_max:
            raise DecodeFailed(
                f"sequence {seq}: ids go from 0 to {self.capabilities.n_seq_max - 1}"
            )

    def _draw_all(self, draws: Sequence[Draw], failures: dict[int, str]) -> tuple[Sampled, ...]:
        sampled = []
        for draw in draws:
            try:
                if self._backend.on_draw is not None:
                    self._backend.on_draw(draw)
                sampled.append(self._chosen(draw))
            except Exception as error:  # whatever it is, it concerns this sequence alone
                failures[draw.seq] = str(error)
        return tuple(sampled)

    def _chosen(self, draw: Draw) -> Sampled:
        if draw.forced is None:
            return self._sample(draw.seq, _NO_SEED if draw.greedy else draw.seed)
        self._drawn[draw.seq] += 1
        piece = bytes([draw.forced]) if draw.forced < END else b""
        return Sampled(draw.seq, draw.forced, piece, draw.forced == END)

    def _sample(self, seq: int, seed: int) -> Sampled:
        self._drawn[seq] += 1
        if self._drawn[seq] == self._backend.end_after:
            return Sampled(seq=seq, token=END, piece=b"", end=True)
        given = self._given.get(seq)
        key = self._key(self._cells[seq]) if given is None else _digest_of(given)
        if self._samplers[seq].draws and seed != _NO_SEED:
            key += seed.to_bytes(4, "little")
        token = _letter(key)
        return Sampled(seq=seq, token=token, piece=bytes([token]), end=False)

    def _check(self, plan: StepPlan) -> None:
        if self.closed:
            raise DecodeFailed("the engine is closed")
        check_plan(
            plan,
            capabilities=self.capabilities,
            n_vocab=N_VOCAB,
            held=[len(cells) for cells in self._cells],
            samplers=self._samplers,
            least=[0] * len(self._cells),
            adapters=self._adapters,
        )

    def _key(self, tokens: Sequence[int]) -> bytes:
        """The hash of the tokens and of what is in force."""
        return _digest(tokens, self._in_force)


def _embed_capabilities(context: ContextConfig) -> EmbedCapabilities:
    pooling = "last" if context.pooling in (None, "none") else context.pooling
    return EmbedCapabilities(
        pooling=pooling,
        n_out=1 if pooling == "rank" else _N_EMBD,
        n_inputs=1 if context.deterministic else context.n_seq_max,
        n_rows=min(context.n_ubatch, context.n_batch),
        n_input=context.n_ctx or 4_096,
        whole=False,
        abort=True,
    )


def _vector(tokens: Sequence[int], n: int, adapters: Sequence[AdapterUse]) -> bytes:
    """The first bytes of the hash of tokens and adapters, from -1 to 1, in float32."""
    hashed = _digest(tokens, adapters)
    return array.array("f", [byte / 127.5 - 1 for byte in hashed[:n]]).tobytes()


def _digest(tokens: Sequence[int], adapters: Sequence[AdapterUse] = ()) -> bytes:
    digest = hashlib.sha256(token_array(tokens).tobytes()).digest()
    for use in adapters:
        digest = hashlib.sha256(digest + repr((use.sha256, use.scale)).encode()).digest()
    return digest


def _letter(key: bytes) -> int:
    return _LETTERS[hashlib.sha256(key).digest()[0] % len(_LETTERS)]


def _digest_of(logits: Buffer) -> bytes:
    values = array.array("f", bytes(logits))
    return bytes(int(value) for value in values[:32])


def _info(model: ModelConfig, context: ContextConfig) -> EngineInfo:
    return EngineInfo(
        architecture="stub",
        name="stub",
        description="deterministic stub",
        n_params=0,
        size=0,
        n_vocab=N_VOCAB,
        n_layer=0,
        n_embd=0,
        n_head=0,
        n_head_kv=0,
        n_ctx_train=0,
        n_seq_allocated=context.n_seq_max,
        n_ctx_allocated=context.n_ctx or 4_096,
        kv_bytes=None,
        n_ubatch=context.n_ubatch,
        n_threads=1,
        flash_attn=None,
        type_k=context.type_k,
        type_v=context.type_v,
        chat_template=model.chat_template,
        bos_token="",
        eos_token="",
        backend="stub",
        devices="",
        begin_token=BEGIN,
    )
