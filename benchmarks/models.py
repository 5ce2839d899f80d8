"""The models that benchmarks run on."""

from __future__ import annotations

import functools
import pathlib
from dataclasses import dataclass

N_CTX = 8_192


@dataclass(frozen=True)
class BenchModel:
    """A model file and the context to load it with."""

    name: str
    path: pathlib.Path
    n_ctx: int


def bench_model(name: str) -> BenchModel:
    """A model by name: m125, bundled or tiny; or by the path of a GGUF file.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if name in ("m125", "tiny"):
        return BenchModel(name, _random_model(name), N_CTX)
    if name == "bundled":
        import erllama

        path = erllama.bundled_model()
    else:
        path = pathlib.Path(name)
    if not path.exists():
        raise FileNotFoundError(f"no model {name!r}: {path} does not exist")
    return BenchModel(name if name == "bundled" else path.stem, path, min(N_CTX, trained(path)))


@functools.cache
def trained(path: pathlib.Path) -> int:
    """The context length that a file announces, in tokens."""
    from erllama.backend.llama.gguf_file import read_header

    metadata = read_header(path).metadata
    return int(metadata[f"{metadata['general.architecture']}.context_length"])


def _random_model(name: str) -> pathlib.Path:
    from tests.models.cache import cached_model
    from tests.models.shapes import M125, TINY

    return cached_model(M125, "Q8_0") if name == "m125" else cached_model(TINY, "F16")
