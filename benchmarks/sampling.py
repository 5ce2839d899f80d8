"""What choosing a token costs, by setting, at vocabularies of 32,000 and 128,000 tokens.

Beside it llama.cpp's own chain for the same plan, fed with the same logits. Both choose from flat
logits, as a random model's: there every filter has the most to do. No model is needed; grammars are
followed over a made-up vocabulary of bytes, words of several scripts, some cut within a character,
and punctuation.

Each setting is timed one token after the other, and cold: with everything out of the processor's
caches, as it is after a decode has read a model's weights. The processor time of the thread counts:
what the machine does meanwhile for others is not the sampler's.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.harness import Figure, Options, Target, middle
from erllama.backend.llama.sampler import ChainSampler
from erllama.sampling import Grammar, SamplerPlan, SamplingParams, plan_sampler
from erllama.sampling.chain import Chain, Constraint
from erllama.sampling.constraint import GrammarConstraint, compile_grammar
from erllama.sampling.guided import Guide
from erllama.sampling.history import Breakers
from erllama.sampling.masks import Masks
from erllama.sampling.token_bytes import TokenBytes
from tests.backend.native_chain import native_chooser
from tests.sampling.grammars import JSON

NAME = "sampling"
TARGET = Target("below", 1_000.0)
HISTORY = 4_000  # tokens of context
EVICTING = 24 << 20  # floats to read, more than the caches hold

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 30},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "maxItems": 6},
        "place": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
        "note": {"type": "string"},
    },
    "required": ["name", "age", "tags", "place", "note"],
    "additionalProperties": False,
}
OFF: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "default": {},
    "temperature alone": OFF,
    "top_p alone": {**OFF, "top_p": 0.95},
    "min_p alone": {**OFF, "min_p": 0.05},
    "typical alone": {**OFF, "typical_p": 0.9},
    "xtc alone": {**OFF, "xtc_probability": 1.0, "xtc_threshold": 1e-6},
    "penalties of 64": {"repeat_penalty": 1.1, "frequency_penalty": 0.1},
    "penalties of all": {"repeat_penalty": 1.1, "frequency_penalty": 0.1, "repeat_last_n": -1},
    "dry": {"dry_multiplier": 0.8, "dry_sequence_breakers": []},
    "mirostat": {"mirostat": 1},
    "mirostat 2": {"mirostat": 2},
    "logprobs": {"logprobs": 5},
    "logit bias": {"logit_bias": dict.fromkeys(range(300), 1.0)},
    "all together": {
        **OFF,
        "logit_bias": {1: 1.0},
        "repeat_penalty": 1.1,
        "dry_multiplier": 0.8,
        "dry_sequence_breakers": [],
        "typical_p": 0.9,
        "top_p": 0.95,
        "min_p": 0.05,
        "xtc_probability": 1.0,
        "logprobs": 5,
    },
}

STRUCTURES = {
    "json grammar": Grammar(JSON),
    "words grammar": Grammar('root ::= line+\nline ::= [A-Z] [a-z]* (" " [^ \\n]+)* "\\n"'),
    "counting grammar": Grammar('root ::= "\\"" [^"\\\\]{0,200} "\\""'),
    "json schema": Grammar(json.dumps(SCHEMA), "json_schema"),
    "regex": Grammar("[a-z]{3,20}(-[0-9]{1,5}){2,8}( .*)?", "regex"),
}

SCRIPTS = ((0xE0, 0xFF), (0x430, 0x44F), (0x4E00, 0x9FFF), (0x1F600, 0x1F64F))


class MadeUpWords:
    """256 bytes, and random words and punctuation; the last token ends a text."""

    def __init__(self, size: int) -> None:
        self.size = size
        choose = random.Random(size)
        pieces = {bytes([byte]): None for byte in range(256)}
        while len(pieces) < size - 1:
            pieces[_word(choose)] = None
        self._tokens = TokenBytes([*pieces, b""])
        self._guide = Guide(self._tokens)
        self._prepared: dict[Grammar, Any] = {}

    def ending(self) -> Sequence[int]:
        return [self.size - 1]

    def breakers(self, texts: Sequence[str]) -> Breakers:
        return {}

    def prepare(self, stage: Grammar) -> None:
        """What is done on a worker before a request begins."""
        if stage.kind == "grammar":
            self._prepared[stage] = masks = Masks(compile_grammar(stage.text), self._tokens)
            masks.begin()
        else:
            self._prepared[stage] = self._guide.compiled(stage)

    def constraint(self, stage: Grammar) -> Constraint:
        if stage.kind == "grammar":
            return GrammarConstraint(self._prepared[stage], self.ending())
        return self._guide.constraint(stage, self._prepared[stage], self.ending())


def run(options: Options) -> list[Figure]:
    figures: list[Figure] = []
    for size in (2_000,) if options.quick else (32_000, 128_000):
        words = MadeUpWords(size)
        for name, setting in SETTINGS.items():
            plan = plan_sampler(SamplingParams(**setting))
            figures += _setting(f"{size:,}: {name}", plan, words, options)
        for name, stage in STRUCTURES.items():
            figures += _structure(f"{size:,}: {name}", stage, words, options)
    return figures


def _setting(name: str, plan: SamplerPlan, words: MadeUpWords, options: Options) -> list[Figure]:
    rng = np.random.default_rng(1)
    history = rng.integers(0, words.size, HISTORY).tolist()
    rows = [rng.standard_normal(words.size).astype(np.float32) for _ in range(4)]
    sampler = ChainSampler(Chain(plan, words, history), plan.logprobs)
    native = native_chooser(plan, words.size, history)
    ours, theirs, cold = [], [], []
    for turn in range(options.times(24, 2)):
        row = rows[turn % len(rows)]
        ours.append(_microseconds(sampler.sample, row, turn))
        theirs.append(_microseconds(native, row, turn))
    out_of_caches = np.ones(options.times(EVICTING, 1), np.float32)  # zeros would be one page
    for turn in range(options.times(16, 1)):
        out_of_caches.sum()
        cold.append(_microseconds(sampler.sample, rows[turn % len(rows)], turn))
    detail = {"llama_cpp_us": middle(theirs), "ratio": middle(ours) / middle(theirs)}
    return [
        Figure(NAME, name, middle(ours), "us/token", TARGET, dict(detail)),
        Figure(NAME, f"{name}, cold", middle(cold), "us/token", TARGET),
    ]


def _structure(name: str, stage: Grammar, words: MadeUpWords, options: Options) -> list[Figure]:
    """A random text: what places cost that were not met before, and those that were."""
    rng = np.random.default_rng(2)
    first, again = [], []
    started = time.process_time_ns()  # of all threads
    words.prepare(stage)
    preparing = (time.process_time_ns() - started) / 1e6
    constraint = words.constraint(stage)
    for _ in range(options.times(300, 5)):
        row = rng.standard_normal(words.size).astype(np.float32)
        first.append(_microseconds(constraint.apply, row))
        again.append(_microseconds(constraint.apply, row))
        token = int(row.argmax())
        if token == words.size - 1:
            constraint = words.constraint(stage)
        else:
            constraint.accept(token)
    mean = float(np.mean(first))
    return [
        Figure(NAME, f"{name}, mean", mean, "us/token", TARGET),
        Figure(NAME, f"{name}, worst", max(first), "us/token"),
        Figure(NAME, f"{name}, again", middle(again), "us/token", TARGET),
        Figure(NAME, f"{name}, preparing", preparing, "ms"),
    ]


def _microseconds(work: Callable[..., object], *arguments: object) -> float:
    """Of this thread's processor time: other processes do not count."""
    started = time.thread_time_ns()
    work(*arguments)
    return (time.thread_time_ns() - started) / 1e3


def _word(choose: random.Random) -> bytes:
    if choose.random() < 0.2:
        return _foreign(choose)
    if choose.random() < 0.1:
        return "".join(choose.choices('0123456789{}[]":,. \n\t', k=choose.randint(2, 6))).encode()
    letters = choose.choices(
        "etaoinshrdlucmfwypvbgkjqxz", range(26, 0, -1), k=choose.randint(2, 10)
    )
    return b" " * (choose.random() < 0.5) + "".join(letters).encode()


def _foreign(choose: random.Random) -> bytes:
    """A word of another script, perhaps without its last byte or its first one."""
    first, last = choose.choice(
        ((0xE0, 0xFF), (0x430, 0x44F), (0x4E00, 0x9FFF), (0x1F600, 0x1F64F))
    )
    word = "".join(chr(choose.randint(first, last)) for _ in range(choose.randint(1, 4))).encode()
    return word[choose.random() < 0.05 : len(word) - (choose.random() < 0.05)]
