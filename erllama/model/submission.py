"""A request that was handed to a model's actor."""

from __future__ import annotations

import asyncio
import contextlib

from erllama.actor import Ref
from erllama.errors import (
    ActorDied,
    EngineCrashed,
    ErllamaError,
    MailboxFull,
    ModelNotFound,
    QueueFull,
)
from erllama.model.job import Job
from erllama.model.messages import Cancel, Submit
from erllama.types import Completion


class Submission:
    """The caller's side of a submitted job.

    Raises:
        QueueFull: the actor's mailbox takes no more.
        EngineCrashed: the actor is dead.
    """

    def __init__(self, ref: Ref, job: Job) -> None:
        self._loop = asyncio.get_running_loop()
        self._ref = ref
        self._job = job
        try:
            self.reply: asyncio.Future[Completion] = ref.call_nowait(Submit(job))
        except MailboxFull as full:
            raise QueueFull(f"{full}; try again later", retry_after=1.0) from None
        except ActorDied as died:
            raise crashed(died) from died

    async def result(self) -> Completion:
        """The completion. Cancelling this ends the request."""
        try:
            return await asyncio.shield(self.reply)
        except asyncio.CancelledError:
            self.cancel()
            raise
        except ActorDied as died:
            raise crashed(died) from died

    def cancel(self) -> None:
        """End the request; it answers with what it has."""
        if not self.reply.done():
            self._ref.urgent(Cancel(self._job))

    def cancel_soon(self) -> None:
        """`cancel` from any thread, such as one that collects garbage."""
        if not self.reply.done():
            with contextlib.suppress(RuntimeError):  # the loop is closed, and all is over
                self._loop.call_soon_threadsafe(self.cancel)


def crashed(died: ActorDied) -> ErllamaError:
    """What a caller is told when the actor that held its request ended."""
    if died.reason in ("shutdown", "normal"):
        return ModelNotFound("the model was unloaded before it came to this request")
    if isinstance(died.reason, ErllamaError) and not isinstance(died.reason, ActorDied):
        return EngineCrashed(str(died.reason))
    return EngineCrashed(f"the model's actor ended with this request: {died.reason!r}")
