"""The web application: in this process, and behind a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

import erllama
from examples import starlette_app
from examples.starlette_app import MODEL, create_app, server_sent

LIMIT_S = 60.0


@pytest.fixture
def plain() -> httpx.AsyncHTTPTransport:
    """Plain HTTP. Made before the loop runs: it imports much, and so does the server."""
    importlib.import_module("uvicorn.protocols.http.h11_impl")
    # without the certificates of the world, which take long to read
    return httpx.AsyncHTTPTransport(verify=False, trust_env=False)


@pytest.fixture
async def client(model_file: Path) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(str(model_file))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://app", timeout=LIMIT_S
        ) as client,
    ):
        yield client


async def test_complete_answers_with_the_completion(client: httpx.AsyncClient) -> None:
    body = {"prompt": "Once upon a time", "max_tokens": 6, "seed": 1}
    response = await client.post("/complete", json=body)
    assert response.status_code == 200
    completion = response.json()
    assert len(completion["tokens"]) == completion["usage"]["completion_tokens"] == 6
    assert (await client.post("/complete", json=body)).json()["text"] == completion["text"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"prompt": ""}, "prompt: is empty"),
        ({"prompt": "a", "temperature": -1}, "temperature"),
        ({"prompt": "a", "max_token": 1}, "did you mean 'max_tokens'"),
        ({"max_tokens": 1}, "prompt"),
        (["a"], "prompt"),
        (None, "prompt"),
    ],
)
async def test_a_wrong_request_gets_400_and_the_reason(
    body: Any, reason: str, client: httpx.AsyncClient
) -> None:
    response = await client.post("/complete", content="{" if body is None else json.dumps(body))
    assert response.status_code == 400
    assert reason in response.json()["error"]


async def test_stream_sends_events_and_the_completion_last(client: httpx.AsyncClient) -> None:
    response = await client.get("/stream", params={"prompt": "Once", "max_tokens": "5"})
    assert response.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(part.removeprefix("data: ")) for part in response.text.split("\n\n")[:-1]]
    assert {event["type"] for event in events[:-1]} == {"Text"}
    assert len(events[-1]["completion"]["tokens"]) == 5


async def test_stream_refuses_what_it_cannot_use(client: httpx.AsyncClient) -> None:
    for parameters in ({"prompt": "", "max_tokens": "5"}, {"prompt": "a", "max_tokens": "x"}):
        response = await client.get("/stream", params=parameters)
        assert response.status_code == 400


async def test_status_shows_the_tree_and_the_model(client: httpx.AsyncClient) -> None:
    status = (await client.get("/status")).json()
    assert [child["id"] for child in status["tree"]["children"]] == ["lane", "cache", "models"]
    assert [(model["id"], model["phase"]) for model in status["models"]] == [(MODEL, "idle")]


async def test_a_client_that_goes_away_in_mid_stream_ends_its_request(
    model_file: Path, plain: httpx.AsyncHTTPTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams: list[erllama.Stream] = []

    def watched(events: erllama.Stream) -> AsyncIterator[bytes]:
        streams.append(events)
        return server_sent(events)

    monkeypatch.setattr(starlette_app, "server_sent", watched)
    app = create_app(str(model_file))
    async with (
        serving(app) as url,
        httpx.AsyncClient(base_url=url, timeout=LIMIT_S, transport=plain) as client,
    ):
        async with client.stream("GET", "/stream", params={"prompt": "Once"}) as response:
            await anext(response.aiter_lines())
            assert app.state.runtime.model(MODEL).status().phase == "running"
        completion = await streams[0].result()
        assert completion.finish_reason == "cancelled"
        (state,) = (await client.get("/status")).json()["models"]
    assert (state["phase"], state["active"], state["pending"]) == ("idle", 0, 0)


@contextlib.asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    """`app` on a real socket of this machine; who connects before it is up waits."""
    config = uvicorn.Config(app, log_level="warning", lifespan="on", http="h11", ws="none")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        running = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await running
