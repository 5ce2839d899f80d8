"""Random tensors: what a model file lists, and how each one is filled.

Values come from the raw bits of numpy's Philox generator through a table of quantiles, not from
`Generator.standard_normal`: raw bits are fixed by the algorithm, while numpy may change its
distributions between releases (NEP 19). Each tensor has a stream of its own, keyed by the model's
seed and the tensor's name, so adding a tensor to a shape leaves the others as they were.
"""

from __future__ import annotations

import functools
import math
import statistics
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float32]

LEVELS = 1 << 16


@functools.cache
def _normal_quantiles() -> FloatArray:
    inverse = statistics.NormalDist().inv_cdf
    return np.array([inverse((i + 0.5) / LEVELS) for i in range(LEVELS)], dtype=np.float32)


class Stream:
    """A random stream of 16-bit levels, the same for the same seed and name."""

    def __init__(self, seed: int, name: str) -> None:
        # Philox wants a 128-bit key; the counter starts at zero.
        self._bits = np.random.Philox(key=(zlib.crc32(name.encode()) << 64) | (seed % (1 << 64)))

    def levels(self, count: int) -> npt.NDArray[np.uint16]:
        """`count` uniform integers in [0, 65536)."""
        return self._bits.random_raw(-(-count // 4)).view(np.uint16)[:count]

    def normal(self, count: int) -> FloatArray:
        """`count` numbers from N(0, 1), rounded to one of 65,536 quantiles (|x| below 4.4)."""
        return _normal_quantiles()[self.levels(count)]

    def uniform(self, count: int) -> FloatArray:
        """`count` numbers from the open interval (0, 1)."""
        return (self.levels(count).astype(np.float32) + np.float32(0.5)) / np.float32(LEVELS)


Fill: TypeAlias = Callable[[Stream, int], FloatArray]
"""Draws that many values from a stream."""


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One tensor of a model file.

    Args:
        name: its name in the file.
        dims: its shape in ggml's order, innermost dimension first.
        fill: draws its values, `prod(dims)` of them.
        quantized: whether the model's tensor type applies; otherwise it is stored as F32, as
            llama.cpp's operations on it require (norms, biases, convolutions, ...).
        zero_rows: rows (indices of the outermost dimension) that are zero.
    """

    name: str
    dims: tuple[int, ...]
    fill: Fill
    quantized: bool = False
    zero_rows: tuple[int, ...] = ()

    def values(self, seed: int) -> FloatArray:
        """The values as a C-ordered array: `dims` reversed, float32."""
        array = self.fill(Stream(seed, self.name), math.prod(self.dims)).reshape(self.dims[::-1])
        if self.zero_rows:
            array[list(self.zero_rows)] = 0
        return array


def normal(std: float, mean: float = 0.0) -> Fill:
    """Values from N(mean, std²)."""
    return lambda stream, count: stream.normal(count) * np.float32(std) + np.float32(mean)


def log_uniform(low: float, high: float, transform: Callable[[FloatArray], FloatArray]) -> Fill:
    """Values whose logarithm is uniform between those of `low` and `high`, then transformed."""

    def fill(stream: Stream, count: int) -> FloatArray:
        span = np.float32(math.log(high / low))
        return transform(np.exp(stream.uniform(count) * span + np.float32(math.log(low))))

    return fill


def _inverse_softplus(x: FloatArray) -> FloatArray:
    return np.log(np.expm1(x))


def matrix(
    name: str, n_in: int, *rest: int, gain: float = 1.0, zero_rows: tuple[int, ...] = ()
) -> Tensor:
    """A weight matrix `[n_in, n_out, ...]` with std `gain / sqrt(n_in)`."""
    return Tensor(
        name=f"{name}.weight",
        dims=(n_in, *rest),
        fill=normal(gain / math.sqrt(n_in)),
        quantized=True,
        zero_rows=zero_rows,
    )


def embedding(name: str, n_embd: int, n_vocab: int, std: float) -> Tensor:
    """Token embeddings `[n_embd, n_vocab]`."""
    fill = normal(std)
    return Tensor(name=f"{name}.weight", dims=(n_embd, n_vocab), fill=fill, quantized=True)


def small(name: str, *dims: int, std: float) -> Tensor:
    """A table or matrix that the file keeps in F32 whatever the model's tensor type."""
    return Tensor(name=f"{name}.weight", dims=dims, fill=normal(std))


def norm(name: str, *dims: int, mean: float = 1.0, suffix: str = ".weight") -> Tensor:
    """The scale of a normalization, around `mean`."""
    return Tensor(name=f"{name}{suffix}", dims=dims, fill=normal(0.1 * mean, mean))


def bias(name: str, n: int) -> Tensor:
    """A bias around 0."""
    return Tensor(name=f"{name}.bias", dims=(n,), fill=normal(0.1))


def convolution(name: str, kernel: int, channels: int) -> Tensor:
    """A depthwise convolution `[kernel, channels]`; ggml_ssm_conv reads F32 only."""
    return small(name, kernel, channels, std=1 / math.sqrt(kernel))


def ssm_time_step_bias(name: str, n_head: int) -> Tensor:
    """Biases whose softplus, the time step, lies in 0.001 to 0.1 (Mamba 2's initialization)."""
    fill = log_uniform(0.001, 0.1, _inverse_softplus)
    return Tensor(name=f"{name}.bias", dims=(n_head,), fill=fill)


def ssm_decay(name: str, n_head: int) -> Tensor:
    """The state's decay rates A in -16 to -1 (Mamba 2's initialization); no suffix."""
    return Tensor(name=name, dims=(1, n_head), fill=log_uniform(1.0, 16.0, np.negative))


def ssm_skip(name: str, n_head: int) -> Tensor:
    """The weights D of the path around the state, around 1; no suffix."""
    return norm(name, 1, n_head, suffix="")
