"""Train the bundled model and its draft: `python examples/train_tiny_model --out DIR`."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import template
import torch
from evaluate import agreement, report
from export import export
from network import Network, Shape, draft_shape, model_shape
from runner import Runner
from tokenizer import train_tokenizer
from tokenizers import Tokenizer
from training import DRAFT, MODEL, QUICK, Recipe, train

MODEL_FILE = "erllama-tiny.gguf"
DRAFT_FILE = "erllama-tiny-draft.gguf"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="train_tiny_model", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for all that is made")
    parser.add_argument("--quick", action="store_true", help="a minute: does it all run?")
    parser.add_argument("--threads", type=int, default=2, help="torch threads (default 2)")
    parser.add_argument("--samples", type=int, default=100, help="held-out cases of each task")
    return parser.parse_args()


def tokenizer_in(folder: Path, documents_read: int) -> Tokenizer:
    path = folder / "tokenizer.json"
    if not path.exists():
        train_tokenizer(documents_read).save(str(path))
    return Tokenizer.from_file(str(path))


def trained(
    what: str, shape: Shape, tokenizer: Tokenizer, recipe: Recipe, folder: Path,
    teacher: Network | None = None,
) -> Network:  # fmt: skip
    torch.manual_seed(recipe.seed)
    network = Network(shape)
    print(f"{what}: {network.parameter_count():,} parameters, {recipe.steps} steps", flush=True)
    started = time.monotonic()
    train(network, tokenizer, recipe, folder / f"{what}.pt", teacher)
    print(f"{what}: trained in {(time.monotonic() - started) / 60:.1f} minutes", flush=True)
    network.eval()
    return network


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    folder: Path = options.out
    folder.mkdir(parents=True, exist_ok=True)
    template.check(100)
    tokenizer = tokenizer_in(folder, 300 if options.quick else 20_000)
    size = tokenizer.get_vocab_size()
    recipes = (QUICK, QUICK) if options.quick else (MODEL, DRAFT)

    model = trained("model", model_shape(size), tokenizer, recipes[0], folder)
    export(model, tokenizer, folder / MODEL_FILE, "erllama tiny")
    draft = trained("draft", draft_shape(size), tokenizer, recipes[1], folder, model)
    export(draft, tokenizer, folder / DRAFT_FILE, "erllama tiny draft")

    samples = 1 if options.quick else options.samples
    runner = Runner(folder / MODEL_FILE)
    print("\n".join(report(runner, samples).lines()), flush=True)
    share = agreement(runner, Runner(folder / DRAFT_FILE), samples)
    print(f"the draft chooses the model's token: {share:.3f}")


if __name__ == "__main__":
    main()
