"""Eight streams of eight settings against eight greedy ones.

One process does both in turns, on prompts that it never saw; the time runs from the call to the
last token of the last stream. No stream ends early: what ends a text is banned, and the structures
go on for ever.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from benchmarks.child import Answer, Config, Order, Orders, stream_prompts
from benchmarks.harness import Figure, Options, Side, Target, in_turns, middle
from benchmarks.models import BenchModel

NAME = "mixed_settings"
TARGET = Target("at least", 0.95)
N_CTX = 512
PROMPT = 64
COUNT = 64
GRAMMAR = r"""
root ::= "[" ws (item "," ws)+
item ::= "\"" [^"\\]* "\"" | [0-9]+
ws   ::= " "?
"""
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "top_p": {"top_k": 0, "top_p": 0.9, "min_p": 0.0},
    "mirostat": {"mirostat": 2},
    "grammar": {"grammar": GRAMMAR},
    "json_schema": {"json_schema": {"type": "array", "items": {"type": "string"}, "minItems": 999}},
    "regex": {"regex": "([a-zA-Z]{2,9}[,.]? )+[0-9]{999}"},
    "logit_bias": {"logit_bias": dict.fromkeys(range(300), 1.0), "frequency_penalty": 0.2},
    "logprobs": {"logprobs": 5, "repeat_penalty": 1.1},
}


def run(options: Options) -> list[Figure]:
    return [_figure(model, _measure(options, model)) for model in options.models]


def _measure(options: Options, model: BenchModel) -> list[dict[str, float]]:
    """The seconds of both, turn by turn."""
    order = {"n": len(SETTINGS), "prompt": PROMPT, "count": options.times(COUNT, 8)}
    turns: list[dict[str, float]] = []
    for round_ in range(options.rounds_or(3)):
        config = {"path": str(model.path), "n_ctx": min(model.n_ctx, N_CTX)}
        with Side(f"{__name__}:erllama_side", config) as side:
            for turn, names in in_turns(("mixed", "greedy"), options.times(9, 2)):
                got: dict[str, float] = {}
                for number, name in enumerate(names):
                    seed = 1_000_003 * (100 * round_ + 2 * turn + number)
                    got[name] = side.ask(**order, settings=name, seed=seed)["seconds"]
                if turn > 0:  # grammars are compiled in the first
                    turns.append(got)
    return turns


def _figure(model: BenchModel, turns: list[dict[str, float]]) -> Figure:
    ratios = [turn["greedy"] / turn["mixed"] for turn in turns]
    detail: dict[str, Any] = {
        f"{name}_s": middle([turn[name] for turn in turns]) for name in ("mixed", "greedy")
    }
    detail |= {"turns": len(ratios), "spread": [min(ratios), max(ratios)]}
    name = f"{model.name}: 8 streams, mixed/greedy settings"
    return Figure(NAME, name, middle(ratios), "of rate", TARGET, detail)


def erllama_side(orders: Orders, config: Config) -> None:
    """Child: eight streams at once, of the settings that each order names."""
    asyncio.run(_erllama_side(orders, config))


async def _erllama_side(orders: Orders, config: Config) -> None:
    import erllama

    async with erllama.load(
        config["path"], n_ctx=config["n_ctx"], n_seq_max=len(SETTINGS), flash_attn=True
    ) as model:
        n_vocab = model.info().n_vocab
        orders.answer({"n_vocab": n_vocab})
        while (order := await asyncio.to_thread(orders.next)) is not None:
            orders.answer(await _all(model, order, n_vocab))


async def _all(model: Any, order: Order, n_vocab: int) -> Answer:
    prompts = stream_prompts(order, n_vocab)
    mixed = order["settings"] == "mixed"
    settings = SETTINGS.values() if mixed else [SETTINGS["greedy"]] * len(prompts)
    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for prompt, setting in zip(prompts, settings, strict=True):
            group.create_task(_read(model, prompt, order["count"], setting))
    return {"seconds": time.perf_counter() - started}


async def _read(model: Any, prompt: list[int], count: int, setting: dict[str, Any]) -> None:
    stream = model.stream(prompt, max_tokens=count, ignore_eos=True, **setting)
    async for _ in stream:
        pass
    tokens = (await stream.result()).tokens
    assert len(tokens) == count, (setting, len(tokens))
