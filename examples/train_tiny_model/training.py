"""Packing documents into rows, and the training loop, which can be cut off and resumed."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from corpus.documents import documents
from network import Network
from tokenizer import UNUSED_LABEL, encode
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name every torch program uses

PADDING = 0


@dataclass(frozen=True)
class Phase:
    """`steps` batches of `rows` rows of `length` tokens."""

    steps: int
    rows: int
    length: int
    hard: bool = False  # more of what is slow to learn


@dataclass(frozen=True)
class Recipe:
    """How to train one network. `rates` are (step, rate) knots with straight lines between."""

    phases: tuple[Phase, ...]
    rates: tuple[tuple[int, float], ...]
    seed: int
    weight_decay: float = 0.1
    teacher_from: int = 0  # the step from which a teacher, where there is one, is heard
    teacher_share: float = 0.8  # of the loss

    @property
    def steps(self) -> int:
        return sum(phase.steps for phase in self.phases)

    def rate(self, step: int) -> float:
        """The rate of learning at a step."""
        knots, rates = zip(*self.rates, strict=True)
        return float(np.interp(step, knots, rates))

    def phase(self, step: int) -> Phase:
        for phase in self.phases:
            if step < phase.steps:
                return phase
            step -= phase.steps
        raise IndexError(f"step {step} lies past the last of {self.steps}")


MODEL = Recipe(
    (
        Phase(200, 32, 256), Phase(1070, 16, 256), Phase(180, 8, 512), Phase(80, 2, 2048),
        Phase(670, 16, 256, True), Phase(650, 8, 512, True), Phase(170, 2, 2048, True),
    ),
    rates=(
        (-1, 0.0), (79, 3e-3), (704, 3e-3), (1530, 0.0),
        (1560, 1.5e-3), (1900, 1.5e-3), (1930, 8e-4), (2600, 8e-4), (3020, 0.0),
    ),
    seed=1,
)  # fmt: skip
DRAFT = Recipe(
    (Phase(800, 16, 256), Phase(60, 8, 512), Phase(40, 2, 2048)),
    rates=((-1, 0.0), (79, 3e-3), (414, 3e-3), (900, 0.0)),
    seed=2,
    teacher_from=700,
)
QUICK = Recipe(
    (Phase(6, 8, 256), Phase(2, 1, 2048)), rates=((-1, 0.0), (1, 1e-3), (8, 0.0)), seed=3
)


def pack(tokenizer: Tokenizer, phase: Phase, seed: str) -> tuple[Tensor, Tensor]:
    """Rows of whole documents: (rows, length) token ids and labels. Documents are never cut."""
    tokens = torch.full((phase.rows, phase.length), PADDING)
    labels = torch.full((phase.rows, phase.length), UNUSED_LABEL)
    used = [0] * phase.rows
    misses = 0
    for document in documents(seed, phase.length >= 2048, phase.hard):
        ids, wanted = encode(tokenizer, document)
        row = next((r for r in range(phase.rows) if used[r] + len(ids) <= phase.length), None)
        if row is None:
            misses += 1
            if misses == 12:
                break
            continue
        place = slice(used[row], used[row] + len(ids))
        tokens[row, place] = torch.tensor(ids)
        labels[row, place] = torch.tensor(wanted)
        used[row] += len(ids)
    return tokens, labels


def loss_of(
    network: Network, tokens: Tensor, labels: Tensor, teacher: Network | None, share: float
) -> Tensor:
    """Cross entropy at the learned positions, mixed with the distance to the teacher's choice."""
    learned = labels != UNUSED_LABEL
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network.logits(network.hidden(tokens)[learned]).float()
    loss = F.cross_entropy(logits, labels[learned])
    if teacher is None:
        return loss
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        wanted = teacher.logits(teacher.hidden(tokens)[learned]).float()
    distance = F.kl_div(
        logits.log_softmax(-1), wanted.log_softmax(-1), log_target=True, reduction="batchmean"
    )
    return (1 - share) * loss + share * distance


def optimizer_for(network: Network, recipe: Recipe) -> torch.optim.AdamW:
    matrices = [p for p in network.parameters() if p.dim() > 1]
    vectors = [p for p in network.parameters() if p.dim() == 1]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.rate(0), betas=(0.9, 0.95), fused=True)


def train(
    network: Network,
    tokenizer: Tokenizer,
    recipe: Recipe,
    checkpoint: Path,
    teacher: Network | None = None,
) -> None:
    """Train to the end of the recipe, going on from `checkpoint` where there is one."""
    optimizer = optimizer_for(network, recipe)
    first = load(checkpoint, network, optimizer)
    for step, loss, seconds in steps(network, tokenizer, recipe, optimizer, first, teacher):
        if step % 10 == 0 or step == recipe.steps - 1:
            length = recipe.phase(step).length
            print(f"step {step}/{recipe.steps} row {length} loss {loss:.4f} {seconds:.2f} s",
                  flush=True)  # fmt: skip
        if (step + 1) % 100 == 0 or step == recipe.steps - 1:
            save(checkpoint, network, optimizer, step + 1)


def steps(
    network: Network,
    tokenizer: Tokenizer,
    recipe: Recipe,
    optimizer: torch.optim.AdamW,
    first: int,
    teacher: Network | None,
) -> Iterator[tuple[int, float, float]]:
    """Carry out the steps from `first` on; yields (step, loss, seconds)."""
    for step in range(first, recipe.steps):
        started = time.monotonic()
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step)
        tokens, labels = pack(tokenizer, recipe.phase(step), f"{recipe.seed}:{step}")
        heard = teacher if step >= recipe.teacher_from else None
        loss = loss_of(network, tokens, labels, heard, recipe.teacher_share)
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"the loss became {loss.item()} at step {step}")
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield step, loss.item(), time.monotonic() - started


def save(path: Path, network: Network, optimizer: torch.optim.AdamW, step: int) -> None:
    """Write a checkpoint so that a reader sees the old one or the new one."""
    partial = path.with_suffix(".partial")
    state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
    torch.save(state, partial)
    partial.replace(path)


def load(path: Path, network: Network, optimizer: torch.optim.AdamW | None = None) -> int:
    """Read a checkpoint into the network; returns the step to go on with."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    network.load_state_dict(state["network"])
    if optimizer is not None:
        optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])
