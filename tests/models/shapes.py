"""The sizes of a random model, one class per architecture of llama.cpp.

A shape knows what its file must hold: the hyperparameters (`hparams`, the keys of
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md without their architecture prefix) and
the tensors (`tensors`), both as src/models/<architecture>.cpp of llama.cpp reads them.

Weights are scaled so that the logits have a standard deviation of about 2 and depend on the whole
context: queries and keys are large enough for attention to pick rows out rather than average
them, and embeddings are small beside what the layers add, lest a tied output layer repeat its
input. The rows of the output layer that belong to tokens ending a generation are zero: such a
token has the logit 0 where the greatest is 5 or more, so greedy decoding never ends by chance.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, TypeAlias

from .tensors import (
    Tensor,
    bias,
    convolution,
    embedding,
    matrix,
    norm,
    small,
    ssm_decay,
    ssm_skip,
    ssm_time_step_bias,
)
from .vocabulary import Vocabulary, VocabularyKind, make_vocabulary

HParam: TypeAlias = int | float | bool | str | list[int]
Pooling: TypeAlias = Literal["none", "mean", "cls", "rank"]

EMBEDDING_STD = 0.5
LOGIT_STD = 2.0
ATTENTION_SHARPNESS = 4.0
"""Standard deviation of the attention scores before the softmax."""

NORM_EPSILON = 1e-5
POOLING_TYPES: dict[Pooling, int] = {"none": 0, "mean": 1, "cls": 2, "rank": 4}
"""`llama_pooling_type` in llama.h."""


@dataclass(frozen=True, kw_only=True)
class Shape(ABC):
    """What all architectures have.

    Args:
        n_embd: width of the residual stream.
        n_layer: number of layers.
        n_vocab: number of tokens in the vocabulary.
        n_ctx_train: context length that the file announces, in tokens.
        vocabulary: the tokenizer, as `tokenizer.ggml.model` spells it.
    """

    arch: ClassVar[str]

    n_embd: int = 128
    n_layer: int = 4
    n_vocab: int = 512
    n_ctx_train: int = 8192
    vocabulary: VocabularyKind = "gpt2"

    def make_vocabulary(self) -> Vocabulary:
        """The vocabulary, of `n_vocab` tokens."""
        return make_vocabulary(self.vocabulary, self.n_vocab)

    def hparams(self) -> dict[str, HParam]:
        """Hyperparameters by key, the keys without the architecture's prefix."""
        return {
            "context_length": self.n_ctx_train,
            "embedding_length": self.n_embd,
            "block_count": self.n_layer,
        }

    def tensors(self) -> Iterator[Tensor]:
        """The tensors in the order of the file."""
        yield from self.input_tensors()
        for layer in range(self.n_layer):
            yield from self.layer_tensors(layer)
        yield from self.output_tensors()

    def input_tensors(self) -> Iterator[Tensor]:
        """What stands before the first layer."""
        yield embedding("token_embd", self.n_embd, self.n_vocab, EMBEDDING_STD)

    @abstractmethod
    def layer_tensors(self, layer: int) -> Iterator[Tensor]:
        """What one layer holds."""

    def output_tensors(self) -> Iterator[Tensor]:
        """What stands after the last layer."""
        yield norm("output_norm", self.n_embd)
        yield self.output_matrix()

    def output_matrix(self) -> Tensor:
        """The output layer, not tied to the embeddings."""
        end = self.make_vocabulary().end_of_generation
        return matrix("output", self.n_embd, self.n_vocab, gain=LOGIT_STD, zero_rows=end)


@dataclass(frozen=True, kw_only=True)
class Transformer(Shape):
    """What the architectures with attention have.

    Args:
        n_head: number of query heads; `n_embd / n_head` is the width of each.
        n_head_kv: number of key and value heads.
        n_ff: width of the feed-forward layers.
        rope_freq_base: base frequency of the rotary position embedding.
    """

    n_head: int = 4
    n_head_kv: int = 2
    n_ff: int = 192
    rope_freq_base: float = 10_000.0

    def __post_init__(self) -> None:
        if self.n_embd % self.n_head or self.n_head % self.n_head_kv:
            raise ValueError(
                f"n_head_kv {self.n_head_kv} must divide n_head {self.n_head}, "
                f"and that n_embd {self.n_embd}"
            )

    @property
    def n_embd_head(self) -> int:
        """Width of one head."""
        return self.n_embd // self.n_head

    def hparams(self) -> dict[str, HParam]:
        return super().hparams() | {
            "feed_forward_length": self.n_ff,
            "attention.head_count": self.n_head,
            "attention.head_count_kv": self.n_head_kv,
            "attention.layer_norm_rms_epsilon": NORM_EPSILON,
            "rope.dimension_count": self.n_embd_head,
            "rope.freq_base": self.rope_freq_base,
        }

    def attention_tensors(self, block: str, gain: float = 1.0) -> Iterator[Tensor]:
        """The four projections of attention; `gain` is that of queries and of keys."""
        n_embd_kv = self.n_embd_head * self.n_head_kv
        yield matrix(f"{block}.attn_q", self.n_embd, self.n_embd, gain=gain)
        yield matrix(f"{block}.attn_k", self.n_embd, n_embd_kv, gain=gain)
        yield matrix(f"{block}.attn_v", self.n_embd, n_embd_kv)
        yield matrix(f"{block}.attn_output", self.n_embd, self.n_embd, gain=2.0)

    def sharp_attention_tensors(self, block: str) -> Iterator[Tensor]:
        """Attention without query and key norms: the matrices make the scores large."""
        return self.attention_tensors(block, gain=math.sqrt(ATTENTION_SHARPNESS))

    def normed_attention_tensors(self, block: str) -> Iterator[Tensor]:
        """Attention with query and key norms: these make the scores large."""
        yield from self.attention_tensors(block)
        yield norm(f"{block}.attn_q_norm", self.n_embd_head, mean=math.sqrt(ATTENTION_SHARPNESS))
        yield norm(f"{block}.attn_k_norm", self.n_embd_head, mean=math.sqrt(ATTENTION_SHARPNESS))

    def feed_forward_tensors(self, block: str) -> Iterator[Tensor]:
        """The three matrices of a gated feed-forward layer."""
        yield matrix(f"{block}.ffn_gate", self.n_embd, self.n_ff)
        yield matrix(f"{block}.ffn_up", self.n_embd, self.n_ff)
        yield matrix(f"{block}.ffn_down", self.n_ff, self.n_embd)


@dataclass(frozen=True, kw_only=True)
class Llama(Transformer):
    """Llama: plain attention with RoPE and RMS norms."""

    arch: ClassVar[str] = "llama"

    def layer_tensors(self, layer: int) -> Iterator[Tensor]:
        block = f"blk.{layer}"
        yield norm(f"{block}.attn_norm", self.n_embd)
        yield from self.sharp_attention_tensors(block)
        yield norm(f"{block}.ffn_norm", self.n_embd)
        yield from self.feed_forward_tensors(block)


@dataclass(frozen=True, kw_only=True)
class LongRope(Llama):
    """Llama with rotary factors that the length of the context chooses, as Phi 3 has them.

    Args:
        n_ctx_original: contexts above this length use the long factors.
    """

    n_ctx_original: int = 512

    def hparams(self) -> dict[str, HParam]:
        return super().hparams() | {
            "rope.scaling.type": "longrope",
            "rope.scaling.original_context_length": self.n_ctx_original,
        }

    def input_tensors(self) -> Iterator[Tensor]:
        yield from super().input_tensors()
        n = self.n_embd_head // 2
        yield norm("rope_factors_long", n, mean=3.0)
        yield norm("rope_factors_short", n, mean=1.0)


@dataclass(frozen=True, kw_only=True)
class LlamaMoe(Llama):
    """Llama with a mixture of experts in place of each feed-forward layer, as in Mixtral.

    Args:
        n_expert: number of experts.
        n_expert_used: number of experts that a token visits.
    """

    n_expert: int = 4
    n_expert_used: int = 2

    def hparams(self) -> dict[str, HParam]:
        return super().hparams() | {
            "expert_count": self.n_expert,
            "expert_used_count": self.n_expert_used,
        }

    def feed_forward_tensors(self, block: str) -> Iterator[Tensor]:
        router_std = 1 / math.sqrt(self.n_embd)
        yield small(f"{block}.ffn_gate_inp", self.n_embd, self.n_expert, std=router_std)
        yield matrix(f"{block}.ffn_gate_exps", self.n_embd, self.n_ff, self.n_expert)
        yield matrix(f"{block}.ffn_up_exps", self.n_embd, self.n_ff, self.n_expert)
        yield matrix(f"{block}.ffn_down_exps", self.n_ff, self.n_embd, self.n_expert)


@dataclass(frozen=True, kw_only=True)
class SlidingWindow(Transformer):
    """What the architectures with sliding-window attention have.

    Args:
        sliding_window: positions that a windowed layer sees, its own included.
        sliding_window_pattern: every layer of that number sees everything, the others a window.
    """

    sliding_window: int = 64
    sliding_window_pattern: int = 2

    def hparams(self) -> dict[str, HParam]:
        return super().hparams() | {
            "attention.sliding_window": self.sliding_window,
            "attention.sliding_window_pattern": self.sliding_window_pattern,
        }


@dataclass(frozen=True, kw_only=True)
class Cohere2(SlidingWindow):
    """Cohere 2 (Command R7B): sliding window, parallel layers, output tied to the embeddings."""

    arch: ClassVar[str] = "cohere2"

    sliding_window_pattern: int = 4

    def hparams(self) -> dict[str, HParam]:
        return super().hparams() | {
            "attention.layer_norm_epsilon": NORM_EPSILON,
            "logit_scale": LOGIT_STD / (EMBEDDING_STD * math.sqrt(self.n_embd)),
        }

    def input_tensors(self) -> Iterator[Tensor]:
        end = self.make_vocabulary().end_of_generation
        for tensor in super().input_tensors():
            yield replace(tensor, zero_rows=end)

    def layer_tensors(self, layer: int) -> Iterator[Tensor]:
        block = f"blk.{layer}"
        yield norm(f"{block}.attn_norm", self.n_embd)
        yield from self.sharp_attention_tensors(block)
        yield from self.feed_forward_tensors(block)

    def output_tensors(self) -> Iterator[Tensor]:
        yield norm("output_norm", self.n_embd)


@dataclass(frozen=True, kw_only=True)
class Gemma3(SlidingWindow):
    """Gemma 3: sliding window, query and key norms, a SentencePiece vocabulary."""

    arch: ClassVar[str] = "gemma3"

    vocabulary: VocabularyKind = "llama"

    def input_tensors(self) -> Iterator[Tensor]:
        # The graph multiplies the embeddings by sqrt(n_embd).
        std = EMBEDDING_STD / math.sqrt(self.n_embd)
        yield embedding("token_embd", self.n_embd, self.n_vocab, std)

    def layer_tensors(self, layer: int) -> Iterator[Tensor]:
        block = f"blk.{layer}"
        yield norm(f"{block}.attn_norm", self.n_embd)
        yield from self.normed_attention_tensors(block)
        yield norm(f"{block}.post_attention_norm", self.n_embd)
        yield norm(f"{block}.ffn_norm", self.n_embd)
        yield from self.feed_forward_tensors(block)
        yield norm(f"{block}.post_ffw_norm", self.n_embd)


@dataclass(frozen=True, kw_only=True)
class StateSpace(Shape):
    """What the architectures with Mamba 2 layers have.

    Args:
        ssm_inner_size: width of the layer inside.
        ssm_state_size: numbers of state for each of them.
        ssm_time_step_rank: number of heads; divides the inner size.
        ssm_group_count: number of groups of heads; divides the number of heads.
        ssm_conv_kernel: tokens that the convolution sees.
    """

    ssm_inner_size: int = 256
    ssm_state_size: int = 32
    ssm_time_step_rank: int = 8
    ssm_group_count: int = 2
    ssm_conv_kernel: int = 4

    def hparams(self) -> dict[str, HParam]:
        return super().hparams() | {
            "attention.layer_norm_rms_epsilon": NORM_EPSILON,
            "ssm.inner_size": self.ssm_inner_size,
            "ssm.state_size": self.ssm_state_size,
            "ssm.time_step_rank": self.ssm_time_step_rank,
            "ssm.group_count": self.ssm_group_count,
            "ssm.conv_kernel": self.ssm_conv_kernel,
        }

    def state_space_tensors(self, block: str) -> Iterator[Tensor]:
        """The tensors of one Mamba 2 mixer."""
        inner, groups, heads = self.ssm_inner_size, self.ssm_group_count, self.ssm_time_step_rank
        n_conv = inner + 2 * groups * self.ssm_state_size
        yield matrix(f"{block}.ssm_in", self.n_embd, inner + n_conv + heads)
        yield convolution(f"{block}.ssm_conv1d", self.ssm_conv_kernel, n_conv)
        yield bias(f"{block}.ssm_conv1d", n_conv)
        yield ssm_time_step_bias(f"{block}.ssm_dt", heads)
        yield ssm_decay(f"{block}.ssm_a", heads)
        yield ssm_skip(f"{block}.ssm_d", heads)
        yield norm(f"{block}.ssm_norm", inner // groups, groups)
        yield matrix(f"{block}.ssm_out", inner, self.n_embd)


@dataclass(frozen=True, kw_only=True)
class Mamba2(StateSpace):
    """Mamba 2: recurrent, no attention at all."""

    arch: ClassVar[str] = "mamba2"

    def layer_tensors(self, layer: int) -> Iterator[Tensor]:
        block = f"blk.{layer}"
        yield norm(f"{block}.attn_norm", self.n_embd)
        yield from self.state_space_tensors(block)


@dataclass(frozen=True, kw_only=True)
class FalconH1(Transformer, StateSpace):
    """Falcon-H1: hybrid, attention and a Mamba 2 mixer side by side in every layer."""

    arch: ClassVar[str] = "falcon-h1"

    def layer_tensors(self, layer: int) -> Iterator[Tensor]:
        block = f"blk.{layer}"
        yield norm(f"{block}.attn_norm", self.n_embd)
        yield from self.sharp_attention_tensors(block)
        yield from self.state_space_tensors(block)
        yield norm(f"{block}.ffn_norm", self.n_embd, suffix="")
        yield from self.feed_forward_tensors(block)


@dataclass(frozen=True, kw_only=True)
class Lfm2(Transformer):
    """LFM2: hybrid, layers of short convolutions with some of attention among them.

    Args:
        attention_layers: the layers that are attention, counted from 0.
        shortconv_l_cache: tokens that a convolution sees.
    """

    arch: ClassVar[str] = "lfm2"

    attention_layers: tuple[int, ...] = (1, 3)
    shortconv_l_cache: int = 3

    def hparams(self) -> dict[str, HParam]:
        heads = [self.n_head_kv * (layer in self.attention_layers) for layer in range(self.n_layer)]
        return super().hparams() | {
            "attention.head_count_kv": heads,
            "shortconv.l_cache": self.shortconv_l_cache,
        }

    def layer_tensors(self, layer: int) -> Iterator[Tensor]:
        block = f"blk.{layer}"
        yield norm(f"{block}.attn_norm", self.n_embd)
        if layer in self.attention_layers:
            yield from self.normed_attention_tensors(block)
        else:
            yield convolution(f"{block}.shortconv.conv", self.shortconv_l_cache, self.n_embd)
            yield matrix(f"{block}.shortconv.in_proj", self.n_embd, 3 * self.n_embd)
            yield matrix(f"{block}.shortconv.out_proj", self.n_embd, self.n_embd)
        yield norm(f"{block}.ffn_norm", self.n_embd)
        yield from self.feed_forward_tensors(block)

    def output_tensors(self) -> Iterator[Tensor]:
        yield norm("token_embd_norm", self.n_embd)
        yield self.output_matrix()


@dataclass(frozen=True, kw_only=True)
class Bert(Shape):
    """BERT: an encoder for embeddings, with learned positions and a WordPiece vocabulary.

    Args:
        n_head: number of heads.
        n_ff: width of the feed-forward layers.
        pooling: how the file says that rows become one embedding; "none" writes the key too.
        classifier: whether there is a head that makes one score of an input.
    """

    arch: ClassVar[str] = "bert"

    n_ctx_train: int = 512
    vocabulary: VocabularyKind = "bert"
    n_head: int = 4
    n_ff: int = 256
    pooling: Pooling = "mean"
    classifier: bool = False

    def hparams(self) -> dict[str, HParam]:
        return super().hparams() | {
            "feed_forward_length": self.n_ff,
            "attention.head_count": self.n_head,
            "attention.layer_norm_epsilon": NORM_EPSILON,
            "attention.causal": False,
            "pooling_type": POOLING_TYPES[self.pooling],
        }

    def input_tensors(self) -> Iterator[Tensor]:
        yield embedding("token_embd", self.n_embd, self.n_vocab, EMBEDDING_STD)
        yield small("token_types", self.n_embd, 2, std=EMBEDDING_STD)
        yield small("position_embd", self.n_embd, self.n_ctx_train, std=EMBEDDING_STD)
        yield norm("token_embd_norm", self.n_embd)
        yield bias("token_embd_norm", self.n_embd)

    def layer_tensors(self, layer: int) -> Iterator[Tensor]:
        block = f"blk.{layer}"
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            yield matrix(f"{block}.{name}", self.n_embd, self.n_embd)
            yield bias(f"{block}.{name}", self.n_embd)
        yield norm(f"{block}.attn_output_norm", self.n_embd)
        yield bias(f"{block}.attn_output_norm", self.n_embd)
        yield matrix(f"{block}.ffn_up", self.n_embd, self.n_ff)
        yield bias(f"{block}.ffn_up", self.n_ff)
        yield matrix(f"{block}.ffn_down", self.n_ff, self.n_embd)
        yield bias(f"{block}.ffn_down", self.n_embd)
        yield norm(f"{block}.layer_output_norm", self.n_embd)
        yield bias(f"{block}.layer_output_norm", self.n_embd)

    def output_tensors(self) -> Iterator[Tensor]:
        if self.classifier:
            yield matrix("cls", self.n_embd, self.n_embd)
            yield bias("cls", self.n_embd)
            yield matrix("cls.output", self.n_embd, 1)
            yield bias("cls.output", 1)


TINY = Llama()
"""Plain attention: 128 wide, 4 layers, 4 query and 2 key heads, 512 tokens."""

TINY_SPM = Llama(vocabulary="llama")
"""As TINY, with a SentencePiece vocabulary."""

TINY_SPM_SPACE = Llama(vocabulary="llama-space")
"""As TINY_SPM, but a space is put before whatever is tokenized."""

TINY_MOE = LlamaMoe(n_ff=96)
"""As TINY, with 4 experts of which a token visits 2."""

TINY_COHERE2 = Cohere2()
"""Sliding window of 64 in three layers of four."""

TINY_GEMMA3 = Gemma3()
"""Sliding window of 64 in every second layer; SentencePiece vocabulary."""

TINY_MAMBA2 = Mamba2()
"""Recurrent."""

TINY_FALCON_H1 = FalconH1()
"""Hybrid: attention and state space in each of 4 layers."""

TINY_LFM2 = Lfm2()
"""Hybrid: short convolutions in layers 0 and 2, attention in 1 and 3."""

TINY_BERT = Bert()
"""Encoder with mean pooling, context of 512."""

TINY_RERANKER = Bert(pooling="rank", classifier=True)
"""Encoder with a classifier that scores an input."""

WIDE = Llama(n_embd=256, n_layer=2, n_ff=512)
"""Plain attention, 256 wide: the narrowest that K-quants can store, as their blocks hold 256."""

M125 = Llama(
    n_embd=768, n_layer=12, n_head=12, n_head_kv=4, n_ff=2048, n_vocab=32_000, n_ctx_train=16_384
)
"""Plain attention, 125 million parameters: large enough to measure speed with."""

PRESETS: dict[str, Shape] = {
    "tiny": TINY,
    "tiny-spm": TINY_SPM,
    "tiny-spm-space": TINY_SPM_SPACE,
    "tiny-moe": TINY_MOE,
    "tiny-cohere2": TINY_COHERE2,
    "tiny-gemma3": TINY_GEMMA3,
    "tiny-mamba2": TINY_MAMBA2,
    "tiny-falcon-h1": TINY_FALCON_H1,
    "tiny-lfm2": TINY_LFM2,
    "tiny-bert": TINY_BERT,
    "wide": WIDE,
    "m125": M125,
}
