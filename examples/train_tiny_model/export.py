"""A trained network as a GGUF file: matrices as Q8_0, norms as F32, tokenizer and template inside.

Key names: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Tensor names: those of
`general.architecture = llama`. There is no `output.weight`: llama.cpp then uses `token_embd`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import template
from corpus.render import BOS, END, SPECIAL
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType
from gguf.quants import quantize
from network import Network, Shape
from tokenizers import Tokenizer

# torch's name of a block's weight -> GGUF's
BLOCK_TENSORS = {
    "attn_norm": "attn_norm", "attn.q": "attn_q", "attn.k": "attn_k", "attn.v": "attn_v",
    "attn.out": "attn_output", "ffn_norm": "ffn_norm", "ffn.gate": "ffn_gate",
    "ffn.up": "ffn_up", "ffn.down": "ffn_down",
}  # fmt: skip


def tensors(network: Network) -> Iterator[tuple[str, np.ndarray]]:
    """Every weight as float32 under its name in the file."""
    state = {name: weight.float().numpy() for name, weight in network.state_dict().items()}
    yield "token_embd.weight", state["embed.weight"]
    for block in range(network.shape.n_layer):
        for ours, theirs in BLOCK_TENSORS.items():
            yield f"blk.{block}.{theirs}.weight", state[f"blocks.{block}.{ours}.weight"]
    yield "output_norm.weight", state["norm.weight"]


def add_shape(writer: GGUFWriter, shape: Shape) -> None:
    writer.add_context_length(shape.n_ctx)
    writer.add_embedding_length(shape.n_embd)
    writer.add_block_count(shape.n_layer)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.n_head_kv)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    writer.add_vocab_size(shape.n_vocab)
    writer.add_file_type(LlamaFileType.MOSTLY_Q8_0)


def add_tokenizer(writer: GGUFWriter, tokenizer: Tokenizer) -> None:
    described = json.loads(tokenizer.to_str())["model"]
    vocabulary: dict[str, int] = described["vocab"]
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [TokenType.CONTROL if token in SPECIAL else TokenType.NORMAL for token in tokens]
    )
    writer.add_token_merges([" ".join(pair) for pair in described["merges"]])
    writer.add_bos_token_id(vocabulary[BOS])
    writer.add_eos_token_id(vocabulary[END])
    writer.add_eot_token_id(vocabulary[END])
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_chat_template(template.text())


def export(network: Network, tokenizer: Tokenizer, path: Path, name: str) -> None:
    """Write `path`; an older file of this name is replaced when the new one is whole."""
    partial = path.with_suffix(".partial")
    writer = GGUFWriter(partial, "llama")
    writer.add_name(name)
    writer.add_description("A very small chat model, trained on generated text only")
    writer.add_license("MIT")
    writer.add_languages(["en"])
    add_shape(writer, network.shape)
    add_tokenizer(writer, tokenizer)
    for tensor_name, weight in tensors(network):
        if weight.ndim == 1:
            writer.add_tensor(tensor_name, weight)
        else:
            kind = GGMLQuantizationType.Q8_0
            writer.add_tensor(tensor_name, quantize(weight, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.replace(path)
