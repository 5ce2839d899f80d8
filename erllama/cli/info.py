"""`erllama info`."""

from __future__ import annotations

import pathlib
from typing import Any

from erllama.cli.opening import cache_folder, open_model
from erllama.cli.output import Output, json_line, printable
from erllama.cli.progress import make_report
from erllama.config import GRANULE
from erllama.option_types import LoadOptions
from erllama.runtime import Runtime
from erllama.types import ModelInfo

# The model is loaded to be known: what a header promises may still not load or compute.
_SMALLEST: LoadOptions = {
    "n_ctx": GRANULE,
    "n_batch": GRANULE,
    "n_ubatch": GRANULE,
    "gpu_layers": 0,
}


async def show_info(path: pathlib.Path, *, json: bool, quiet: bool) -> int:
    """Print what is known of a model; returns the exit code.

    Raises:
        ModelLoadError: the file is missing, damaged, or of no use.
        OutputClosed: nobody reads the output.
    """
    async with Runtime(cache_dir=cache_folder(), disk_bytes=0) as runtime:
        model = await open_model(runtime, path, make_report(quiet=quiet), **_SMALLEST)
        facts = model_facts(model.info())
    output = Output()
    if json:
        await output.write(json_line(facts))
    else:
        text = _as_text(facts)
        await output.write(printable(text) if output.is_terminal else text)
    return 0


def model_facts(info: ModelInfo) -> dict[str, Any]:
    """What is true of the model in any context. Sizes in bytes, lengths in tokens."""
    return {
        "path": info.path,
        "name": info.name,
        "architecture": info.architecture,
        "family": info.family,
        "quantization": quantization(info.description),
        "n_params": info.n_params,
        "size": info.size,
        "n_ctx_train": info.n_ctx_train,
        "n_vocab": info.n_vocab,
        "n_layer": info.n_layer,
        "n_embd": info.n_embd,
        "n_head": info.n_head,
        "n_head_kv": info.n_head_kv,
        "can_generate": info.can_generate,
        "bos_token": info.bos_token,
        "eos_token": info.eos_token,
        "chat_template": info.chat_template,
        "chat_templates": info.chat_templates,
        "fingerprint": info.fingerprint,
        "backend": info.backend,
        "backend_tested": info.backend_tested,
    }


def quantization(description: str) -> str:
    """The last part of `llama_model_desc`, which is architecture, size and file type.

    >>> quantization("llama 8B Q4_K - Medium")
    'Q4_K - Medium'
    """
    return description.split(" ", 2)[-1]


def _templates(facts: dict[str, Any]) -> str:
    names = [] if facts["chat_template"] is None else ["yes"]
    return ", ".join([*names, *facts["chat_templates"]]) or "no"


def _as_text(facts: dict[str, Any]) -> str:
    shown = {
        "path": facts["path"],
        "name": facts["name"] or "none",
        "architecture": f"{facts['architecture']} ({facts['family']})",
        "quantization": facts["quantization"],
        "parameters": f"{facts['n_params']:,}",
        "size": f"{facts['size']:,} bytes",
        "context": f"{facts['n_ctx_train']:,} tokens",
        "vocabulary": f"{facts['n_vocab']:,} tokens",
        "layers": f"{facts['n_layer']} of width {facts['n_embd']:,}",
        "heads": f"{facts['n_head']}, {facts['n_head_kv']} for keys and values",
        "generates": "yes" if facts["can_generate"] else "no",
        "begin token": facts["bos_token"] or "none",
        "end token": facts["eos_token"] or "none",
        "chat template": _templates(facts),
        "fingerprint": facts["fingerprint"],
        "backend": facts["backend"] + ("" if facts["backend_tested"] else " (not tested)"),
    }
    return "".join(f"{name:<14} {value}\n" for name, value in shown.items())
