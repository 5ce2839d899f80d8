"""Many clients of one model at once, who do at random whatever clients may do.

What each finished request was answered is kept, to be compared with what it is answered alone.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from erllama import Completion, Done, Model, SessionBusy, Stream, Text

T = TypeVar("T")

PREFIXES = 3
"""Beginnings of prompts that many requests share."""


@dataclass(frozen=True)
class Ask:
    """A request and what its client does with it.

    Attributes:
        options: what decides its text.
        more: what must not: priority, session, buffer.
        reads: events that its client reads before it rests; None: it reads all at once.
        rests: requests of others that it lets pass by then.
        leaves: events after which it goes away; None: it stays to the end.
        how: it goes away: `cancel`, `break` or `task`.
    """

    prompt: tuple[int, ...]
    options: dict[str, Any]
    more: dict[str, Any]
    reads: int | None
    rests: int
    leaves: int | None
    how: str


@dataclass
class Answered:
    """A request that came to its end, and what its reader saw."""

    ask: Ask
    done: Completion
    seen: str


@dataclass
class World:
    """What the clients have in common.

    Attributes:
        over: requests that ended, one way or another.
        at_work: clients that do not rest.
        busy: turns of a session that found another one running.
    """

    chance: random.Random
    model: Model
    n_vocab: int
    longest: int
    over: int = 0
    at_work: int = 0
    busy: int = 0
    answered: list[Answered] = field(default_factory=list)
    cancelled: list[Answered] = field(default_factory=list)
    turned: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def turn(self, *, over: int = 0, at_work: int = 0) -> None:
        """Something has happened that those who rest may have waited for."""
        async with self.turned:
            self.over += over
            self.at_work += at_work
            self.turned.notify_all()

    async def rest(self, n: int) -> None:
        """Wait until `n` more requests are over, or everybody rests."""
        end = self.over + n
        await self.turn(at_work=-1)
        try:
            async with self.turned:
                await self.turned.wait_for(lambda: self.over >= end or not self.at_work)
        finally:
            await self.turn(at_work=1)

    async def another_is_over(self) -> None:
        """Wait for the next request to end, or for all to."""
        end = self.over + 1
        async with self.turned:
            await self.turned.wait_for(lambda: self.over >= end or not self.at_work)

    def tokens(self, n: int, seed: object = None) -> tuple[int, ...]:
        """Token ids, none of them special."""
        chance = self.chance if seed is None else random.Random(str(seed))
        return tuple(chance.randrange(self.n_vocab // 4, self.n_vocab * 7 // 8) for _ in range(n))

    def ask(self, context: tuple[int, ...] = (), session: str | None = None) -> Ask:
        """A request at random; the next turn of a session begins with `context`."""
        chance = self.chance
        n = chance.choice([1, 3, 9, 30])
        prompt = context
        if not prompt and chance.random() < 0.6:
            prompt = self.tokens(self.longest // 2, chance.randrange(PREFIXES))
            prompt = prompt[: chance.randrange(64, self.longest // 2)]
        prompt = (*prompt, *self.tokens(chance.choice([1, 5, 40, 90])))
        if len(prompt) + n > self.longest:
            prompt = prompt[: self.longest - n - 1 - chance.randrange(100)]
        options: dict[str, Any] = {"max_tokens": n}
        options |= chance.choice(
            [
                {"temperature": 0},
                {"temperature": 0, "repeat_penalty": 1.3},
                {"temperature": 1.0, "seed": chance.randrange(1_000)},
                {"temperature": 0.7, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 5},
            ]
        )
        if chance.random() < 0.3:
            options["stop"] = chance.sample(["e", " a", "th", "on ", "s t", "\n", "..", "A"], 3)
        stays = chance.random() < 0.75
        return Ask(
            prompt=prompt,
            options=options,
            more={
                "priority": chance.choice(["low", "normal", "normal", "high"]),
                "stream_buffer": chance.choice([1, 2, 8, 256]),
                "session_id": session,
            },
            reads=chance.choice([None, None, 0, 2]),
            rests=chance.randrange(1, 4),
            leaves=None if stays else chance.randrange(8),
            how=chance.choice(["cancel", "break", "task"]),
        )


async def client(world: World, name: str, n: int) -> None:
    """`n` requests one after another; some of them are turns of a session."""
    await world.turn(at_work=1)
    session = f"session {name}" if world.chance.random() < 0.5 else None
    context: tuple[int, ...] = ()
    for _ in range(n):
        ask = world.ask(context, session)
        done = await once_it_is_free(partial(carry_out, world, ask))
        await world.turn(over=1)
        context = tuple(done.context_tokens) if session and done is not None else ()
        for _ in range(world.chance.randrange(20)):
            await asyncio.sleep(0)
    if session is not None:
        await once_it_is_free(partial(world.model.end_session, session))
    await world.turn(at_work=-1)


async def once_it_is_free(work: Callable[[], Awaitable[T]]) -> T:
    """Do it when the session's request that was cancelled a moment ago has ended."""
    while True:
        try:
            return await work()
        except SessionBusy:
            await asyncio.sleep(0)


async def operator(world: World) -> None:
    """Does beside the clients what those do who run a model."""
    model, chance = world.model, world.chance
    while world.at_work:
        await world.another_is_over()
        what = chance.randrange(5)
        if what == 0:
            await model.evict()
        elif what == 1:
            await model.prefill(world.tokens(70, chance.randrange(PREFIXES)))
        elif what == 2:
            prompt = world.tokens(40)
            drafted = await model.draft(prompt, 3)
            verified = await model.verify(prompt, drafted)
            # a slice and a row are computed by other kernels: of two that are near, either may be
            assert 0 <= verified.accepted <= len(drafted)
        elif what == 3:
            try:
                await model.end_session("session 0")
            except SessionBusy:
                world.busy += 1
        model.status()


async def carry_out(world: World, ask: Ask) -> Completion | None:
    """Ask, read as this client does, and keep the answer; None: it went away without one."""
    if ask.leaves is not None and ask.how == "task":
        task = asyncio.create_task(world.model.complete(ask.prompt, **ask.options, **ask.more))
        for _ in range(ask.leaves * 8):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return None if task.cancelled() else task.result()
    stream = world.model.stream(ask.prompt, **ask.options, **ask.more)
    async with stream:
        return await read(world, ask, stream)


async def read(world: World, ask: Ask, stream: Stream) -> Completion | None:
    seen: list[str] = []
    n = 0
    async for event in stream:
        if isinstance(event, Done):
            world.answered.append(Answered(ask, event.completion, "".join(seen)))
            return event.completion
        seen += [event.text] if isinstance(event, Text) else []
        n += 1
        if n == ask.leaves and ask.how == "break":
            return None
        if n == ask.leaves:
            done = await stream.cancel()
            world.cancelled.append(Answered(ask, done, done.text))
            return done
        if n == ask.reads:
            await world.rest(ask.rests)
    raise AssertionError("a stream without an end")


async def run(world: World, *, clients: int, requests: int, patience_s: float) -> None:
    """All clients at once, to their ends."""
    async with asyncio.timeout(patience_s), asyncio.TaskGroup() as group:
        for name in range(clients):
            group.create_task(client(world, str(name), requests))
        await world.turn()
        group.create_task(operator(world))


async def compare(
    answered: list[Answered], model: Model, check: Callable[[Answered, Completion], None]
) -> None:
    """Each was answered what `model` answers with nothing beside it and nothing in its cache."""
    for one in answered:
        alone = await model.complete(one.ask.prompt, **one.ask.options)
        assert alone.cache.read == 0
        check(one, alone)
