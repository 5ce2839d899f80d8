"""The peer: llama-server, asked over HTTP by a client that is as light as can be.

The client only notes when which bytes came and reads them after the end, lest it take the
processor from the server. Both talk over a Unix socket.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import itertools
import json
import os
import pathlib
import re
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from benchmarks.child import (
    Answer,
    Config,
    Order,
    Orders,
    agent_prompts,
    longest_gap,
    random_prompt,
    stream_prompts,
)

START_S = 60.0
_EVENT = re.compile(rb"data: (\{[^\n]*\})\n")
_TOKEN = b'"stop":false'


class Reply(asyncio.Protocol):
    """One request and the answer to it, as it comes."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._pieces: list[bytes] = []
        self._times: list[float] = []
        self._came = asyncio.Event()
        self._transport: asyncio.Transport | None = None
        self.tokens = 0
        self.over = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._times.append(time.perf_counter())
        self._pieces.append(data)
        self.tokens += data.count(_TOKEN)
        self._came.set()

    def connection_lost(self, _error: Exception | None) -> None:
        self.over = True
        self._came.set()

    async def reach(self, tokens: int) -> None:
        """Wait until so many tokens came, or the end."""
        while self.tokens < tokens and not self.over:
            self._came.clear()
            await self._came.wait()

    async def end(self) -> None:
        """Wait for the end."""
        while not self.over:
            self._came.clear()
            await self._came.wait()

    def cancel(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.abort()

    @property
    def body(self) -> bytes:
        """What came."""
        return b"".join(self._pieces)

    def events(self) -> list[tuple[float, Any]]:
        """The events, and when each was whole."""
        ends = list(itertools.accumulate(map(len, self._pieces)))
        return [
            (self._times[bisect.bisect_left(ends, found.end())], json.loads(found[1]))
            for found in _EVENT.finditer(self.body)
        ]

    def token_times(self) -> list[float]:
        """When each token came."""
        return [at for at, event in self.events() if not event["stop"]]

    def done(self) -> tuple[float, int]:
        """When the end came, and how many tokens there were: some have no event of their own."""
        at, event = self.events()[-1]
        return at, int(event["tokens_predicted"]) if event["stop"] else 0


class Server:
    """A running llama-server."""

    def __init__(self, socket: str) -> None:
        self._socket = socket

    async def complete(self, prompt: Sequence[int], count: int) -> Reply:
        """Send a prompt; the answer is greedy, streamed, `count` tokens long."""
        body = json.dumps(
            {
                "prompt": prompt,
                "n_predict": count,
                "temperature": 0,
                "ignore_eos": True,
                "stream": True,
            }
        ).encode()
        return await self._send(b"POST /completion", body)

    async def n_vocab(self) -> int:
        """The size of the vocabulary."""
        reply = await self._send(b"GET /v1/models")
        await reply.end()
        found = re.search(rb'"n_vocab":\s*(\d+)', reply.body)
        assert found, reply.body
        return int(found[1])

    async def ready(self) -> None:
        """Wait until the model is loaded."""
        while True:
            with contextlib.suppress(OSError):
                reply = await self._send(b"GET /health")
                await reply.end()
                if b" 200 " in reply.body[:20]:
                    return
            await asyncio.sleep(0.1)

    async def _send(self, line: bytes, body: bytes = b"") -> Reply:
        head = b"%b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" % line
        kind = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        reply = Reply(head + kind + body)
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: reply, self._socket)
        return reply


@contextlib.asynccontextmanager
async def running(config: Config) -> AsyncIterator[Server]:
    """llama-server on a model, `n_seq` slots of `n_ctx` tokens, one thread per core."""
    with tempfile.TemporaryDirectory() as folder:
        socket = str(pathlib.Path(folder) / "s.sock")
        options = {
            "-m": config["path"],
            "-np": config["n_seq"],
            "-c": config["n_ctx"] * config["n_seq"],
            "-fa": "on",
            "-t": len(os.sched_getaffinity(0)),
            "--host": socket,
        }
        arguments = [str(part) for option in options.items() for part in option]
        process = await asyncio.create_subprocess_exec(
            config["server"], *arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            server = Server(socket)
            async with asyncio.timeout(START_S):
                await server.ready()
            yield server
        finally:
            process.terminate()
            await process.wait()


def side(orders: Orders, config: Config) -> None:
    """Child: does what each order names."""
    asyncio.run(_side(orders, config))


async def _side(orders: Orders, config: Config) -> None:
    async with running(config) as server:
        n_vocab = await server.n_vocab()
        orders.answer({"n_vocab": n_vocab})
        while (order := await asyncio.to_thread(orders.next)) is not None:
            orders.answer(await _TASKS[order["task"]](server, order, n_vocab))


async def _streams(server: Server, order: Order, n_vocab: int) -> Answer:
    return await _all(server, stream_prompts(order, n_vocab), order["count"])


async def _agents(server: Server, order: Order, n_vocab: int) -> Answer:
    return await _all(server, agent_prompts(order, n_vocab), order["count"])


async def _all(server: Server, prompts: Sequence[Sequence[int]], count: int) -> Answer:
    """All prompts at once; the seconds until the last token of the last."""
    started = time.perf_counter()
    replies = await asyncio.gather(*(server.complete(prompt, count) for prompt in prompts))
    for reply in replies:
        await reply.end()
    ended, tokens = zip(*(reply.done() for reply in replies), strict=True)
    assert set(tokens) == {count}, tokens
    return {"seconds": max(ended) - started}


async def _stall(server: Server, order: Order, n_vocab: int) -> Answer:
    """A long prompt beside a stream, and one alone; see `benchmarks.stall`."""
    alone, running, long = (
        random_prompt(order[length], order["seed"] + number, n_vocab)
        for number, length in enumerate(("prompt", "short", "prompt"))
    )
    first_alone = await _first(server, alone)
    stream = await server.complete(running, order["count"])
    await stream.reach(order["before"])
    started = time.perf_counter()
    first = await _first(server, long)
    await stream.reach(stream.tokens + 1)
    over = stream.over
    stream.cancel()
    await stream.end()
    gap = longest_gap(stream.token_times(), started, started + first)
    return {"gap": gap, "first": first, "alone": first_alone, "over": over}


async def _first(server: Server, prompt: Sequence[int]) -> float:
    """Seconds until the first token."""
    started = time.perf_counter()
    reply = await server.complete(prompt, 1)
    await reply.end()
    return reply.events()[0][0] - started


_TASKS = {"streams": _streams, "agents": _agents, "stall": _stall}
