"""Requests that are computed in random company, and the logits of each of their rows."""

from __future__ import annotations

import array
import itertools
import random
from dataclasses import dataclass, field

from erllama.backend.base import Prefill, Row, StepPlan
from erllama.backend.llama.engine import LlamaEngine

GRANULE = 64


@dataclass(frozen=True)
class Part:
    """A request: its prompt, and the tokens that are decoded after it, whatever the logits say."""

    prompt: tuple[int, ...]
    reply: tuple[int, ...]


@dataclass
class Running:
    """A request on a sequence."""

    part: Part
    seq: int
    held: int = 0
    logits: list[bytes] = field(default_factory=list)

    @property
    def prefilling(self) -> bool:
        return self.held < len(self.part.prompt)

    @property
    def done(self) -> bool:
        return self.held == len(self.part.prompt) + len(self.part.reply)


def random_parts(rng: random.Random, n: int, n_vocab: int, *, longest: int) -> list[Part]:
    def tokens(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(n_vocab) for _ in range(count))

    return [Part(tokens(rng.randrange(2, longest)), tokens(rng.randrange(1, 9))) for _ in range(n)]


class Mixer:
    """Runs requests on one engine. On the lane only."""

    def __init__(self, engine: LlamaEngine, numbers: itertools.count[int]) -> None:
        self._engine = engine
        self._numbers = numbers

    def alone(self, part: Part, seq: int = 0) -> list[bytes]:
        """The logits of a request with nothing beside it, nor before it."""
        for other in range(self._engine.capabilities.n_seq_max):
            self._step(end=(other,))
        running = Running(part, seq)
        while not running.done:
            self._go_on([running], random.Random(1))
        self._step(end=(seq,))
        return running.logits

    def together(self, parts: list[Part], rng: random.Random) -> list[list[bytes]]:
        """The logits of requests of one length that are read in the same steps.

        As many as sequences; on random ones of those, and with random slices.
        """
        for other in range(self._engine.capabilities.n_seq_max):
            self._step(end=(other,))
        order = rng.sample(range(len(parts)), len(parts))
        running = [Running(parts[name], seq) for seq, name in enumerate(order)]
        while running[0].prefilling:
            self._prefill_all(running, rng)
        while not running[0].done:
            for one in running:
                self._decode([one])  # alone, as rows of company may differ
        return [running[order.index(name)].logits for name in range(len(parts))]

    def _prefill_all(self, running: list[Running], rng: random.Random) -> None:
        left = len(running[0].part.prompt) - running[0].held
        most = self._engine.capabilities.n_joint // len(running) // GRANULE
        whole = min(left // GRANULE, most)
        n = GRANULE * rng.randrange(1, whole + 1) if whole else left
        slices = [
            Prefill(
                one.seq,
                one.held,
                array.array("i", one.part.prompt[one.held : one.held + n]),
                n == left,
            )
            for one in running
        ]
        self._step(slices=tuple(slices))
        for one in running:
            one.held += n
            if n == left:
                self._note(one)

    def mixed(self, parts: list[Part], rng: random.Random) -> list[list[bytes]]:
        """The logits of requests that come, decode and go in random order and company."""
        free = list(range(self._engine.capabilities.n_seq_max))
        waiting = list(range(len(parts)))
        running: dict[int, Running] = {}
        logits: dict[int, list[bytes]] = {}
        while waiting or running:
            if waiting and free and (not running or rng.random() < 0.4):
                name = waiting.pop(0)
                seq = free.pop(rng.randrange(len(free)))
                self._step(end=(seq,))  # until then it lay idle with what it held
                running[name] = Running(parts[name], seq)
            self._go_on(list(running.values()), rng)
            for name in [name for name, one in running.items() if one.done]:
                one = running.pop(name)
                logits[name] = one.logits
                free.append(one.seq)
        return [logits[name] for name in range(len(parts))]

    def _go_on(self, running: list[Running], rng: random.Random) -> None:
        prefilling = [one for one in running if one.prefilling]
        decoding = [one for one in running if not one.prefilling and not one.done]
        if prefilling and (not decoding or rng.random() < 0.5):
            self._prefill(rng.choice(prefilling), rng)
        elif decoding:
            self._decode(rng.sample(decoding, rng.randrange(1, len(decoding) + 1)))

    def _prefill(self, one: Running, rng: random.Random) -> None:
        left = len(one.part.prompt) - one.held
        whole = left // GRANULE
        n = GRANULE * rng.randrange(1, whole + 1) if whole else left
        tokens = array.array("i", one.part.prompt[one.held : one.held + n])
        last = n == left
        self._step(slices=(Prefill(one.seq, one.held, tokens, last),))
        one.held += n
        if last:
            self._note(one)

    def _decode(self, decoding: list[Running]) -> None:
        rows = [
            Row(one.seq, one.held, one.part.reply[one.held - len(one.part.prompt)])
            for one in decoding
        ]
        self._step(rows=tuple(rows))
        for one in decoding:
            one.held += 1
            self._note(one)

    def _note(self, one: Running) -> None:
        logits = self._engine._logits(self._engine._rows[one.seq])
        assert logits is not None
        one.logits.append(logits.tobytes())

    def _step(self, **parts: object) -> None:
        plan = StepPlan(number=next(self._numbers), **parts)  # type: ignore[arg-type]
        outcome = self._engine.step(plan)
        assert outcome.status == "done", outcome.detail
