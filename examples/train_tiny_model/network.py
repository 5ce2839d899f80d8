"""The llama architecture in torch, computed as llama.cpp computes `general.architecture = llama`.

RMSNorm, rotary positions over neighbouring pairs (x[2i], x[2i+1]) as ggml's ROPE_TYPE_NORM has
them (so the projections need no permutation on export), SwiGLU, grouped-query attention, and
an output layer tied to the token embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name every torch program uses


@dataclass(frozen=True)
class Shape:
    """Dimensions of a network. Row lengths are multiples of 32: the block size of Q8_0."""

    n_vocab: int
    n_embd: int = 256
    n_layer: int = 6
    n_head: int = 4
    n_head_kv: int = 2
    n_ff: int = 512
    n_ctx: int = 2048
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head


def model_shape(n_vocab: int) -> Shape:
    """The model that ships."""
    return Shape(n_vocab)


def draft_shape(n_vocab: int) -> Shape:
    """The draft for speculative decoding: under a quarter of the model."""
    return Shape(n_vocab, n_embd=128, n_layer=4, n_head=4, n_head_kv=2, n_ff=288)


def rope_table(shape: Shape) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every (position, pair): two tensors of (n_ctx, head_dim / 2)."""
    pair = torch.arange(0, shape.head_dim, 2, dtype=torch.float64)
    angle = torch.outer(
        torch.arange(shape.n_ctx, dtype=torch.float64),
        shape.rope_theta ** (-pair / shape.head_dim),
    )
    return angle.cos().float(), angle.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs of `x` (batch, head, position, head_dim) by their position's angle."""
    even, odd = x.float().reshape(*x.shape[:-1], -1, 2).unbind(-1)
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return turned.flatten(-2).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        kv = shape.n_head_kv * shape.head_dim
        self.q = nn.Linear(shape.n_embd, shape.n_embd, bias=False)
        self.k = nn.Linear(shape.n_embd, kv, bias=False)
        self.v = nn.Linear(shape.n_embd, kv, bias=False)
        self.out = nn.Linear(shape.n_embd, shape.n_embd, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        shape = self.shape
        q, k, v = (
            part(x).unflatten(-1, (-1, shape.head_dim)).transpose(1, 2)
            for part in (self.q, self.k, self.v)
        )
        group = shape.n_head // shape.n_head_kv
        k = rotate(k, cos, sin).repeat_interleave(group, dim=1)
        v = v.repeat_interleave(group, dim=1)
        mixed = F.scaled_dot_product_attention(rotate(q, cos, sin), k, v, is_causal=True)
        y: Tensor = self.out(mixed.transpose(1, 2).flatten(-2))
        return y


class FeedForward(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate = nn.Linear(shape.n_embd, shape.n_ff, bias=False)
        self.up = nn.Linear(shape.n_embd, shape.n_ff, bias=False)
        self.down = nn.Linear(shape.n_ff, shape.n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(F.silu(self.gate(x)) * self.up(x))
        return y


class Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attn_norm = nn.RMSNorm(shape.n_embd, eps=shape.norm_eps)
        self.attn = Attention(shape)
        self.ffn_norm = nn.RMSNorm(shape.n_embd, eps=shape.norm_eps)
        self.ffn = FeedForward(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attn(self.attn_norm(x), cos, sin)
        y: Tensor = x + self.ffn(self.ffn_norm(x))
        return y


class Network(nn.Module):
    """Token ids (batch, position) to logits (batch, position, n_vocab)."""

    cos: Tensor
    sin: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed = nn.Embedding(shape.n_vocab, shape.n_embd)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.n_layer))
        self.norm = nn.RMSNorm(shape.n_embd, eps=shape.norm_eps)
        cos, sin = rope_table(shape)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.apply(self._initialise)

    def _initialise(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.04)
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.6 * module.in_features**-0.5)
        if isinstance(module, Attention | FeedForward):  # after the parts of it
            last = module.out if isinstance(module, Attention) else module.down
            depth = 2 * self.shape.n_layer
            nn.init.normal_(last.weight, std=0.6 * (depth * last.in_features) ** -0.5)

    def hidden(self, tokens: Tensor) -> Tensor:
        """The normalised last hidden states (batch, position, n_embd)."""
        x = self.embed(tokens)
        length = tokens.shape[1]
        cos, sin = self.cos[:length], self.sin[:length]
        for block in self.blocks:
            x = block(x, cos, sin)
        y: Tensor = self.norm(x)
        return y

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.embed.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.logits(self.hidden(tokens))

    def parameter_count(self) -> int:
        return sum(p.numel() for p in self.parameters())
