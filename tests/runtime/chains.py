"""Random sampler chains, and a process that carries them a piece further."""

from __future__ import annotations

import asyncio
import random
from typing import Any, TypedDict

import erllama
from erllama import CachePolicy, Model, Runtime

GRAMMARS = (
    r'root ::= ([a-z]{3} " " [0-9]{2} "\n")+',
    r'root ::= ("<" word ">")+' + "\n" + "word ::= [a-z ]{2,9}",
    'root ::= "[" item ("," item)*\nitem ::= [0-9]{4} | "[" item "]" | "\\"" [^"]{5} "\\""',
)
STRUCTURES: tuple[dict[str, Any], ...] = (
    *({"grammar": grammar} for grammar in GRAMMARS),
    {"regex": "([a-z]{3}-[0-9]{2},)+"},
    {"json_schema": {"type": "array", "minItems": 60, "items": {"enum": ["cat", "dog", 712]}}},
)


class Said(TypedDict):
    """What a chain has so far: its context, and the key of its last piece."""

    context: list[int]
    key: str | None


class Chain(TypedDict):
    """A request, and how many tokens each of its pieces has."""

    name: str
    prompt: list[int]
    options: dict[str, Any]
    pieces: list[int]


def random_chain(number: int, n_pieces: int, n_vocab: int) -> Chain:
    """The same for the same arguments."""
    source = random.Random(number)
    prompt = [source.randrange(n_vocab // 4, n_vocab // 2) for _ in range(source.randint(1, 150))]
    cuts = sorted(source.sample(range(1, 36), n_pieces - 1))
    if number % 3 == 0:
        cuts[0] = 1  # a piece whose rows are the prompt's alone
        cuts = sorted({1, *cuts[1:], 40 - len(cuts)})[: n_pieces - 1]
    ends = [*cuts, 44]
    pieces = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    return Chain(name=str(number), prompt=prompt, options=_options(number, source), pieces=pieces)


def _options(number: int, source: random.Random) -> dict[str, Any]:
    def maybe(share: float, value: Any, otherwise: Any) -> Any:
        return value if source.random() < share else otherwise

    options = {
        "seed": source.randrange(2**40),
        "temperature": maybe(0.1, 0.0, source.uniform(0.6, 1.8)),
        "mirostat": number % 3,  # 0: by the filters
        "mirostat_tau": source.uniform(2, 7),
        "mirostat_eta": source.uniform(0.05, 0.6),
        "top_k": maybe(0.5, source.randint(5, 60), 0),
        "typical_p": maybe(0.3, source.uniform(0.4, 0.95), 1.0),
        "top_p": maybe(0.5, source.uniform(0.5, 0.99), 1.0),
        "min_p": maybe(0.5, source.uniform(0.0, 0.1), 0.0),
        "xtc_probability": maybe(0.5, source.uniform(0.3, 1.0), 0.0),
        "xtc_threshold": source.uniform(0.02, 0.2),
        "repeat_penalty": maybe(0.5, source.uniform(1.0, 1.5), 1.0),
        "repeat_last_n": maybe(0.5, -1, source.randint(1, 80)),
        "frequency_penalty": maybe(0.3, source.uniform(-0.5, 1.0), 0.0),
        "presence_penalty": maybe(0.3, source.uniform(-0.5, 1.0), 0.0),
        "dry_multiplier": maybe(0.5, source.uniform(0.5, 3.0), 0.0),
        "dry_allowed_length": source.randint(1, 3),
        "logit_bias": maybe(0.3, {source.randrange(400): 3.0, source.randrange(400): -3.0}, {}),
        "ignore_eos": True,
        "logprobs": maybe(0.2, 2, None),
    }
    if number % 2:
        options |= STRUCTURES[number // 2 % len(STRUCTURES)]
    return options


def carry_on(cache_dir: str, chains: list[Chain], piece: int, said: list[Said]) -> list[Said]:
    """Another piece of each chain; of number -1: all of it at once, apart from the others."""

    async def main() -> list[Said]:
        async with Runtime(cache_dir=cache_dir) as runtime:
            model = await runtime.load_model(
                erllama.bundled_model(),
                context=erllama.ContextConfig(n_ctx=512, n_threads=1),
                policy=CachePolicy(min_tokens=1),
            )
            return [
                await _piece(model, chain, piece, before)
                for chain, before in zip(chains, said, strict=True)
            ]

    return asyncio.run(main())


async def _piece(model: Model, chain: Chain, piece: int, said: Said) -> Said:
    done = await model.complete(
        said["context"],
        parent_key=said["key"],
        max_tokens=sum(chain["pieces"]) if piece < 0 else chain["pieces"][piece],
        cache_salt=f"{chain['name']} {'whole' if piece < 0 else 'cut'}",
        **chain["options"],
    )
    return Said(context=list(done.context_tokens), key=done.finish_key)
