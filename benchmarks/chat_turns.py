"""A chat of 20 turns: the time to the first token of each, which the cache is to keep flat.

Each turn adds a message of the user and a reply to the chat and hands over all of it, as programs
do. Three chats of the same messages take turns in one process. `cached` finds the earlier turns in
the cache, `in place` in its session's sequence: what that takes more, later on, is the attention
over a longer context, which nothing can spare. `cold` finds nothing, as each of its turns has a
salt of its own, and computes all of the chat; it is asked in the last third only.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

from benchmarks.child import Answer, Config, Order, Orders
from benchmarks.harness import Figure, Options, Side, Target, in_turns, middle
from benchmarks.models import BenchModel

NAME = "chat_turns"
FLAT = Target("below", 1.25)
TURNS = 20
WORDS = 16  # of a user's message
REPLY = 16  # tokens
N_CTX = 4_096
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
CHATS = ("cached", "in place", "cold")

Times = dict[str, list[float]]
Messages = list[dict[str, str]]


def run(options: Options) -> list[Figure]:
    return [
        figure for model in options.models for figure in _figures(model, _measure(options, model))
    ]


def _measure(options: Options, model: BenchModel) -> list[Times]:
    """Milliseconds to the first token, turn by turn; of each chat."""
    turns = options.times(TURNS, 3)
    chats: list[Times] = []
    for round_ in range(options.rounds_or(3)):
        n_ctx = min(model.n_ctx, N_CTX)
        short = n_ctx < 2_048
        order = {"words": 2 if short else WORDS, "reply": 4 if short else REPLY, "seed": round_}
        times: Times = {name: [] for name in CHATS}
        with Side(f"{__name__}:erllama_side", {"path": str(model.path), "n_ctx": n_ctx}) as side:
            for turn, names in in_turns(CHATS, turns):
                for name in names:
                    if name != "cold" or turn >= turns - turns // 3:
                        answer = side.ask(**order, turn=turn, chat=name)
                        assert (answer["hit"] == "cold") == (name == "cold" or not turn), answer
                        times[name].append(answer["ms"])
        chats.append(times)
    return chats


def _figures(model: BenchModel, chats: list[Times]) -> list[Figure]:
    third = max(len(chats[0]["cached"]) // 3, 1)
    growth = [_growth(chat["cached"], third) for chat in chats]
    kept = [_growth(chat["in place"], third) for chat in chats]
    last = {name: middle([ms for chat in chats for ms in chat[name][-third:]]) for name in CHATS}
    detail: dict[str, Any] = {
        "first_ms": middle([ms for chat in chats for ms in chat["cached"][1 : third + 1]]),
        "last_ms": last["cached"],
        "in_place": middle(kept),
        "chats": len(chats),
    }
    return [
        Figure(
            NAME,
            f"{model.name}: first token, last third/first",
            middle(growth),
            "times",
            FLAT,
            detail,
        ),
        Figure(
            NAME,
            f"{model.name}: the same, beside a chat in place",
            middle([one / other for one, other in zip(growth, kept, strict=True)]),
            "times",
            FLAT,
        ),
        Figure(
            NAME,
            f"{model.name}: last third, without cache/with",
            last["cold"] / last["cached"],
            "times",
            None,
            {"cold_ms": last["cold"], "in_place_ms": last["in place"]},
        ),
    ]


def _growth(times: list[float], third: int) -> float:
    """Of the last turns over the first; the very first has no chat before it."""
    return middle(times[-third:]) / middle(times[1 : third + 1])


def erllama_side(orders: Orders, config: Config) -> None:
    """Child: one chat, a turn an order."""
    asyncio.run(_erllama_side(orders, config))


async def _erllama_side(orders: Orders, config: Config) -> None:
    import erllama

    async with erllama.load(
        config["path"], n_ctx=config["n_ctx"], n_seq_max=2, chat_template=TEMPLATE
    ) as model:
        said: dict[str, Messages] = {"cached": [], "in place": []}
        said["cold"] = said["cached"]  # the same prompts
        chats = {name: _Chat(model, name, said[name]) for name in CHATS}
        orders.answer({})
        while (order := await asyncio.to_thread(orders.next)) is not None:
            orders.answer(await chats[order["chat"]].turn(order))


class _Chat:
    """One chat; all have the same messages of the user."""

    def __init__(self, model: Any, name: str, said: Messages) -> None:
        self._model = model
        self._name = name
        self._said = said

    async def turn(self, order: Order) -> Answer:
        before = self._said[: 2 * order["turn"]]
        question = {"role": "user", "content": _words(order)}
        done = await self._model.chat(
            [*before, question],
            max_tokens=order["reply"],
            temperature=0,
            ignore_eos=True,
            **self._options(order["turn"]),
        )
        if self._name != "cold":
            self._said += [question, {"role": "assistant", "content": done.text}]
        return {"ms": done.timings.ttft_ms, "hit": done.cache.hit}

    def _options(self, turn: int) -> dict[str, str]:
        if self._name == "in place":
            return {"session_id": "chat", "cache_salt": "in place"}
        return {"cache_salt": f"cold {turn}" if self._name == "cold" else ""}


def _words(order: Order) -> str:
    choose = random.Random(1_000 * order["seed"] + order["turn"])
    return " ".join(choose.choice(_WORDS) for _ in range(order["words"]))


_WORDS = ("time", "year", "people", "way", "day", "man", "thing", "life", "child", "world", "state")
