"""The Engine protocol: what a model actor asks of whatever computes.

Everything an engine takes and returns is plain data (msgspec-encodable structs, arrays of token
ids), so that an engine may live in this process or in another one. What it can do is declared in
`Capabilities`; nothing is probed.

Threads: `step`, `embed`, `rebuild` and `close` run on the lane (`erllama.backend.lane`), one call
at a time; `tokenize`, `detokenize`, `prepare`, `abort` and `abort_embed` may be called from any
thread at any time before `close`.
"""

from __future__ import annotations

import array
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import msgspec

from erllama.config import ContextConfig, ModelConfig, Pooling
from erllama.sampling import SamplerPlan
from erllama.sampling.effort import Pause
from erllama.types import TokenLogprobs

if TYPE_CHECKING:
    import numpy as np

Family = Literal["plain", "sliding_window", "recurrent", "hybrid", "encoder"]
StepStatus = Literal["done", "aborted", "no_slot", "failed"]
Buffer: TypeAlias = "bytes | bytearray | memoryview | np.ndarray[Any, Any]"
"""Bytes of KV rows, snapshots or logits."""


def token_array(tokens: Sequence[int]) -> array.array[int]:
    """`tokens` as one flat buffer.

    Raises:
        OverflowError: an id that does not fit 32 bits.
        TypeError: something that is not an integer.
    """
    # through an iterator, as bytes would be taken for the array's memory
    return array.array("i", tokens if isinstance(tokens, array.array) else iter(tokens))


class LayerRows(msgspec.Struct, frozen=True):
    """One layer of a token's rows: number formats, by ggml's numbers, and bytes."""

    k_type: int
    k_bytes: int
    v_type: int
    v_bytes: int


class StateCapabilities(msgspec.Struct, frozen=True, kw_only=True):
    """How the state of a sequence can be taken out and put back.

    Attributes:
        layers: of the rows of one token, which can be cut anywhere; empty: nothing can.
        snapshot: rows alone do not make a state; a snapshot taken at the same length belongs to
            them, and a state can be put back only at lengths where one was taken.
        snapshot_bytes: bytes of a snapshot, at most.
        exact: a state put back at a multiple of the granule continues bit for bit as the sequence
            that it was taken from, and so do slices of any such sizes.
        form: empty where states serve contexts of any shape; else what a context must have in
            common with the one that they came from.
        devices: what computes, with the layers that each was given; empty: the CPU alone.
        rope_factors: the set of rotary factors in force, of models that choose one by `n_ctx`.
        switches: settings of the process that change what rows are, by name.
    """

    layers: tuple[LayerRows, ...]
    snapshot: bool
    snapshot_bytes: int
    exact: bool
    form: str = ""
    devices: tuple[str, ...] = ()
    rope_factors: str = ""
    switches: tuple[tuple[str, str], ...] = ()

    @property
    def token_bytes(self) -> int:
        """Bytes of the rows of one token."""
        return sum(layer.k_bytes + layer.v_bytes for layer in self.layers)


class EmbedCapabilities(msgspec.Struct, frozen=True, kw_only=True):
    """How inputs become vectors.

    Attributes:
        pooling: how one vector is made of those of an input's tokens; never `none`.
        n_out: numbers in a vector; of `rank`, the scores of the classifier.
        n_inputs: most inputs in one call; 1 where a vector must not depend on the company.
        n_rows: most tokens in one call.
        n_input: most tokens of one input.
        whole: an input has to be in one call; else it may come in parts.
        abort: a running call can be cut short by `Engine.abort_embed`.
    """

    pooling: Pooling
    n_out: int
    n_inputs: int
    n_rows: int
    n_input: int
    whole: bool
    abort: bool


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine can do.

    Attributes:
        generate: it computes logits and samples; without, it can only tokenize.
        abort: a running step can be cut short by `Engine.abort`.
        n_seq_max: sequences side by side.
        n_ctx: longest context of one sequence, in tokens.
        n_batch: most rows in one step.
        n_joint: most rows in a step with slices of several prompts; 0: each has its own step, or
            its numbers would depend on the others.
        fills: a slice can be computed with rows of padding behind it (`Prefill.fill`).
        granule: prompts are cut at multiples of this many rows, so that the numbers do not
            depend on the cutting (docs/exact-slicing.md).
        family: how the model keeps its state.
        truncate: tokens can be dropped from the end of a sequence in place (`Begin.keep`); of a
            sliding-window model never below the length that was restored, as what the window
            held before it is gone.
        deterministic: decode rows do not depend on what else is running
            (`ContextConfig.deterministic`).
        state: how states can be saved and restored; None: they cannot.
        embed: how it embeds; None: it cannot.
        adapters: LoRA adapters can be loaded, and be in force for some steps and not for others.
    """

    generate: bool
    abort: bool
    n_seq_max: int
    n_ctx: int
    n_batch: int
    n_joint: int = 0
    fills: bool = False
    granule: int
    family: Family
    truncate: bool
    deterministic: bool
    state: StateCapabilities | None = None
    embed: EmbedCapabilities | None = None
    adapters: bool = False


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a loaded model. Sizes in bytes, lengths in tokens.

    Attributes:
        n_seq_allocated: sequences that memory is held for; above `Capabilities.n_seq_max`, they
            are padding.
        n_ctx_allocated: cells of one sequence; where they are shared, of all.
        kv_bytes: memory held for the states of all sequences; None: not known for this model.
        backend: the build of what computes; no two builds share it.
        backend_tested: whether erllama was tested on this release of it.
        chat_template: the one that chats are written with; None: it has none.
        chat_templates: others, by the names that the file gives them.
        begin_token: what a context begins with, as the model was trained; None: nothing.
        embeds_only: an encoder: it goes on from no text, so texts have their end marked as well.
    """

    architecture: str
    name: str
    description: str
    n_params: int
    size: int
    n_vocab: int
    n_layer: int
    n_embd: int
    n_head: int
    n_head_kv: int
    n_ctx_train: int
    n_seq_allocated: int
    n_ctx_allocated: int
    kv_bytes: int | None
    n_ubatch: int
    n_threads: int
    flash_attn: bool | None
    type_k: str
    type_v: str
    chat_template: str | None
    bos_token: str
    eos_token: str
    backend: str
    devices: str
    backend_tested: bool = True
    chat_templates: dict[str, str] = {}
    begin_token: int | None = None
    embeds_only: bool = False

    @property
    def templates(self) -> tuple[str, ...]:
        """All chat templates, that for chats with tools before the others."""
        named = dict(self.chat_templates)
        first = (named.pop("tool_use", None), self.chat_template)
        return (*(one for one in first if one is not None), *named.values())


class Begin(msgspec.Struct, frozen=True):
    """Give sequence `seq` a sampler, and say how many of the tokens it holds stay.

    Attributes:
        keep: 0: its cells are emptied; as many as they hold: all stay; fewer: the rest is dropped
            from the end, where `Capabilities.truncate`.
        history: the whole context before the first draw, where `SamplerPlan.needs_history`:
            penalties, DRY and grammars are functions of it.
        grammar_from: where in `history` the text begins that the grammar rules: at its end, or,
            of a generation that goes on, behind the prompt.
        mu: mirostat's state, of a generation that goes on: that of its latest `Sampled`.
    """

    seq: int
    sampler: SamplerPlan
    keep: int = 0
    history: array.array[int] = msgspec.field(default_factory=lambda: array.array("i"))
    grammar_from: int = 0
    mu: float | None = None


class Prefill(msgspec.Struct, frozen=True):
    """Compute `tokens` of sequence `seq` from position `pos` on.

    Attributes:
        logits: the last row's logits are kept, so that a token can be drawn from them.
        greedy: for so many rows at the end the likeliest token is reported; then it is the only
            slice of its plan.
        fill: rows of padding that are computed behind it and dropped, where `Capabilities.fills`:
            some kernels take more time for fewer rows. Then it is the only slice of its plan.
    """

    seq: int
    pos: int
    tokens: array.array[int]
    logits: bool
    greedy: int = 0
    fill: int = 0


class Row(msgspec.Struct, frozen=True):
    """Compute one token of a sequence and keep its logits."""

    seq: int
    pos: int
    token: int


class Draw(msgspec.Struct, frozen=True):
    """Sample the next token of `seq` with this draw's seed.

    From the logits of this step; or from `logits`, float32 for each token of the vocabulary, that
    an earlier step gave out for the same tokens.

    Attributes:
        greedy: take the likeliest token that the sampler's bans, penalties and grammar leave.
        forced: the token, whatever the logits say; the sampler goes on behind it.
    """

    seq: int
    seed: int
    logits: Buffer | None = None
    greedy: bool = False
    forced: int | None = None


class AdapterUse(msgspec.Struct, frozen=True, order=True):
    """A LoRA adapter that is in force, and how strongly.

    Attributes:
        id: the number that it was loaded under.
        sha256: of its file.
    """

    id: int
    sha256: str
    scale: float


class StepPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One step: end sequences, begin sequences, compute once, sample.

    A plan has slices of prompts or decode rows, never both: one call with both would be computed
    as two graphs cut at another place, and the numbers would depend on the company. Slices share a
    plan where each is then what it would be alone (docs/exact-slicing.md): all of one length, which
    is a multiple of the granule or between 2 rows and one granule, of sequences that follow one
    another, `Capabilities.n_joint` rows in all, without adapters.

    Attributes:
        number: rises from step to step; what `Engine.abort` refers to.
        end: sequences whose cells and sampler are given up, before anything else.
        slices: in rising order of their sequences.
        keep_logits: give out the logits of the last row of each slice that has any.
        adapters: in force for all rows of the step.
    """

    number: int
    end: tuple[int, ...] = ()
    begin: tuple[Begin, ...] = ()
    slices: tuple[Prefill, ...] = ()
    rows: tuple[Row, ...] = ()
    draws: tuple[Draw, ...] = ()
    keep_logits: bool = False
    adapters: tuple[AdapterUse, ...] = ()

    @property
    def prefill(self) -> Prefill | None:
        """The first slice, which is nearly always the only one; None: there is none."""
        return self.slices[0] if self.slices else None

    @property
    def n_rows(self) -> int:
        """Rows that are computed, of slices or to decode, padding included."""
        if not self.slices:
            return len(self.rows)
        return sum(len(one.tokens) + one.fill for one in self.slices)


class Sampled(msgspec.Struct, frozen=True):
    """A drawn token, its bytes, and whether it ends the generation.

    Attributes:
        piece: empty for a control token, which says nothing.
        logprobs: what `SamplerPlan.logprobs` asked for.
        mu: mirostat's state after the draw; None without mirostat.
        special: the text of a control token, in UTF-8.
    """

    seq: int
    token: int
    piece: bytes
    end: bool
    logprobs: TokenLogprobs | None = None
    mu: float | None = None
    special: bytes = b""


class StepOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a step.

    Attributes:
        status: `done`; `aborted` (by `abort`); `no_slot` (the cells do not suffice,
            nothing was computed; `end` and `begin` hold); `failed` (`detail` says why).
        positions: for each sequence of the plan, how many tokens its cells now hold. After an
            abort some decode rows of a step may be in the cells, without logits, others not.
        failures: sequences from whose logits no token came, and why: not finite, or the sampler
            raised or chose nothing. The others of the step were drawn all the same, and the
            status is `done`.
        greedy: what `Prefill.greedy` asked for: for each of these rows the token of the largest
            raw logit, of equal ones the lowest id.
        elapsed_ns: time on the lane.
        logits: what `StepPlan.keep_logits` asked for, float32, by sequence.
    """

    number: int
    status: StepStatus
    positions: dict[int, int]
    sampled: tuple[Sampled, ...] = ()
    failures: dict[int, str] = {}
    greedy: tuple[int, ...] = ()
    detail: str = ""
    elapsed_ns: int = 0
    logits: dict[int, Buffer] = {}


class EmbedPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Inputs to embed together; or a part of one.

    Attributes:
        number: rises from call to call; what `Engine.abort_embed` refers to.
        inputs: token ids of each.
        pos: where the part lies in its input: behind the part of the latest call. 0: what was
            begun is forgotten.
        more: the input goes on behind this part, and there is no vector yet.
        adapters: in force for all of it.
    """

    number: int
    inputs: tuple[array.array[int], ...]
    pos: int = 0
    more: bool = False
    adapters: tuple[AdapterUse, ...] = ()


class EmbedOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of inputs.

    Attributes:
        status: `done`; `aborted` (by `abort_embed`); `failed` (`detail` says why).
        vectors: of each input in their order, `EmbedCapabilities.n_out` numbers of float32, as the
            model gave them: not normalised, perhaps not finite. None if `EmbedPlan.more`.
        elapsed_ns: time on the lane.
    """

    number: int
    status: StepStatus
    vectors: tuple[Buffer, ...] = ()
    detail: str = ""
    elapsed_ns: int = 0


class SavedState(msgspec.Struct, frozen=True):
    """What was taken out of a sequence.

    Attributes:
        rows: for each range that was asked for, the rows of its tokens in canonical form: for
            each layer the K rows, then for each layer the V rows.
        snapshot: what rows do not hold, if it was asked for.
        elapsed_ns: time on the lane.
    """

    rows: tuple[Buffer, ...]
    snapshot: Buffer | None
    elapsed_ns: int = 0


class Frame(Protocol):
    """The state of a sequence of known length, to be filled off the lane and restored on it."""

    @property
    def nbytes(self) -> int:
        """Bytes of the whole state."""

    def put_rows(self, start: int, rows: Buffer, n_rows: int, n: int) -> None:
        """Put the first `n` of `n_rows` canonical rows at token `start`."""

    def segments(self, start: int, stop: int) -> list[memoryview] | None:
        """Where the canonical rows of tokens `start` to `stop` lie, in their order.

        What is read into them one after the other needs no `put_rows`. None: they are scattered.
        """

    def put_snapshot(self, snapshot: Buffer) -> None:
        """Put a snapshot in place, which was taken at this length."""


class Engine(Protocol):
    """One loaded model with one context."""

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def info(self) -> EngineInfo: ...

    def step(self, plan: StepPlan) -> StepOutcome:
        """Carry out `plan`. On the lane only.

        Raises:
            DecodeFailed: the plan breaks a rule (ids, sizes, positions); nothing was computed.
        """

    def embed(self, plan: EmbedPlan) -> EmbedOutcome:
        """Embed inputs, beside the sequences, which do not notice. On the lane only.

        Raises:
            NotSupported: `capabilities.embed` is None.
            DecodeFailed: the plan breaks a rule (ids, sizes, positions); nothing was computed.
        """

    def abort_embed(self, number: int) -> None:
        """As `abort`, of the call of `embed` of this number."""

    def abort(self, number: int) -> None:
        """Cut short the step of this number, running or yet to come; a finished one: nothing."""

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> array.array[int]:
        """Token ids of `text`."""

    def prepare(self, sampler: SamplerPlan, pause: Pause | None = None) -> None:
        """Check a sampler against the vocabulary, and do what takes time before `Begin` has it.

        From any thread but the event loop's: compiling a grammar may take a second. A sampler
        that was not prepared works as well, but then the lane does the work, and an error ends
        the sequence's first draw.

        Args:
            pause: called every now and then; an exception of it ends the work.

        Raises:
            RequestError: a token that the vocabulary does not have; `InvalidGrammar`.
        """

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Text of `tokens`, special tokens rendered.

        Raises:
            RequestError: an id outside the vocabulary.
        """

    def save(
        self,
        seq: int,
        ranges: Sequence[tuple[int, int]],
        *,
        snapshot: bool,
        end: int | None = None,
        drop: bool = False,
    ) -> SavedState:
        """Copies of the rows of token ranges of a sequence, and its snapshot. On the lane only.

        Args:
            end: how many tokens the snapshot is of. Where the sequence holds others there is none:
                a snapshot is of all that a sequence holds.
            drop: drop what the sequence holds behind `end` first.

        Raises:
            NotSupported: `capabilities.state` is None.
            DecodeFailed: a range that the sequence does not hold.
        """

    def frame(self, seq: int, n: int) -> Frame:
        """An empty state of `n` tokens for sequence `seq`. From any thread.

        Raises:
            NotSupported: `capabilities.state` is None.
        """

    def restore(self, seq: int, frame: Frame) -> None:
        """Make a filled frame the state of `seq`, in place of what it holds. On the lane only.

        Raises:
            DecodeFailed: the engine did not take it; the sequence is empty then.
        """

    def check_adapter(self, path: str) -> None:
        """Look whether the file of an adapter fits the model. From any thread but the loop's.

        Raises:
            NotSupported: `capabilities.adapters` is False.
            ModelLoadError: it cannot be read, or does not fit.
        """

    def load_adapter(self, number: int, path: str) -> None:
        """Load an adapter, which `check_adapter` has found good, under a number. On the lane only.

        Raises:
            ModelLoadError: with what the backend said.
            DecodeFailed: the engine is closed, or the number taken.
        """

    def free_adapter(self, number: int) -> None:
        """Forget an adapter; one that is not there: nothing. On the lane only."""

    def rebuild(self) -> None:
        """Make the context anew, with every sequence empty and without sampler. On the lane only.

        For a context that nobody knows the state of, as a step had to be given up in it.

        Raises:
            ModelLoadError: the context cannot be made; the engine can only be rebuilt or closed.
            DecodeFailed: the engine is closed.
        """

    def close(self) -> None:
        """Free everything, in order; a second call does nothing. On the lane only."""


Progress = Callable[[float], bool]
"""Told the share done, 0 to 1; returns False to give up loading."""


class FingerprintMemory(Protocol):
    """Remembers what takes long to find out of a model; see `erllama.backend.fingerprint`."""

    def recall(self, key: str) -> str | None: ...

    def remember(self, key: str, fingerprint: str) -> None: ...


class Loading(Protocol):
    """How an engine comes to be, in parts for two threads."""

    def fingerprint(self, memory: FingerprintMemory, progress: Progress) -> str:
        """What identifies the model's bytes. On a low-priority worker.

        Raises:
            ModelLoadError: a file cannot be read, or `progress` gave up.
        """

    def load(self, progress: Progress) -> None:
        """Read the weights and make the context. On a low-priority worker, never on the lane.

        Raises:
            ModelLoadError: with what the backend said.
        """

    def prepare(self) -> bool:
        """A part of the first computation and self-tests; returns whether there is more.

        On the lane, after `load`; what is computing besides goes on between the parts.

        Raises:
            ModelLoadError: the model cannot compute.
        """

    def warm_up(self) -> Engine:
        """The engine, after what is left to prepare. On the lane.

        Raises:
            ModelLoadError: the model cannot compute.
        """

    def discard(self) -> None:
        """Free what was loaded, if `warm_up` did not hand it on. On the lane."""


class Backend(Protocol):
    """A way to run models."""

    def open(self, path: str, model: ModelConfig, context: ContextConfig) -> Loading:
        """Prepare loading, on a worker of normal priority; takes no memory yet."""
