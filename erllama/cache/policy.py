"""What is worth saving, and what is worth restoring. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal, NamedTuple

from msgspec import Meta

from erllama.cache.key import BLOCK_TOKENS
from erllama.cache.row import MAX_TOKENS, Form
from erllama.cache.trie import Tier
from erllama.checked import Checked
from erllama.config import GRANULE
from erllama.errors import ConfigError

Reason = Literal["cold", "continued", "finish", "evict", "shutdown"]


class CachePolicy(Checked, frozen=True, kw_only=True):
    """What of a model's work is kept in the KV cache. Lengths in tokens."""

    enabled: Annotated[bool, Meta(description="Whether anything is looked up or saved.")] = True
    min_tokens: Annotated[
        int,
        Meta(ge=1, le=1 << 24, description="Shorter contexts are not saved."),
    ] = 32
    cold_min_tokens: Annotated[
        int,
        Meta(
            ge=1, le=1 << 24, description="Shorter prompts are not saved while they are computed."
        ),
    ] = 128
    cold_max_tokens: Annotated[
        Annotated[int, Meta(ge=1, le=1 << 24)] | None,
        Meta(
            description="How much of a prompt, from its start, is saved while it is computed; "
            "None: all of it."
        ),
    ] = None
    continued_interval: Annotated[
        Annotated[int, Meta(ge=1, le=1 << 24)] | None,
        Meta(
            description="A running generation is saved after every so many tokens; "
            "None: at its end only."
        ),
    ] = 2_048
    session_resume_wait_ms: Annotated[
        float,
        Meta(
            ge=0,
            le=60_000,
            description="How long a request waits for the row of its parent_key, if that is being "
            "saved right now.",
        ),
    ] = 500.0
    block_tokens: Annotated[
        int,
        Meta(
            ge=GRANULE,
            le=MAX_TOKENS,
            multiple_of=GRANULE,
            description="Tokens of a block: a multiple of 64. Rows of another size are not found.",
        ),
    ] = BLOCK_TOKENS
    snapshot_share: Annotated[
        float,
        Meta(
            gt=0,
            le=100,
            description="Of models whose state cannot be cut: bytes of snapshots inside a prompt "
            "per byte of its attention rows.",
        ),
    ] = 0.25
    restore_margin: Annotated[
        float,
        Meta(
            gt=0,
            le=1_000,
            description="Rows are restored if that takes less than this share of the time to "
            "compute them.",
        ),
    ] = 1.0
    tiers: Annotated[
        tuple[Tier, ...],
        Meta(description="Where rows are written, the first that takes them."),
    ] = ("ram", "ram_file", "disk")
    write_through: Annotated[
        bool,
        Meta(
            description="Whether rows in memory are written to disk too, in the background, so "
            "that they outlive the process."
        ),
    ] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.tiers)) != len(self.tiers):
            raise ConfigError(f"CachePolicy.tiers: names a tier twice: {', '.join(self.tiers)}")


class Span(NamedTuple):
    """A row to be made, of the tokens from `start` up to `end`.

    Attributes:
        form: block, or tail with the logits after its last token.
        pure_end: as in `RowMeta`.
    """

    start: int
    end: int
    form: Form
    pure_end: int

    @property
    def pure(self) -> bool:
        """Whether it is a function of the tokens alone."""
        return self.pure_end == self.end


def what_to_save(
    policy: CachePolicy,
    reason: Reason,
    *,
    computed: int,
    prompt: int,
    pure_end: int,
    stored: int,
    has_logits: bool,
) -> list[Span]:
    """Which rows to make of a sequence.

    `cold` makes full blocks of the prompt as they come, and at its end what is left, with the
    logits, so that the same prompt again is an exact hit. `continued` makes full blocks only. The
    others make everything that is not stored yet.

    Args:
        reason: why now.
        computed: tokens whose rows the sequence holds.
        prompt: tokens of its prompt.
        pure_end: up to where it was computed by the exact-slicing rule from 0 on, or restored
            from rows that were.
        stored: up to where its rows are stored already, in the kind that it has.
        has_logits: the logits of the last computed token are at hand.

    Returns:
        Rows in order, without gaps, ending at `computed` or at the last full block before it.
    """
    if not policy.enabled:
        return []
    at_prompt_end = computed == prompt
    end, tail = computed, reason not in ("cold", "continued")
    if reason == "cold":
        if prompt < max(policy.cold_min_tokens, policy.min_tokens):
            return []
        limit = policy.cold_max_tokens
        end = min(computed, prompt, limit or prompt)
        tail = at_prompt_end and end == computed
    if reason != "cold" and computed < policy.min_tokens:
        return []
    block = policy.block_tokens
    spans = [
        Span(start, start + block, "block", min(pure_end, start + block))
        for start in range(stored - stored % block, end - block + 1, block)
    ]
    rest = end - end % block
    if tail and end > max(rest, stored):
        spans.append(Span(rest, end, "tail" if has_logits else "block", min(pure_end, end)))
    elif tail and has_logits and spans and spans[-1].end == end:
        spans[-1] = spans[-1]._replace(form="tail")
    return spans


def continued_due(policy: CachePolicy, *, computed: int, prompt: int, saved_at: int) -> bool:
    """Whether a running generation is to be saved now.

    Args:
        computed: tokens whose rows the sequence holds.
        prompt: tokens of its prompt.
        saved_at: `computed` at the latest save, or 0.
    """
    interval = policy.continued_interval
    if not policy.enabled or interval is None:
        return False
    return computed - max(saved_at, prompt) >= interval


def snapshot_spacing(policy: CachePolicy, *, snapshot_bytes: int, token_bytes: int) -> int:
    """How many tokens apart snapshots inside a prompt are: a multiple of 64, at least 64.

    Args:
        snapshot_bytes: of one snapshot.
        token_bytes: of one token's attention rows; 0 for a model that has none, which is then
            taken to have as many as make a snapshot weigh 512 tokens.
    """
    weight = snapshot_bytes / token_bytes if token_bytes else 512.0
    spacing = int(weight / policy.snapshot_share)
    return max(-(-spacing // GRANULE) * GRANULE, GRANULE)


def snapshot_positions(start: int, end: int, spacing: int) -> list[int]:
    """Where to take snapshots while a prompt is computed.

    At multiples of `spacing`, and at the last multiple of 64 that leaves a token to compute, so
    that the same prompt again starts there.

    Args:
        start: what is computed already; no snapshot is taken there.
        end: length of the prompt.
        spacing: as from `snapshot_spacing`.

    >>> snapshot_positions(0, 1000, 512)
    [512, 960]
    """
    last = (end - 1) // GRANULE * GRANULE
    inner = list(range(start - start % spacing + spacing, last, spacing))
    return [*inner, last] if last > start else inner


class Cost(NamedTuple):
    """Bytes to read from one tier, and how fast it was lately in bytes per second; 0: unknown."""

    n_bytes: int
    bytes_per_s: float


def worth_restoring(
    policy: CachePolicy,
    tokens: int,
    costs: Iterable[Cost],
    *,
    prefill_tokens_per_s: float,
    fixed_s: float = 0.0,
) -> bool:
    """The cost gate: whether restoring takes less time than computing.

    What was not measured yet counts as worth it: that is how it gets measured.

    Args:
        tokens: covered by the rows.
        costs: what is to be read, by tier.
        prefill_tokens_per_s: as measured lately; 0: unknown.
        fixed_s: seconds that a restore takes besides.
    """
    if tokens <= 0:
        return False
    if prefill_tokens_per_s <= 0:
        return True
    seconds = fixed_s + sum(c.n_bytes / c.bytes_per_s for c in costs if c.bytes_per_s > 0)
    return seconds < policy.restore_margin * tokens / prefill_tokens_per_s
