"""One reply: streamed, shown, and stopped by the first Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from erllama.cli.interrupts import Interrupts
from erllama.cli.output import Replies
from erllama.cli.progress import Report
from erllama.errors import ErllamaError
from erllama.model.chat import Messages
from erllama.model.handle import Model
from erllama.model.stream import Stream
from erllama.sampling import SamplingParams
from erllama.types import Completion, PrefillProgress, Text, ThinkingDelta, ToolCallDelta


class Replier:
    """Lets a model reply.

    Args:
        sampling, max_tokens: as in a request.
    """

    def __init__(
        self,
        model: Model,
        *,
        sampling: SamplingParams,
        max_tokens: int | None,
        replies: Replies,
        report: Report,
        interrupts: Interrupts,
    ) -> None:
        self._model = model
        self._options: dict[str, Any] = {
            "sampling": sampling,
            "max_tokens": max_tokens,
            "prefill_progress": True,
        }
        self._replies = replies
        self._report = report
        self._interrupts = interrupts

    async def reply(self, prompt: str) -> Completion:
        """Continue `prompt`; after a Ctrl-C the completion is "cancelled" and has what came.

        Raises:
            ErllamaError: see `Model.complete`.
            OutputClosed: nobody reads it.
        """
        return await self._follow(self._model.stream(prompt, **self._options))

    async def answer(self, messages: Messages, *, thinking: bool | None) -> Completion:
        """Go on with a chat, as `reply` with a text."""
        return await self._follow(
            self._model.stream_chat(messages, thinking=thinking, **self._options)
        )

    async def _follow(self, stream: Stream) -> Completion:
        stops: list[asyncio.Task[None]] = []  # held, lest they be collected
        with self._interrupts.first(lambda: stops.append(asyncio.create_task(_stop(stream)))):
            try:
                await self._show(stream)
            finally:
                self._report.clear()
            completion = await stream.result()
            await self._replies.end()
            return completion

    async def _show(self, stream: Stream) -> None:
        async with stream:
            async for event in stream:
                match event:
                    case PrefillProgress(done, total) if done < total:
                        self._report.show("reading the prompt", done / total)
                    case Text() | ThinkingDelta() | ToolCallDelta():
                        self._report.clear()
                await self._replies.show(event)


async def _stop(stream: Stream) -> None:
    with contextlib.suppress(ErllamaError):  # whoever reads the stream is told
        await stream.cancel()
