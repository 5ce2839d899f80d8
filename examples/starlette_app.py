"""A small web application: `python examples/starlette_app.py [MODEL]`.

    curl localhost:8000/complete -d '{"prompt": "Once upon a time", "max_tokens": 32}'
    curl -N 'localhost:8000/stream?prompt=Once+upon+a+time'
    curl localhost:8000/status

A client that goes away in mid-stream ends its request.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

import erllama

MODEL = "model"


def create_app(path: str) -> Starlette:
    """The application; the model at `path` is loaded while it lives."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with erllama.Runtime() as runtime:
            await runtime.load_model(path, model_id=MODEL)
            app.state.runtime = runtime
            yield

    return Starlette(
        lifespan=lifespan,
        routes=[
            Route("/complete", complete, methods=["POST"]),
            Route("/stream", stream),
            Route("/status", status),
        ],
        exception_handlers={erllama.ErllamaError: refuse},
    )


async def complete(request: Request) -> Response:
    """POST {"prompt": ..., "max_tokens": ..., ...}: the completion."""
    try:
        options = await request.json()
        prompt = options.pop("prompt")
        completion = await model_of(request).complete(prompt, **options)
    except (json.JSONDecodeError, AttributeError, KeyError, TypeError) as wrong:
        return JSONResponse({"error": f"expected JSON with a prompt: {wrong}"}, status_code=400)
    return as_json(completion)


async def stream(request: Request) -> Response:
    """GET ?prompt=...&max_tokens=...: server-sent events, the last one with the completion."""
    limit = request.query_params.get("max_tokens")
    if limit is not None and not limit.isdecimal():
        return JSONResponse({"error": "max_tokens: expected a number"}, status_code=400)
    events = model_of(request).stream(
        request.query_params.get("prompt", ""), max_tokens=int(limit) if limit else None
    )
    return StreamingResponse(server_sent(events), media_type="text/event-stream")


async def status(request: Request) -> Response:
    """GET: the supervision tree, the model and the compute thread."""
    return as_json(request.app.state.runtime.status())


async def server_sent(events: erllama.Stream) -> AsyncIterator[bytes]:
    # Starlette cancels this when the client goes away; leaving the block ends the request.
    async with events:
        async for event in events:
            yield b"data: " + msgspec.json.encode(event) + b"\n\n"


async def refuse(request: Request, error: Exception) -> Response:
    """An error of erllama as a response."""
    headers: dict[str, str] = {}
    match error:
        case erllama.RequestError():
            code = 400
        case erllama.QueueFull():
            code, headers["Retry-After"] = 503, str(round(error.retry_after) or 1)
        case _:
            code = 500
    return JSONResponse({"error": str(error)}, status_code=code, headers=headers)


def model_of(request: Request) -> erllama.Model:
    runtime: erllama.Runtime = request.app.state.runtime
    return runtime.model(MODEL)


def as_json(value: Any) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


if __name__ == "__main__":
    model_path = sys.argv[1] if len(sys.argv) > 1 else str(erllama.bundled_model())
    uvicorn.run(create_app(model_path), port=8000)
